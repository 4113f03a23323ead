"""The executor on real parts: podman, a registry, an S3 store; only the service is a stand-in."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import cdmtaskservice.executor
from cdmtaskservice.embedded.image import Pushed, build_image, push, shell_image
from cdmtaskservice.embedded.stack import EmbeddedStack
from test.stand_ins.executor_service import CONTAINER_TOKEN, EXECUTOR_TOKEN, Call, ExecutorService, Fault, Work

HAPPY = ["download_submitted", "job_submitting", "job_submitted", "upload_submitting", "upload_submitted", "complete"]
FAILED = [
    "download_submitted",
    "job_submitting",
    "job_submitted",
    "error_processing_submitting",
    "error_processing_submitted",
    "error",
]
HOSTILE = [
    "",
    " ",
    "two words",
    "it's",
    'a "quote"',
    "line\nbreak",
    "tab\t",
    "ünï✓",
    "--flag=-x",
    "-",
    "$HOME",
    "*",
    "\\",
    "a,b",
]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a worker is sent: the executor and awscrt, and nothing else."""
    root = tmp_path_factory.mktemp("bundle")
    source = Path(cdmtaskservice.executor.__file__).parent
    shutil.copytree(source, root / "cdmtaskservice/executor", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "cdmtaskservice/__init__.py").touch()
    awscrt = importlib.util.find_spec("awscrt")
    assert awscrt is not None
    assert awscrt.origin is not None
    shutil.copytree(Path(awscrt.origin).parent, root / "awscrt", ignore=shutil.ignore_patterns("__pycache__"))
    for extension in Path(awscrt.origin).parent.parent.glob("_awscrt*.so"):
        shutil.copy(extension, root)
    return root


@pytest.fixture(scope="session")
def bash_image(stack: EmbeddedStack) -> Pushed:
    """Its only argument is a script."""
    image = replace(shell_image(stack.parts), entrypoint=("/bin/bash", "-c"))
    return push(stack.registry, "tools/bash", "1", build_image(image))


@pytest.fixture(scope="session")
def nobody_image(stack: EmbeddedStack) -> Pushed:
    image = replace(shell_image(stack.parts), entrypoint=("/bin/bash", "-c"), user="65534:65534")
    return push(stack.registry, "tools/nobody", "1", build_image(image))


