"""Cgroups on a made-up tree, logs, checksums, options, the work directory and the verdict."""

import os
import random
import signal
import threading
from pathlib import Path
from typing import cast

import pytest

from cdmtaskservice.executor import cgroups
from cdmtaskservice.executor.cgroups import ParentV2, Reading, Watcher, meter_for, parse_proc_cgroup, remove_cgroups
from cdmtaskservice.executor.checksum import combined, crc64nvme, encoded
from cdmtaskservice.executor.cleaning import clean_up
from cdmtaskservice.executor.container import Ran, Usage
from cdmtaskservice.executor.jsonlog import Log
from cdmtaskservice.executor.leftovers import Leftovers, end_process
from cdmtaskservice.executor.logs import LogCapture, tail
from cdmtaskservice.executor.mounts import MountPrefix
from cdmtaskservice.executor.options import CleanupOptions, RunOptions, parse
from cdmtaskservice.executor.order import Limits
from cdmtaskservice.executor.parallel import for_each
from cdmtaskservice.executor.stopping import Stop, stopped_by_signals
from cdmtaskservice.executor.verdict import duration, judged
from cdmtaskservice.executor.workdir import WorkDir, WorkDirBusy, WorkDirError

LIMITS = Limits(cpus=1, memory=50_000_000, runtime=5400, gpus=0, pids=10)


def ran(exit_code: int = 0, **more: object) -> Ran:
    memory = cast("int", more.pop("memory", 1000))
    fields = {"past_runtime": False, "out_of_memory": False, "memory_known": True, "log_error": None, **more}
    return Ran(exit_code, Usage(1.0, 2.0, memory), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (ran(), None),
        (ran(3), "exit code 3. Its logs"),
        (ran(139), "exit code 139 (SIGSEGV)"),
        (ran(255), "exit code 255."),
        (ran(0, out_of_memory=True), "more than its memory limit of 50 MB"),
        (ran(137, out_of_memory=True, past_runtime=True), "more than its memory limit of 50 MB"),
        (ran(0, past_runtime=True), "ran past its runtime of 1 h 30 min"),
        (ran(137, memory=49_900_000), "exit code 137 (SIGKILL)"),
        (ran(137, memory=49_900_000, memory_known=False), "more than its memory limit"),
        (ran(137, memory=10_000_000, memory_known=False), "exit code 137 (SIGKILL)"),
        (ran(0, log_error=OSError(28, "No space left on device")), "disk was full"),
    ],
)
def test_verdicts(how: Ran, words: str | None) -> None:
    problem = judged(how, LIMITS, "last words", False)
    assert (problem is None) == (words is None)
    if problem and words:
        assert words in problem.error


def test_verdict_with_a_full_disk_and_the_end_of_stderr() -> None:
    problem = judged(ran(1), LIMITS, "last words", True)
    assert problem is not None
    assert "disk is full, which may be the reason" in problem.error
    assert "last words" in str(problem.admin_error)


@pytest.mark.parametrize(
    ("stderr", "end"),
    [
        ("", "say why."),
        (" \n\n", "say why."),
        ("Traceback:\n  File\nKeyError: 'x'\n", """say why. The last line of stderr: "KeyError: 'x'\""""),
        ("\x1b[31mred\x07\x1b[0m \r\n\n", 'stderr: "[31mred  [0m"'),
        ("half a line\rdone: \ufffd", 'stderr: "done: \ufffd"'),
        ("x" * 1000 + "KeyError", f'stderr: "…{192 * "x"}KeyError"'),
        ("KeyError\nINFO:    Cleaning up image...\n", 'stderr: "KeyError"'),
        ("INFO: mine\n", 'stderr: "INFO: mine"'),
        ("words\n[stderr cut here: 20 bytes were written, the first 6 are kept]\n", "say why."),
    ],
)
def test_the_last_line_of_stderr_is_told(stderr: str, end: str) -> None:
    problem = judged(ran(1), LIMITS, stderr, False)
    assert problem is not None
    assert problem.error.endswith(end)


def test_only_an_exit_code_needs_the_words_of_stderr() -> None:
    problem = judged(ran(0, past_runtime=True), LIMITS, "last words", False)
    assert problem is not None
    assert "last words" not in problem.error


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.0, "1 s"), (90.5, "90.5 s"), (119, "119 s"), (120, "2 min"), (3661, "1 h 1 min 1 s"), (86400, "24 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_checksums() -> None:
    assert encoded(crc64nvme(b"123456789")) == "rosUhgp5mIg="
    assert encoded(0) == "AAAAAAAAAAA="
    data = random.Random(1).randbytes(1000)
    assert crc64nvme(memoryview(bytearray(data))[300:], crc64nvme(data[:300])) == crc64nvme(data)
    pieces = [data[:1], data[1:500], b"", data[500:]]
    assert combined([(crc64nvme(p), len(p)) for p in pieces]) == crc64nvme(data)


def fill(directory: Path, **files: str) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)


