"""What workers download, and the script run for real against a server on the loopback."""

import gzip
import hashlib
import http.server
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdmtaskservice.services.worker_files import WorkerFiles

PATH = "/external_exec/files/code_archive.tgz"


class Server(http.server.ThreadingHTTPServer):
    """Answers with `answers` in turn, the last one for ever: bytes, or a status."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[bytes | int] = []
        self.asked: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked.append(self.path)
            answers = self.server.answers
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        body = answer if isinstance(answer, bytes) else b"no"
        self.send_response(200 if isinstance(answer, bytes) else answer)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


@pytest.fixture(scope="module")
def files() -> WorkerFiles:
    return WorkerFiles()


class Worker:
    """A directory with the script in it, and how it is started there."""

    def __init__(self, directory: Path, files: WorkerFiles) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.script = directory / "executable.sh"
        self.script.write_bytes(files.executable)
        self.script.chmod(0o755)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.script), *arguments],
            cwd=self.directory,
            # No PATH: so it is in a job of HTCondor.
            env={"CTS_CODE_CACHE": str(self.cache), "CTS_PYTHON": sys.executable, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output


@pytest.fixture
def worker(tmp_path: Path, files: WorkerFiles) -> Worker:
    return Worker(tmp_path, files)


def archive_of(program: str) -> bytes:
    """An archive with another program in the executor's place."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, content in (
            ("cdmtaskservice/__init__.py", ""),
            ("cdmtaskservice/executor/__init__.py", ""),
            ("cdmtaskservice/executor/__main__.py", program),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content.encode())
            tar.addfile(entry, io.BytesIO(content.encode()))
    return data.getvalue()


SHOW = """
import json, os, sys
def main(argv):
    print(json.dumps([argv, os.getpid(), sys.getfilesystemencoding(), sys.path]))
    return 7
"""


def test_the_archive_has_the_executor_and_awscrt_and_nothing_else(files: WorkerFiles) -> None:
    with tarfile.open(fileobj=io.BytesIO(files.archive)) as tar:
        members = tar.getmembers()
    names = [m.name for m in members]
    assert names == sorted(names)
    assert {"cdmtaskservice/__init__.py", "cdmtaskservice/executor/__init__.py"} <= set(names)
    assert {"awscrt/__init__.py", "awscrt/checksums.py"} <= set(names)
    assert [n for n in names if n.endswith(".so")] == ["_awscrt.abi3.so"]
    assert any(n.endswith("licenses/LICENSE") for n in names)
    tops = {n.split("/")[0] for n in names if not n.startswith("awscrt-")}
    assert tops == {"cdmtaskservice", "awscrt", "_awscrt.abi3.so"}
    assert not [n for n in names if n.startswith("cdmtaskservice/") and n.count("/") > 1 and "executor" not in n]
    assert all(m.isfile() and m.mtime == 0 and m.uid == 0 and not m.uname for m in members)
    assert len(files.archive) < 6_000_000


async def test_the_bytes_can_be_made_again(files: WorkerFiles) -> None:
    again = await WorkerFiles().build()
    assert again.archive == files.archive
    assert again.executable == files.executable
    assert files.archive_sha256 == hashlib.sha256(files.archive).hexdigest()
    assert files.archive_etag == f'"{files.archive_sha256}"'
    assert files.executable_etag == f'"{hashlib.sha256(files.executable).hexdigest()}"'
    assert files.archive_sha256.encode() in files.executable
    assert await again.build() is again