@dataclass
class Worker:
    """A machine that runs executors of one job's only container."""

    stack: EmbeddedStack
    bundle: Path
    directory: Path
    service: ExecutorService
    url: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def work_dir(self) -> Path:
        return self.directory / "scratch: work"

    @property
    def name(self) -> str:
        return f"cts-{self.service.job}-0-1"

    def start(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        token = self.directory / "token"
        token.write_text(EXECUTOR_TOKEN + "\n")
        given = {
            "--url": self.url,
            "--token-file": str(token),
            "--job": self.service.job,
            "--container": "0",
            "--work-dir": str(self.work_dir),
            "--runtime": "podman",
            "--runtime-path": str(self.stack.podman),
            "--stop-grace": "2",
            "--keep-trying": "60",
        }
        argv = [x for pair in given.items() for x in pair]
        with (self.directory / "stderr").open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-S", "-m", "cdmtaskservice.executor", *argv, *options],
                cwd=self.directory,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.bundle), "WORKER_SECRET": "s3cret"}
                | environment,
                stderr=stderr,
            )
        self.processes.append(process)
        return process

    def run(self, *options: str, **environment: str) -> int:
        return self.start(*options, **environment).wait(120)

    def cleanup(self) -> int:
        return subprocess.run(
            [sys.executable, "-S", "-m", "cdmtaskservice.executor", "cleanup", "--work-dir", str(self.work_dir)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.bundle)},
            timeout=60,
        ).returncode

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "stderr").read_text().splitlines()]

    def containers(self) -> list[str]:
        listed = subprocess.run(
            [self.stack.podman, "ps", "--all", "--format", "{{.Names}}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return [name for name in listed.stdout.split() if self.service.job in name]

    def nothing_left(self) -> bool:
        cgroups = list(Path("/sys/fs/cgroup").glob(f"*/*{self.service.job}*"))
        return not self.containers() and not self.work_dir.exists() and not cgroups


Begin = Callable[..., Worker]


@pytest.fixture
def begin(stack: EmbeddedStack, bundle: Path, tmp_path: Path) -> Iterator[Begin]:
    """Make a worker for a container of `work`, whose inputs are `files` by S3 key in the bucket `data`."""
    with ExitStack() as parts:

        def make(work: Work, files: dict[str, bytes] | None = None, s3_url: str = stack.s3.url) -> Worker:
            job = str(uuid.uuid4())
            work.output_prefix = f"data/{job}/"
            service = ExecutorService(s3_url, stack.s3.access_key, stack.s3.secret_key, job, work)
            parts.callback(service.s3.close)
            for bucket in ("data", "logs"):
                if bucket not in [b["Name"] for b in service.s3.list_buckets()["Buckets"]]:
                    service.s3.create_bucket(Bucket=bucket)
            for key, data in (files or {}).items():
                service.write(f"data/{key}", data)
            directory = tmp_path / job
            directory.mkdir()
            worker = Worker(stack, bundle, directory, service, parts.enter_context(service.serving()))
            parts.callback(end, worker)
            return worker

        def end(worker: Worker) -> None:
            for process in worker.processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            worker.cleanup()

        yield make


def outputs(worker: Worker) -> dict[str, bytes]:
    """The outputs of a complete container, by path; each with the checksum that S3 has of it."""
    found = {}
    for output in worker.service.update("complete")["outputs"]:
        assert output["crc64nvme"] == worker.service.checksum(output["file"])
        found[output["file"].removeprefix(worker.service.work.output_prefix)] = worker.service.read(output["file"])
    return found


def poll(condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)


# --- the ways that are meant


def test_inputs_come_in_and_outputs_go_out(begin: Begin, seqtool_image: Pushed) -> None:
    files = {f"in/{n}.fa": f">s{n}\nACGT{'A' * n}\n".encode() for n in range(20)} | {"in/empty file": b""}
    worker = begin(
        Work(
            seqtool_image.by_digest,
            args=["copy", *(f"/input_files/sub dir/{k}" for k in files), "/input_files/.cts/manifest-0.txt"],
            inputs={f"data/{k}": f"sub dir/{k}" for k in files},
            manifest={"path": ".cts/manifest-0.txt", "content": "a\tb\nünï\n"},
            batch=4,
        ),
        files,
    )
    assert worker.run() == 0
    assert worker.service.states() == HAPPY
    expected = {f"sub dir/{k}": v for k, v in files.items()} | {".cts/manifest-0.txt": "a\tb\nünï\n".encode()}
    assert outputs(worker) == expected
    usage = worker.service.update("upload_submitting")["usage"]
    assert worker.service.update("upload_submitting")["exit_code"] == 0
    assert usage["max_memory"] > 1_000_000
    assert 0 < usage["cpu_seconds"] < 5
    assert usage["wall_seconds"] > 0
    assert worker.service.log("stdout") == worker.service.log("stderr") == b""
    assert worker.nothing_left()


def test_no_secret_is_logged(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=["say", "1"], inputs={"data/s": "s"}), {"s": b"x"})
    worker.service.expired_gets = 1
    assert worker.run() == 0
    log = (worker.directory / "stderr").read_text()
    assert "download_interrupted" in log
    for secret in ("X-Amz", EXECUTOR_TOKEN, CONTAINER_TOKEN, worker.stack.s3.access_key):
        assert secret not in log
    assert all(line["job"] == worker.service.job and line["container"] == 0 for line in worker.log())


def test_large_outputs_go_in_parts(begin: Begin, seqtool_image: Pushed) -> None:
    part = 5 << 20
    worker = begin(Work(seqtool_image.by_digest, args=["write", "big", str(2 * part + 7)], part_size=part))
    worker.service.expired_puts = 2
    assert worker.run() == 0
    assert len(outputs(worker)["big"]) == 2 * part + 7
    completed = worker.service.await_call(lambda c: c.path == "/uploads/complete")
    assert len(completed.body["files"][0]["etags"]) == 3


def test_logs_in_parts_and_cut_at_their_limit(begin: Begin, bash_image: Pushed) -> None:
    script = "yes out | head -c 8000000; echo err >&2"
    worker = begin(Work(bash_image.by_digest, args=[script], part_size=5 << 20))
    assert worker.run("--log-limit", "6000000") == 0
    stdout = worker.service.log("stdout")
    assert stdout[:6_000_000] == b"out\n" * 1_500_000
    assert b"[stdout cut here: 8000000 bytes were written, the first 6000000 are kept]" in stdout[6_000_000:]
    assert worker.service.log("stderr") == b"err\n"


def test_arguments_and_environment_byte_for_byte(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=["args", *HOSTILE]))
    assert worker.run() == 0
    assert outputs(worker)["args.bin"].decode().split("\0")[:-1] == HOSTILE

    environment = {f"VALUE_{n}": value for n, value in enumerate(HOSTILE)}
    worker = begin(Work(seqtool_image.by_digest, args=["env"], environment=environment))
    assert worker.run(http_proxy="http://proxy.example", LC_ALL="C") == 0
    entries = dict(e.split("=", 1) for e in outputs(worker)["environ.bin"].decode().split("\0") if e)
    assert {k: v for k, v in entries.items() if k in environment} == environment
    # Nothing of the worker's environment comes along.
    assert set(entries) - set(environment) <= {"PATH", "HOME", "HOSTNAME", "TERM", "container"}


