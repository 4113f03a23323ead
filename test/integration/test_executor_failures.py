"""Containers that fail, and inputs that are not what they should be: what the executor says of them."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cdmtaskservice.embedded.image import Pushed, build_image, push, shell_image
from cdmtaskservice.embedded.stack import EmbeddedStack
from test.stand_ins.executor_service import Work

from .executor_worker import FAILED, Begin, after, outputs, poll

# --- containers that fail


def test_failing_exit(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=["fail", "3"]))
    assert worker.run() == 0
    assert worker.service.states() == FAILED
    report = worker.service.update("error_processing_submitting")
    assert report["exit_code"] == 3
    assert report["usage"]["wall_seconds"] > 0
    assert worker.service.update("error")["error"] == (
        "The container exited with exit code 3. Its logs say why. "
        'The last line of stderr: "seqtool: failing with exit code 3, as asked"'
    )
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
