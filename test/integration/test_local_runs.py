"""The files of the local site where they are not as they should be: after a power cut, or when they pile up."""

import json
import os
import time
from pathlib import Path

import pytest

from cdmtaskservice.sites.base import Run, RunRequest, RunState
from cdmtaskservice.sites.local.runs import Over, RunFiles, run_name, run_of

RUN = Run("job", 0, 1)


def request(run: Run) -> RunRequest:
    return RunRequest(run, "ann", 1, 10**6, 60.0)


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    files = RunFiles(tmp_path / "work")
    files.prepare()
    return files


def state(files: RunFiles, run: Run) -> RunState:
    return files.poll([run], None)[run].state


def test_names_are_read_back() -> None:
    run = Run("a.b-c", 12, 3)
    assert run_of(run_name(run)) == run
    assert run_of("lost+found").job_id == ""


def test_what_is_submitted_is_read_back_in_its_order(files: RunFiles) -> None:
    runs = [Run("b", 1, 1), Run("a", 0, 1), Run("b", 0, 1)]
    files.submit([request(r) for r in runs[:2]])
    files.submit([request(r) for r in runs])
    stored = [files.stored(name) for name in files.names()]
    order = sorted((s for s in stored if s), key=lambda s: s.sequence)
    assert [s.request for s in order] == [request(r) for r in runs]


def test_a_lost_counter_goes_on_behind_what_is_queued(files: RunFiles) -> None:
    files.submit([request(Run("job", n, 1)) for n in range(3)])
    (files.root / "sequence").write_text("")
    files.submit([request(Run("later", 0, 1))])
    stored = files.stored("later.0.1")
    assert stored is not None
    assert stored.sequence == 4


def test_a_damaged_fate_counts_as_started(files: RunFiles) -> None:
    files.submit([request(RUN)])
    (files.path("job.0.1") / "fate.json").write_text("")
    assert state(files, RUN) is RunState.RUNNING
    assert not files.cancel("job.0.1", "why not")
    assert files.claim("job.0.1") is None


def test_only_one_of_start_and_cancel_wins(files: RunFiles) -> None:
    files.submit([request(RUN)])
    assert files.cancel("job.0.1", "first")
    assert files.claim("job.0.1") is None
    assert state(files, RUN) is RunState.ENDED
    other = Run("job", 1, 1)
    files.submit([request(other)])
    lock = files.claim("job.1.1")
    assert lock is not None
    assert not files.cancel("job.1.1", "late")
    assert state(files, other) is RunState.RUNNING
    # While the lock is held nobody can claim it, and a look at it takes nothing away.
    with pytest.raises(BlockingIOError):
        files.claim("job.1.1")
    os.close(lock)
    assert not files.alive("job.1.1")


def test_a_request_that_cannot_be_read(files: RunFiles) -> None:
    files.submit([request(RUN)])
    for damage in ("", "[]", '{"request": {}}', json.dumps({"request": {"run": 3}})):
        (files.path("job.0.1") / "request.json").write_text(damage)
        assert files.stored("job.0.1") is None
    assert state(files, RUN) is RunState.QUEUED


def test_logs_are_bounded_in_number_and_age(files: RunFiles) -> None:
    now = time.time()
    for n in range(4):
        run = Run("job", n, 1)
        files.submit([request(run)])
        (files.path(run_name(run)) / "log").write_bytes(b"x" * 1000 + b"\n")
        lock = files.claim(run_name(run))
        assert lock is not None
        os.close(lock)
        files.declare_over(run_name(run), Over(1, "the executor exited with 1", now))
    files.release("job", keep_logs=True)
    assert list(files.names()) == []
    for n in range(4):
        os.utime(files.kept_log(f"job.{n}.1"), (now - n * 100, now - n * 100))
    files.sweep(log_retention=250.0, log_space=1 << 20)
    assert [files.kept_log(f"job.{n}.1").exists() for n in range(4)] == [True, True, True, False]
    files.sweep(log_retention=250.0, log_space=2500)
    assert [files.kept_log(f"job.{n}.1").exists() for n in range(3)] == [True, True, False]


def test_a_run_released_between_its_end_and_the_look_at_it(files: RunFiles) -> None:
    files.submit([request(RUN)])
    lock = files.claim("job.0.1")
    assert lock is not None
    files.release("job", keep_logs=True)
    assert state(files, RUN) is RunState.RUNNING
    os.close(lock)
    files.declare_over("job.0.1", Over(0, "the executor exited with 0", time.time()))
    assert state(files, RUN) is RunState.UNKNOWN
    assert os.listdir(files.root / "tmp") == []