def test_container_is_confined(begin: Begin, bash_image: Pushed, tmp_path: Path) -> None:
    refdata = tmp_path / "ref/ref-1"
    refdata.mkdir(parents=True)
    (refdata / "genome").write_text("ACGT")
    script = """
        grep -E '^(Cap|NoNewPrivs)' /proc/self/status > /output_files/status
        cat /sys/class/net/*/address > /output_files/net
        { touch /input_files/x || touch /ref/x; } 2> /dev/null && echo writable > /output_files/bad
        cat /ref/genome > /output_files/genome
        touch /tmp/writable && cat /sys/fs/cgroup/pids/pids.max > /output_files/pids
        tr '\\0' '\\n' < /proc/1/environ > /output_files/environ
        : > /output_files/empty
    """
    work = Work(
        bash_image.by_digest,
        args=[script],
        inputs={"data/confined": "confined"},
        refdata={"id": "ref-1", "mount_point": "/ref"},
        limits={"pids": 77},
    )
    worker = begin(work, {"confined": b"x"})
    assert worker.run("--refdata-dir", str(refdata.parent)) == 0
    found = outputs(worker)
    assert set(found) == {"status", "net", "genome", "pids", "environ", "empty"}
    lines = dict(line.split(":\t") for line in found["status"].decode().splitlines())
    assert lines.pop("NoNewPrivs") == "1"
    assert set(lines.values()) == {"0" * 16}
    assert found["net"].split() == [b"00:00:00:00:00:00"]  # loopback alone
    assert found["genome"] == b"ACGT"
    assert found["pids"].strip() == b"77"
    assert found["empty"] == b""
    for secret in ("s3cret", EXECUTOR_TOKEN, CONTAINER_TOKEN, str(worker.directory)):
        assert secret.encode() not in found["environ"]


def test_too_many_processes_fail(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=["procs", "100"], limits={"pids": 20}))
    assert worker.run() == 0
    assert worker.service.states() == FAILED


def test_image_with_an_unprivileged_user(begin: Begin, nobody_image: Pushed) -> None:
    script = """
        id -u; mkdir -m 700 /output_files/mine && cat /input_files/deep/er/x > /output_files/mine/copy
        chmod 000 /output_files/mine/copy /output_files/mine
    """
    worker = begin(Work(nobody_image.by_digest, args=[script], inputs={"data/u": "deep/er/x"}), {"u": b"readable"})
    old = os.umask(0o077)
    try:
        assert worker.run() == 0
    finally:
        os.umask(old)
    assert outputs(worker) == {"mine/copy": b"readable"}
    assert worker.service.log("stdout") == b"65534\n"
    assert worker.nothing_left()


# --- containers that fail