def test_a_worker_computes_checksums_with_what_it_was_sent(worker: Worker, files: WorkerFiles, server: Server) -> None:
    server.answers = [files.archive]
    # The executor's own --help, without a package of this installation in sight.
    code, output = worker.run("--help", f"--url={server.url}/cts/")
    assert code == 0, output
    assert "--work-dir" in output
    assert server.asked == [f"/cts{PATH}"]
    check = "import awscrt.checksums as c; print(hex(c.crc64nvme(b'123456789')), c.__file__)"
    found = subprocess.run(
        [sys.executable, "-S", "-c", check],
        env={"PYTHONPATH": str(worker.cache / files.archive_sha256)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout.split()[0] == "0xae8b14860a799888"
    assert found.stdout.split()[1].startswith(str(worker.cache))


def test_two_starts_at_once_and_then_a_warm_cache(worker: Worker, server: Server) -> None:
    archive = archive_of(SHOW)
    sha256 = hashlib.sha256(archive).hexdigest()
    server.answers = [archive]
    pins = {"CTS_CODE_ARCHIVE_SHA256": sha256, "CTS_CODE_ARCHIVE_URL": f"{server.url}/elsewhere.tgz"}
    both = [worker.start("--job", "a b", "é'\"", "", **pins) for _ in range(2)]
    for process in both:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 7, output
        # The arguments come unchanged, and the process is the one that was started.
        assert '["--job", "a b", "\\u00e9\'\\"", ""]' in output
        assert f" {process.pid}, " in output
    assert 1 <= len(server.asked) <= 2
    assert set(server.asked) == {"/elsewhere.tgz"}
    assert os.listdir(worker.cache) == [sha256]
    server.answers, server.asked = [500], []
    assert worker.run("--url", server.url, **pins)[0] == 7
    assert server.asked == []


def test_python_is_started_once_and_sees_nothing_but_our_code(worker: Worker, server: Server) -> None:
    archive = archive_of(SHOW)
    sha256 = hashlib.sha256(archive).hexdigest()
    server.answers = [archive]
    # What the worker has in the working directory and in its settings of Python is nothing to us.
    (worker.directory / "json.py").write_text("raise RuntimeError('not ours')")
    starts = worker.directory / "starts"
    python = worker.directory / "python3.99"
    python.write_text(f'#!/bin/sh\necho "$*" >> {starts}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    settings = {"PYTHONPATH": str(worker.directory), "LC_ALL": "C", "PYTHONUTF8": "0"}
    code, output = worker.run("--url", server.url, CTS_PYTHON=str(python), CTS_CODE_ARCHIVE_SHA256=sha256, **settings)
    assert code == 7, output
    assert len([line for line in starts.read_text().splitlines() if line.startswith("-I -S -X utf8")]) == 1
    assert starts.read_text().count("-I") == 1
    _, _, encoding, path = json.loads(output)
    assert encoding == "utf-8"
    assert path[0] == str(worker.cache / sha256)
    assert not [p for p in path[1:] if "site-packages" in p or "dist-packages" in p or p in ("", str(worker.directory))]


def test_a_warm_start_finds_the_code_compiled(worker: Worker, files: WorkerFiles, server: Server) -> None:
    server.answers = [files.archive]
    assert worker.run("--help", f"--url={server.url}")[0] == 0
    compiled = worker.cache / files.archive_sha256 / "cdmtaskservice/executor/__pycache__"
    before = {p: p.stat().st_ino for p in compiled.glob("*.pyc")}
    assert {p.name.split(".")[0] for p in before} >= {"__main__", "options"}
    assert worker.run("--help", f"--url={server.url}")[0] == 0
    assert {p: p.stat().st_ino for p in before} == before


def test_an_interpreter_that_is_too_old_is_passed_over(worker: Worker, server: Server) -> None:
    archive = archive_of(SHOW)
    server.answers = [archive]
    tools = worker.directory / "bin"
    tools.mkdir()
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    (tools / "python3.10").symlink_to(sys.executable)
    chosen = {"CTS_PYTHON": "", "CTS_CODE_ARCHIVE_SHA256": hashlib.sha256(archive).hexdigest()}
    code, output = worker.run("--url", server.url, **chosen, PATH=f"{tools}:/usr/bin:/bin")
    assert code == 7, output
    (tools / "python3.10").unlink()
    (tools / "readlink").symlink_to("/bin/readlink")
    code, output = worker.run("--url", server.url, **chosen, PATH=str(tools))
    assert (code, "no Python 3.9 or later as python3:" in output) == (78, True), output


def test_another_archive_than_the_pinned_one_is_refused(worker: Worker, files: WorkerFiles, server: Server) -> None:
    server.answers = [archive_of(SHOW)]
    code, output = worker.run("--url", server.url)
    assert code == 76
    assert files.archive_sha256 in output
    assert server.asked == [PATH, PATH]
    assert os.listdir(worker.cache) == []


def test_a_broken_connection_is_tried_again(worker: Worker, server: Server) -> None:
    archive = archive_of(SHOW)
    server.answers = [archive[:-20], archive]
    code, output = worker.run("--url", server.url, CTS_CODE_ARCHIVE_SHA256=hashlib.sha256(archive).hexdigest())
    assert code == 7, output
    assert "try 1 of" in output


def test_an_unavailable_service_is_tried_again_and_a_refusal_is_not(worker: Worker, server: Server) -> None:
    archive = archive_of(SHOW)
    server.answers = [503, 404, archive]
    sha256 = hashlib.sha256(archive).hexdigest()
    assert worker.run("--url", server.url, CTS_CODE_ARCHIVE_SHA256=sha256)[0] == 7
    server.answers = [403]
    code, output = worker.run(CTS_EXECUTOR_URL=server.url)
    assert code == 69
    assert "was answered 403" in output


def test_a_cache_that_others_can_write_is_refused(worker: Worker, server: Server) -> None:
    worker.cache.mkdir()
    worker.cache.chmod(0o777)
    code, output = worker.run("--url", server.url)
    assert code == 78
    assert "writable by nobody else" in output
    assert server.asked == []


def test_what_is_kept_without_a_cache_is_in_the_home_or_in_scratch(worker: Worker, server: Server) -> None:
    archive = archive_of(SHOW)
    sha256 = hashlib.sha256(archive).hexdigest()
    server.answers = [archive]
    home, scratch = worker.directory / "home", worker.directory / "scratch"
    home.mkdir()
    scratch.mkdir()
    where = {"CTS_CODE_CACHE": "", "CTS_CODE_ARCHIVE_SHA256": sha256, "_CONDOR_SCRATCH_DIR": str(scratch)}
    assert worker.run("--url", server.url, HOME=str(home), **where)[0] == 7
    kept = home / ".cache" / "cdmtaskservice" / sha256
    assert kept.is_dir()
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert os.listdir(scratch) == []
    assert worker.run("--url", server.url, **where, HOME="/proc/nowhere")[0] == 7
    assert len(os.listdir(scratch)) == 1


def test_bad_settings_are_named(worker: Worker) -> None:
    code, output = worker.run("--job", "x")
    assert (code, "neither --url nor CTS_CODE_ARCHIVE_URL" in output) == (78, True)
    code, output = worker.run(CTS_CODE_ARCHIVE_SHA256="abc")
    assert (code, "'abc'" in output) == (78, True)
    code, output = worker.run(CTS_PYTHON="/bin/false")
    assert (code, "no Python 3.9 or later as /bin/false" in output) == (78, True)


def test_the_archive_is_compressed_once_without_a_time(files: WorkerFiles) -> None:
    assert files.archive[4:8] == b"\0\0\0\0"
    assert gzip.decompress(files.archive)
