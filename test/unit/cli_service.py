"""A service that says what a test has told it to say, and `cts` beside it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from typer.testing import CliRunner, Result

from cdmtaskservice.cli.main import app

TOKEN = "a-token"
NOBODY = "http://127.0.0.1:9"
"""Where no service is."""

_runner = CliRunner()


@dataclass(frozen=True)
class Asked:
    """A request. what: method, path and query."""

    what: str
    token: str | None
    headers: Mapping[str, str]
    body: Any


@dataclass
class FakeService:
    """Answers by method and path, the last of several for good. What it does not know is 404."""

    profile: Path
    url: str = ""
    answers: dict[str, list[tuple[int, bytes, Mapping[str, str]]]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def says(self, what: str, body: Any = None, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """The next answer to what is asked by this method and path."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.answers.setdefault(what, []).append((204 if body is None else status, data, headers or {}))

    def refuses(self, what: str, status: int, code: int, message: str, **more: Any) -> None:
        """An error as the service sends it."""
        error = {"httpcode": status, "message": message, "request_id": "0123", "appcode": code, "apperror": "No"}
        self.says(what, {"error": error | more}, status)

    @property
    def requests(self) -> list[str]:
        """What was asked, without the bodies."""
        return [asked.what for asked in self.asked]

    def cts(self, *arguments: str, stdin: str | bytes | None = None, **environment: str | None) -> Result:
        """`cts` with these arguments, the service and a token in its environment."""
        env: dict[str, str | None] = {
            "CTS_URL": self.url,
            "CTS_TOKEN": TOKEN,
            "CTS_TOKEN_FILE": None,
            "CTS_PROFILE_FILE": str(self.profile),
            "COLUMNS": "200",
            "TERM": "dumb",
        }
        done = _runner.invoke(app, list(arguments), input=stdin, env=env | environment)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def rows(self, *arguments: str) -> list[list[str]]:
        """The cells that `cts` prints."""
        done = self.cts(*arguments)
        assert done.exit_code == 0, done.output
        return [line.split("\t") for line in done.stdout.splitlines()]

    def json(self, *arguments: str) -> Any:
        """The document that `cts … --json` prints."""
        done = self.cts(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)


@contextmanager
def fake_service(profile: Path) -> Iterator[FakeService]:
    """Serves as long as it is open."""
    service = FakeService(profile)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            service.asked.append(
                Asked(
                    f"{self.command} {self.path}",
                    self.headers.get("Authorization"),
                    {name.lower(): value for name, value in self.headers.items()},
                    json.loads(body) if body else None,
                )
            )
            known = service.answers.get(f"{self.command} {urlsplit(self.path).path}")
            if known is None:
                error = {"httpcode": 404, "message": "there is no such URL", "request_id": "0404", "appcode": 40000}
                known = [(404, json.dumps({"error": error}).encode(), {})]
            status, data, headers = known.pop(0) if len(known) > 1 else known[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if status != 204:
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


IMAGE = {
    "name": "registry.example.org/tools/seqtool",
    "digest": "sha256:" + "ab" * 32,
    "tag": "1.0",
    "entrypoint": ["/seqtool", "--quiet mode"],
    "registered_by": "admin",
    "registered_on": "2030-01-01T10:00:00Z",
}

JOB_ID = "305ac78c-566d-4e9d-947e-48c6f011c1b3"


def steps(*states: str) -> list[dict[str, str]]:
    """Transitions, a minute and a half apart."""
    return [
        {"state": s, "time": f"2030-01-01T12:{(n * 90) // 60:02}:{(n * 90) % 60:02}Z"} for n, s in enumerate(states)
    ]


def job(*states: str, **more: Any) -> dict[str, Any]:
    """A job that went through these states, as its owner sees it."""
    asked = {
        "cluster": "local",
        "image": "registry.example.org/tools/seqtool:1.0",
        "params": {"input_mount_point": "/input_files", "output_mount_point": "/output_files", "declobber": True},
        "num_containers": 2,
        "cpus": 1,
        "memory": 500_000_000,
        "runtime": "PT10M",
        "output_dir": "cts-data/ann/out/",
        "name": "all reads",
        "tags": ["a", "b"],
        "input_files": [{"file": "cts-data/ann/a.fa", "crc64nvme": "S8AXmd7A3f8="}],
    }
    return {
        "id": JOB_ID,
        "user": "ann",
        "state": states[-1],
        "transition_times": steps(*states),
        "admin_meta": {},
        "job_input": asked | more.pop("job_input", {}),
        "image": IMAGE,
        "input_file_count": 3,
        **more,
    }


def container(number: int, state: str, **more: Any) -> dict[str, Any]:
    """A container as its job's owner sees it."""
    return {"container_number": number, "state": state, "attempt": 1, "time": "2030-01-01T12:05:00Z", **more}