def test_failing_exit(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=["fail", "3"]))
    assert worker.run() == 0
    assert worker.service.states() == FAILED
    report = worker.service.update("error_processing_submitting")
    assert report["exit_code"] == 3
    assert report["usage"]["wall_seconds"] > 0
    assert worker.service.update("error")["error"] == "The container exited with exit code 3. Its logs say why."
    assert "as asked" in worker.service.update("error")["admin_error"]
    assert b"as asked" in worker.service.log("stderr")
    assert worker.nothing_left()


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exec tail -c 200m /dev/zero", 137),
        ("tail -c 200m /dev/zero | wc -c; exit 5", 5),
        ("tail -c 200m /dev/zero | wc -c; exit 0", 0),  # half of the data is missing: no success
        ("(exec tail -c 200m /dev/zero); sleep 60 & trap 'exit 6' TERM; wait", 6),
    ],
)
def test_over_memory(begin: Begin, bash_image: Pushed, script: str, code: int) -> None:
    worker = begin(Work(bash_image.by_digest, args=[script], limits={"memory": 50_000_000}))
    begun = time.monotonic()
    assert worker.run() == 0
    assert time.monotonic() - begun < 20
    assert worker.service.states() == FAILED
    report = worker.service.update("error_processing_submitting")
    assert report["exit_code"] == code
    assert "used more than its memory limit of 50 MB" in report["error"]
    assert 45_000_000 < report["usage"]["max_memory"] <= 50_000_000
    assert worker.nothing_left()


def test_killed_otherwise_is_not_over_memory(begin: Begin, bash_image: Pushed) -> None:
    worker = begin(Work(bash_image.by_digest, args=["kill -SEGV $BASHPID; exit 137"]))
    assert worker.run() == 0
    assert "exit code 137 (SIGKILL)" in worker.service.update("error")["error"]


@pytest.mark.parametrize(("command", "code"), [("sleep", 143), ("stubborn", 137)])
def test_over_time(begin: Begin, seqtool_image: Pushed, command: str, code: int) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=[command, "60"], limits={"runtime": 1.0}))
    assert worker.run() == 0
    assert worker.service.states() == FAILED
    report = worker.service.update("error_processing_submitting")
    assert report["exit_code"] == code
    assert report["error"].startswith("The container ran past its runtime of 1 s and was stopped.")
    assert 0.9 < report["usage"]["wall_seconds"] < 8
    assert worker.nothing_left()


def test_cpu_is_measured_and_limited(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=["spin", "2"], limits={"cpus": 0.5}))
    assert worker.run() == 0
    usage = worker.service.update("upload_submitting")["usage"]
    assert 0.3 < usage["cpu_seconds"] < 0.7 * usage["wall_seconds"] + 0.2


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("mkdir d; ln -s /etc/passwd d/link", "d/link is a symbolic link"),
        ("ln -s . loop", "loop is a symbolic link"),
        ("mkfifo pipe", "pipe is a FIFO"),
        ("echo x > $'bad-\\xff'", "bad-\\xff has a name that is not UTF-8"),
        ("d=.; for i in $(seq 300); do d=$d/12345678; done; mkdir -p $d", "has a path of more than 1024 bytes"),
    ],
)
def test_outputs_that_are_refused(begin: Begin, bash_image: Pushed, script: str, said: str) -> None:
    worker = begin(Work(bash_image.by_digest, args=[f"cd /output_files; echo fine > fine; {script}"]))
    assert worker.run() == 0
    assert worker.service.states() == FAILED
    assert worker.service.update("error_processing_submitting")["exit_code"] == 0
    assert said in worker.service.update("error")["error"]
    assert not [c for c in worker.service.calls if c.path == "/uploads" and c.body["files"]]
    assert worker.nothing_left()


