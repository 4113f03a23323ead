"""The executor on real parts, on the ways that are meant: podman, a registry, an S3 store; a stand-in as service."""

import os
import subprocess
import sys
from pathlib import Path

from cdmtaskservice.embedded.image import Pushed
from test.stand_ins.executor_service import CONTAINER_TOKEN, EXECUTOR_TOKEN, Work

from .executor_worker import FAILED, HAPPY, Begin, outputs

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
