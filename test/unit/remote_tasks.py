"""Runs tasks of remote code as NERSC does: each in a process of its own, with a plan, in a directory. And a tiny S3."""

import hashlib
import json
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from cdmtaskservice.executor.checksum import crc64nvme, encoded

Plan = Mapping[str, Any]


def crc(data: bytes) -> str:
    return encoded(crc64nvme(data))


class Tasks:
    """Begins tasks below a directory, and ends them when it is left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def task(self, name: str = "1") -> Path:
        return self.directory / "tasks" / name

    def begin(self, kind: str, plan: Plan | None, name: str = "1") -> subprocess.Popen[bytes]:
        """Upload the plan, if there is one, and begin the task."""
        file = self.directory / f"plan-{name}.json"
        if plan is not None:
            file.write_text(json.dumps(plan), encoding="utf-8")
        command = [sys.executable, "-m", "cdmtaskservice.executor.remote", kind]
        process = subprocess.Popen(
            [*command, "--plan", str(file), "--task", str(self.task(name))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def result(self, name: str = "1") -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.task(name) / "result.json").read_text(encoding="utf-8"))
        return told

    def run(self, kind: str, plan: Plan | None, name: str = "1") -> dict[str, Any]:
        """The result of a task that is run to its end."""
        process = self.begin(kind, plan, name)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr.decode()
        return self.result(name)


class Store:
    """A tiny S3: GETs of `files` and PUTs into them, by path. answer: instead, for a path; may block."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.headers: dict[str, dict[str, str]] = {}
        self.answer: Callable[[str], int | None] = lambda path: None
        self.came = threading.Condition()
        self.released = threading.Event()
        self.url = ""

    def wait_for(self, count: int) -> None:
        """Until so many requests have come."""
        with self.came:
            assert self.came.wait_for(lambda: len(self.asked) >= count, 30), self.asked

    def note(self, method: str, path: str) -> None:
        with self.came:
            self.asked.append((method, path))
            self.came.notify_all()


@contextmanager
def serving(store: Store) -> Iterator[Store]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            store.note("GET", path)
            status = store.answer(path)
            data = store.files.get(path, b"")
            self.reply(status or (200 if path in store.files else 404), data if status is None else b"<Error/>")

        def do_PUT(self) -> None:
            path = self.path.partition("?")[0]
            data = self.rfile.read(int(self.headers["Content-Length"]))
            store.note("PUT", path)
            store.headers[path] = dict(self.headers)
            status = store.answer(path)
            if status is None:
                store.files[path] = data
            self.reply(status or 200, b"", ETag=f'"{hashlib.md5(data).hexdigest()}"')

        def reply(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler, store.released) as store.url:
        yield store


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler], released: threading.Event) -> Iterator[str]:
    """The URL of a server. released: set at the end, for answers that wait for it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a task that was ended hangs up
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def unused_port() -> int:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return int(server.server_address[1])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