def test_hard_links_inside_are_outputs_and_out_are_refused(begin: Begin, bash_image: Pushed) -> None:
    worker = begin(Work(bash_image.by_digest, args=["cd /output_files; echo x > a; ln a b"]))
    assert worker.run() == 0
    assert outputs(worker) == {"a": b"x\n", "b": b"x\n"}

    # From within there is no other file on this file system; somebody on the worker could make one.
    worker = begin(
        Work(bash_image.by_digest, args=["cd /output_files; echo x > a; while [ ! -e go ]; do :; done; rm go"])
    )
    executor = worker.start()
    target = worker.work_dir / "output/a"
    poll(target.exists, "the container writes")
    os.link(target, worker.directory / "elsewhere")
    (worker.work_dir / "output/go").touch()
    assert executor.wait(60) == 0
    assert "a is a hard link to a file outside" in worker.service.update("error")["error"]


def test_output_that_the_service_refuses(begin: Begin, bash_image: Pushed) -> None:
    worker = begin(Work(bash_image.by_digest, args=['echo kept; echo x > "/output_files/it\'s"']))
    assert worker.run() == 0
    assert worker.service.states()[-2:] == ["upload_submitting", "error"]
    assert "it's has a character that no S3 key may have" in worker.service.update("error")["error"]
    assert worker.service.log("stdout") == b"kept\n"


def test_image_without_its_command(begin: Begin, stack: EmbeddedStack) -> None:
    image = replace(shell_image(stack.parts), entrypoint=("/no/such/tool",))
    pushed = push(stack.registry, "tools/broken", "1", build_image(image))
    worker = begin(Work(pushed.by_digest))
    assert worker.run() == 0
    assert worker.service.states() == ["download_submitted", "job_submitting", "error"]
    error = worker.service.update("error")
    assert error["error"] == "The image has no such command: /no/such/tool. Its entrypoint is wrong."
    assert "exit code 127" in error["admin_error"]
    assert worker.nothing_left()


def test_image_that_is_not_there(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(f"{seqtool_image.name}@sha256:{'1' * 64}"))
    assert worker.run() == 0
    assert "is not in its registry any more" in worker.service.update("error")["error"]


def test_runtime_that_does_not_work(begin: Begin, seqtool_image: Pushed, tmp_path: Path) -> None:
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2; exit 1\n")
    client.chmod(0o755)
    worker = begin(Work(seqtool_image.by_digest))
    assert worker.run("--runtime", "docker", "--runtime-path", str(client)) == 0
    error = worker.service.update("error")
    assert "no container runtime that works" in error["error"]
    assert "Cannot connect to the Docker daemon" in error["admin_error"]


# --- inputs that are not what they should be


def test_checksum_mismatch_names_the_file(begin: Begin, seqtool_image: Pushed) -> None:
    files = {"good": b"good", "dir/bad": b"bad"}
    work = Work(seqtool_image.by_digest, args=["count", "x"], inputs={f"data/{k}": k for k in files})
    work.checksums["data/dir/bad"] = "AAAAAAAAAAA="
    worker = begin(work, files)
    assert worker.run() == 0
    assert worker.service.states() == ["download_submitted", "error"]
    error = worker.service.update("error")["error"]
    assert "data/dir/bad" in error
    assert "expected 3 bytes with CRC64NVME AAAAAAAAAAA=" in error
    assert worker.service.checksum("data/dir/bad") in error
    assert worker.nothing_left()


def test_input_that_is_gone(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest, inputs={"data/gone": "gone"}), {"gone": b"x"})

    after(worker, "/work", lambda: worker.service.s3.delete_object(Bucket="data", Key="gone"))
    assert worker.run() == 0
    assert worker.service.update("error")["error"] == "The input file data/gone is not in S3 any more."


def test_expired_gets_are_renewed(begin: Begin, seqtool_image: Pushed) -> None:
    files = {f"e{n}": b"x" for n in range(30)}
    worker = begin(Work(seqtool_image.by_digest, args=["copy", *(f"/input_files/{k}" for k in files)]), files)
    worker.service.work.inputs = {f"data/{k}": k for k in files}
    worker.service.expired_gets = 30
    assert worker.run() == 0
    assert outputs(worker) == files
    assert len([c for c in worker.service.calls if c.path == "/inputs"]) < 5


# --- outages