def test_cgroup_v2_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_CLEAR_SECONDS", 0.0)
    (tmp_path / "cgroup.controllers").touch()
    make = os.mkdir

    def mkdir(path: str) -> None:
        make(path)
        fill(
            Path(path),
            memory__events="low 0\noom 2\noom_kill 0\n",
            memory__current="500",
            cpu__stat="usage_usec 1500000\n",
        )

    monkeypatch.setattr(cgroups.os, "mkdir", mkdir)  # type: ignore[attr-defined]
    meter = meter_for("cts-x", 1000, True, str(tmp_path))
    assert isinstance(meter, ParentV2)
    assert (meter.parent, meter.slack, meter.exact) == ("/cts-x", 0, True)
    assert meter.read() == Reading(500, 1.5, False)
    fill(tmp_path / "cts-x", memory__current="100", memory__events="oom_kill 1\n")
    assert meter.read() == Reading(500, 1.5, True)  # without a peak, the most that was seen
    fill(tmp_path / "cts-x", memory__peak="700")
    assert meter.read().memory == 700
    meter.close()


def test_without_a_parent_the_containers_own_cgroup_is_watched(tmp_path: Path) -> None:
    meter = meter_for("cts-x", 1000, False, str(tmp_path))
    assert isinstance(meter, Watcher)
    assert (meter.parent, meter.exact) == (None, False)
    assert meter.read() == Reading(0, 0.0, False)
    meter._paths = {"memory": "/c", "cpuacct": "/c"}
    fill(tmp_path / "memory/c", memory__max_usage_in_bytes="77\n", memory__oom_control="under_oom 0\noom_kill 1\n")
    fill(tmp_path / "cpuacct/c", cpuacct__usage="2000000000\n")
    assert meter.read() == Reading(77, 2.0, True)
    (tmp_path / "memory/c/memory.max_usage_in_bytes").unlink()
    assert meter.read() == Reading(77, 2.0, True)  # the container is gone: the last reading counts


