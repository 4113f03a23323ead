"""A machine that runs executors, with the stand-in of the service that they speak to."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdmtaskservice.embedded.stack import EmbeddedStack
from test.stand_ins.executor_service import EXECUTOR_TOKEN, Call, ExecutorService

HAPPY = ["download_submitted", "job_submitting", "job_submitted", "upload_submitting", "upload_submitted", "complete"]
FAILED = [
    "download_submitted",
    "job_submitting",
    "job_submitted",
    "error_processing_submitting",
    "error_processing_submitted",
    "error",
]


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