def test_s3_away_for_a_while(begin: Begin, seqtool_image: Pushed, stack: EmbeddedStack) -> None:
    files = {f"away{n}": os.urandom(1 << 20) for n in range(8)}
    work = Work(seqtool_image.by_digest, args=["copy", *(f"/input_files/{k}" for k in files)])
    work.inputs = {f"data/{k}": k for k in files}
    worker = begin(work, files)
    after(worker, "/work", stack.s3_store.kill)
    after(worker, "/uploads", stack.s3_store.kill)
    executor = worker.start("--connections", "2")
    poll(lambda: any(e["event"] == "download_interrupted" for e in worker.log()), "a download fails")
    stack.s3_store.start()
    poll(lambda: any(e["event"] == "upload_interrupted" for e in worker.log()), "an upload fails")
    stack.s3_store.start()
    assert executor.wait(90) == 0
    assert worker.service.states() == HAPPY
    assert outputs(worker) == files


def after(worker: Worker, path: str, act: Callable[[], object]) -> None:
    """Do `act` once, when the answer to `path` is made and before it is sent."""
    answer = worker.service.answer
    done = threading.Event()

    def answer_and_act(call: Call) -> tuple[int, Any]:
        answered = answer(call)
        if call.path == path and not done.is_set():
            done.set()
            act()
        return answered

    worker.service.answer = answer_and_act  # type: ignore[method-assign]


class CuttingProxy:
    """Stands before the S3 store; cuts GETs of `path` off after so many bytes, `cuts` times; keeps their requests."""

    def __init__(self, port: int, path: str, after: int, cuts: int) -> None:
        self._upstream = port
        self._path = path.encode()
        self._after = after
        self._cuts = cuts
        self.requests: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._upstream)) as upstream, suppress(OSError):
            request = client.recv(65536)
            left = 1 << 40
            if request.startswith(b"GET " + self._path):
                self.requests.append(request)
                if len(self.requests) <= self._cuts:
                    left = self._after
            upstream.sendall(request)
            threading.Thread(target=self._forward, args=(client, upstream), daemon=True).start()
            while left > 0 and (data := upstream.recv(min(65536, left))):
                client.sendall(data)
                left -= len(data)
            # Closing alone says nothing to the other side while a thread still receives.
            client.shutdown(socket.SHUT_RDWR)
            upstream.shutdown(socket.SHUT_RDWR)

    def _forward(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                upstream.sendall(data)


def test_download_goes_on_where_it_broke(begin: Begin, seqtool_image: Pushed, stack: EmbeddedStack) -> None:
    data = os.urandom(5_000_000)
    proxy = CuttingProxy(stack.s3_store.port, "/data/long", after=1_500_000, cuts=2)
    try:
        work = Work(seqtool_image.by_digest, args=["copy", "/input_files/long"], inputs={"data/long": "long"})
        worker = begin(work, {"long": data}, s3_url=proxy.url)
        assert worker.run() == 0
        assert outputs(worker)["long"] == data
    finally:
        proxy.close()
    ranges = [dict(line.split(b": ", 1) for line in r.split(b"\r\n")[1:] if b": " in line) for r in proxy.requests]
    starts = [int(r.get(b"Range", b"bytes=0-")[6:-1]) for r in ranges[:3]]
    assert starts[0] == 0
    assert 1_000_000 < starts[1] <= 1_500_000
    assert 2_500_000 < starts[2] <= 3_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_disk_full_of_inputs(begin: Begin, seqtool_image: Pushed, small_disk: Path) -> None:
    worker = begin(Work(seqtool_image.by_digest, inputs={"data/huge": "huge"}), {"huge": bytes(6_000_000)})
    assert worker.run("--work-dir", str(small_disk / "work")) == 0
    assert worker.service.states() == ["download_submitted", "error"]
    assert "The worker's disk was full." in worker.service.update("error")["error"]
    assert list(small_disk.iterdir()) == []


def test_disk_full_of_outputs(begin: Begin, seqtool_image: Pushed, small_disk: Path) -> None:
    script = ["write", "huge", "6000000"]
    worker = begin(Work(seqtool_image.by_digest, args=script))
    assert worker.run("--work-dir", str(small_disk / "work")) == 0
    assert worker.service.states() == FAILED
    assert "disk is full, which may be the reason" in worker.service.update("error")["error"]
    assert list(small_disk.iterdir()) == []


def test_service_away_and_answers_lost(begin: Begin, seqtool_image: Pushed) -> None:
    """Every call is answered 503, then dropped unheard, then dropped after it took effect, then answered."""
    worker = begin(
        Work(seqtool_image.by_digest, args=["write", "x", "6000000"], part_size=5 << 20, heartbeat_interval=60)
    )
    ways = [Fault(503), Fault(None), Fault(None, effective=True), Fault(429)]
    seen: dict[str, int] = {}

    def fault(call: Call) -> Fault | None:
        n = seen[call.path] = seen.get(call.path, -1) + 1
        return ways[n] if n < len(ways) else None

    worker.service.fault = fault
    assert worker.run() == 0
    assert worker.service.states() == HAPPY
    assert len(outputs(worker)["x"]) == 6_000_000
    assert min(seen.values()) >= len(ways)
    claims = {c.body["claim"] for c in worker.service.calls if c.path == "/work"}
    assert len(claims) == 1


def test_service_away_does_not_hold_up_the_container(begin: Begin, seqtool_image: Pushed) -> None:
    away = threading.Event()
    worker = begin(Work(seqtool_image.by_digest, args=["sleep", "60"], limits={"runtime": 2.0}, heartbeat_interval=0.1))
    worker.service.fault = lambda call: Fault(None) if away.is_set() else None
    executor = worker.start()
    worker.service.await_call(lambda c: c.path == "/update/job_submitted")
    away.set()
    # The time limit is kept without the service.
    poll(lambda: any(e["event"] == "container_ended" for e in worker.log()), "the container ends")
    away.clear()
    assert executor.wait(60) == 0
    assert worker.service.states() == FAILED
    assert worker.service.update("error_processing_submitting")["usage"]["wall_seconds"] < 4


def test_gives_up_when_patience_is_over(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=["say", "1"]))
    worker.service.fault = lambda call: Fault(503) if call.path == "/update/complete" else None
    assert worker.run("--keep-trying", "1") == 75
    assert worker.nothing_left()