def test_a_kernel_without_memory_counters_falls_back(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    assert isinstance(meter_for("cts-x", 1000, True, str(tmp_path)), Watcher)
    assert not (tmp_path / "cts-x").exists()


def test_removing_cgroups(tmp_path: Path) -> None:
    for hierarchy in ("memory", "cpu,cpuacct"):
        (tmp_path / hierarchy / "cts-x/libpod-1").mkdir(parents=True)
        (tmp_path / hierarchy / "cts-y").mkdir()
    (tmp_path / "cpuacct").symlink_to("cpu,cpuacct")
    remove_cgroups("cts-x", str(tmp_path))
    remove_cgroups("cts-x", str(tmp_path))
    assert sorted(p.name for p in tmp_path.glob("*/cts-*")) == ["cts-y"] * 3


def test_proc_cgroup() -> None:
    paths = parse_proc_cgroup("4:memory:/a\n2:cpu,cpuacct:/b:c\n0::/d\n")
    assert paths == {"memory": "/a", "cpu": "/b:c", "cpuacct": "/b:c", "": "/d"}


def capture(tmp_path: Path, data: bytes, limit: int) -> bytes:
    reader, writer = os.pipe()
    log = LogCapture("stdout", os.fdopen(reader, "rb"), str(tmp_path / "stdout"), limit)
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(data)
    log.join(10)
    assert log.error is None
    return (tmp_path / "stdout").read_bytes()


def test_logs_are_kept_up_to_their_limit(tmp_path: Path) -> None:
    assert capture(tmp_path, b"x" * 200_000, 200_000) == b"x" * 200_000
    kept = capture(tmp_path, b"x" * 200_001, 200_000)
    assert kept.endswith(b"[stdout cut here: 200001 bytes were written, the first 200000 are kept]\n")
    assert tail(str(tmp_path / "stdout"), 7) == " kept]\n"
    assert tail(str(tmp_path / "none")) == ""


def test_log_on_a_full_disk_lets_the_container_go_on() -> None:
    reader, writer = os.pipe()
    log = LogCapture("stderr", os.fdopen(reader, "rb"), "/dev/full", 1 << 20)
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(b"x" * 500_000)
    log.join(10)
    assert log.error is not None
    assert log.error.errno == 28


REQUIRED = ["--url=http://h", "--token-file=/t", "--job=j", "--container=0", "--work-dir=/w"]


def test_options() -> None:
    options = parse(REQUIRED, {})
    assert isinstance(options, RunOptions)
    assert (options.run, options.mount_prefix) == (None, None)
    assert (options.attempt, options.runtime, options.keep_trying) == (None, "auto", 86400.0)
    assert parse(["cleanup", "--work-dir=/w"], {}) == CleanupOptions("/w")
    assert parse(["cleanup"], {"CTS_EXECUTOR_WORK_DIR": "/e"}) == CleanupOptions("/e")


def test_options_from_the_environment() -> None:
    environment = {"CTS_EXECUTOR_URL": "http://e", "CTS_EXECUTOR_CONTAINER": "3", "CTS_EXECUTOR_STOP_GRACE": "2.5"}
    options = parse(["--token-file=/t", "--job=j", "--work-dir=/w"], environment)
    assert isinstance(options, RunOptions)
    assert (options.url, options.container, options.grace) == ("http://e", 3, 2.5)
    options = parse([*REQUIRED, "--stop-grace=1"], environment)
    assert isinstance(options, RunOptions)
    assert (options.url, options.grace) == ("http://h", 1.0)
    environment = {"CTS_EXECUTOR_RUN": "2", "CTS_EXECUTOR_MOUNT_PREFIX": "/scratch/:/host/scratch"}
    options = parse(REQUIRED, environment)
    assert isinstance(options, RunOptions)
    assert (options.run, options.mount_prefix) == (2, MountPrefix("/scratch", "/host/scratch"))


@pytest.mark.parametrize(
    "argv",
    [
        [],
        REQUIRED[:-1],
        [*REQUIRED, "--container=-1"],
        [*REQUIRED, "--runtime=lxc"],
        [*REQUIRED, "--keep-trying=inf"],
        [*REQUIRED, "--run=0"],
        [*REQUIRED, "--run=1", "--attempt=1"],
        *(
            [*REQUIRED, f"--mount-prefix={p}"]
            for p in ("/a", "/a:/b:/c", "a:/b", "/a:b", "/a:", "/a/../b:/c", "/a:/b,c")
        ),
    ],
)
def test_wrong_options_exit_with_64(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv, {})
    assert ended.value.code == 64
    assert "cdmtaskservice.executor" in capsys.readouterr().err


def test_work_directory(tmp_path: Path) -> None:
    work = WorkDir.hold(str(tmp_path / "w"), create=True)
    assert work is not None
    work.lay_out()
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "w/output").stat().st_mode & 0o777 == 0o777
    note = Leftovers("cts-x", "podman", "/bin/podman", (1, "2"))
    work.note(note)
    assert work.leftovers() == note
    with pytest.raises(WorkDirBusy):
        WorkDir.hold(str(tmp_path / "w"), create=False)
    deep = tmp_path / "w/output"
    here = os.open(deep, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert work.remove()
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("note", ["", "[]", "{", '{"process": 3}', '{"process": ["x"]}'])
def test_note_that_was_cut_short(tmp_path: Path, note: str) -> None:
    fill(tmp_path, executor__json=note, executor__lock="")
    assert clean_up(str(tmp_path), Log(os.open(os.devnull, os.O_WRONLY))) == 0
    assert not tmp_path.exists()


def test_directory_of_somebody_else(tmp_path: Path) -> None:
    fill(tmp_path, thesis__tex="x")
    with pytest.raises(WorkDirError, match="not an executor's"):
        WorkDir.hold(str(tmp_path), create=True)
    with pytest.raises(WorkDirError, match="no mount can have"):
        WorkDir.hold(str(tmp_path / "a,b"), create=True)


def test_only_the_very_process_is_killed() -> None:
    end_process(os.getpid(), "0")  # another start: another process
    end_process(os.getpid(), "")


def test_first_failure_ends_the_others() -> None:
    scope = Stop()
    began = threading.Event()
    done: list[int] = []

    def work(item: int) -> None:
        if item == 0:
            began.wait(10)
            raise KeyError("first")
        if item == 1:
            began.set()
            scope.sleep(30)
        done.append(item)

    with pytest.raises(KeyError):
        for_each([0, 1, 2], work, 2, scope)
    assert done == []
    for_each([], work, 2, Stop())


def test_signals_become_a_stop() -> None:
    stop = Stop()
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Exception, match="SIGTERM"):
            stop.sleep(10)
    assert signal.getsignal(signal.SIGTERM) is before