# --- ending early


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_attempt(begin: Begin, seqtool_image: Pushed, signum: signal.Signals) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=["sleep", "60"]))
    executor = worker.start()
    worker.service.await_call(lambda c: c.path == "/update/job_submitted")
    running: list[list[str]] = []
    worker.service.gate = lambda call: (
        running.append(worker.containers()) if call.path == "/heartbeat" and call.body["ending"] else None
    )
    executor.send_signal(signum)
    assert executor.wait(30) == 128 + signum
    ending = worker.service.await_call(lambda c: c.path == "/heartbeat" and c.body["ending"])
    assert signum.name in ending.body["ending"]
    assert running == [[]]  # said after the container was stopped, not before
    assert worker.service.states()[-1] == "job_submitted"
    assert worker.nothing_left()


def test_signal_during_a_download_that_hangs(begin: Begin, seqtool_image: Pushed, stack: EmbeddedStack) -> None:
    worker = begin(Work(seqtool_image.by_digest, inputs={"data/hang": "hang"}), {"hang": b"x" * 10})
    after(worker, "/work", stack.s3_store.suspend)
    executor = worker.start()
    worker.service.await_call(lambda c: c.path == "/update/download_submitted")
    begun = time.monotonic()
    executor.terminate()
    assert executor.wait(30) == 143
    assert time.monotonic() - begun < 5
    assert worker.nothing_left()


def test_told_to_stop(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=["stubborn", "60"]))
    executor = worker.start()
    worker.service.await_call(lambda c: c.path == "/update/job_submitted")
    worker.service.stop_reason = "canceled"
    assert executor.wait(30) == 0
    assert worker.service.states()[-1] == "job_submitted"
    assert not [c for c in worker.service.calls if c.path == "/heartbeat" and c.body["ending"]]
    assert worker.nothing_left()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(400, {"error": {"appcode": 30300, "message": "superseded"}}), 0),
        (Fault(404, {"error": {"appcode": 40040, "message": "no such job"}}), 0),
        (Fault(401, {"error": {"appcode": 10020, "message": "expired"}}), 2),
        (Fault(403, {"error": {"appcode": 20000, "message": "not yours"}}), 2),
    ],
)
@pytest.mark.parametrize("path", ["/work", "/heartbeat", "/update/job_submitted", "/uploads"])
def test_not_ours_any_more(begin: Begin, bash_image: Pushed, path: str, fault: Fault, code: int) -> None:
    seconds = 30 if path in ("/heartbeat", "/update/job_submitted") else 0
    worker = begin(Work(bash_image.by_digest, args=[f"exec sleep {seconds}"]))
    worker.service.fault = lambda call: fault if call.path == path else None
    assert worker.run() == code
    assert "complete" not in worker.service.states()
    assert "error" not in worker.service.states()
    assert worker.nothing_left()


def test_refused_for_good_fails_the_container(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=["say", "1"]))
    refusal = Fault(400, {"error": {"appcode": 30001, "message": "outputs: too many"}})
    worker.service.fault = lambda call: refusal if call.path == "/update/complete" else None
    assert worker.run() == 0
    assert "outputs: too many" in worker.service.update("error")["error"]


def test_killed_and_cleaned_up(begin: Begin, bash_image: Pushed) -> None:
    script = "mkdir -p /output_files/a/b; chmod 000 /output_files/a/b; sleep 60"
    worker = begin(Work(bash_image.by_digest, args=[script]))
    executor = worker.start()
    worker.service.await_call(lambda c: c.path == "/update/job_submitted")
    assert worker.cleanup() == 75  # not while the executor lives
    assert executor.poll() is None
    executor.kill()
    executor.wait()
    assert worker.containers() == [worker.name]
    assert worker.cleanup() == 0
    assert worker.nothing_left()
    assert worker.cleanup() == 0  # nothing there is fine


def test_killed_and_started_again(begin: Begin, bash_image: Pushed) -> None:
    script = "echo x > /output_files/x; [ $(wc -c < /input_files/again) = 1 ] && exec sleep 60"
    worker = begin(Work(bash_image.by_digest, args=[script], inputs={"data/again": "again"}), {"again": b"x"})
    executor = worker.start()
    worker.service.await_call(lambda c: c.path == "/update/job_submitted")
    executor.kill()
    executor.wait()
    worker.service.write("data/again", b"xx")
    worker.service.work.args = ["cp /input_files/again /output_files/again"]
    assert worker.run() == 0
    assert outputs(worker) == {"again": b"xx"}
    assert worker.nothing_left()


def test_directory_that_is_not_the_executors(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest))
    worker.work_dir.mkdir()
    (worker.work_dir / "thesis.tex").touch()
    assert worker.run() == 64
    assert worker.cleanup() == 64
    assert (worker.work_dir / "thesis.tex").exists()
    assert worker.service.calls == []


# --- what is shipped to a worker


def test_runs_from_the_bundle_alone(bundle: Path) -> None:
    script = (
        "import sys, cdmtaskservice.executor.__main__, awscrt; print(sorted({m.split('.')[0] for m in sys.modules}))"
    )
    environment = {"PYTHONPATH": str(bundle), "PATH": os.environ["PATH"]}
    for arguments in (["-m", "cdmtaskservice.executor", "--help"], ["-c", script]):
        ran = subprocess.run(
            [sys.executable, "-S", *arguments], env=environment, capture_output=True, text=True, timeout=30
        )
        assert ran.returncode == 0, ran.stderr
    assert not {"pydantic", "structlog", "httpx", "aiohttp"} & set(ran.stdout.split("'"))


def test_wrong_usage_is_64(bundle: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-S", "-m", "cdmtaskservice.executor", "--job", "x"],
        env={"PYTHONPATH": str(bundle), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ran.returncode == 64
    assert "--work-dir" in ran.stderr


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_signal_before_the_claim_is_answered(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest))
    executor = worker.start("--url", f"http://127.0.0.1:{_closed_port()}")
    poll(lambda: (worker.directory / "stderr").stat().st_size > 0, "the executor is at work")
    executor.terminate()
    assert executor.wait(10) == 143
    assert worker.nothing_left()
