"""Containers whose executors were killed, and whose scheduler removed their work directories: who ends them."""

import json
import os
import shutil
import signal
from pathlib import Path

from cdmtaskservice.embedded.image import Pushed
from test.stand_ins.executor_service import Work

from .executor_worker import HAPPY, Begin, Worker, poll


def killed(begin: Begin, image: Pushed, cache: Path) -> Worker:
    """A worker whose container runs on, without an executor and without a work directory."""
    worker = begin(Work(image.by_digest, args=["sleep", "120"]))
    executor = worker.start("--cache-dir", str(cache))
    worker.service.await_call(lambda c: c.path == "/update/job_submitted")
    executor.send_signal(signal.SIGKILL)
    executor.wait()
    shutil.rmtree(worker.work_dir)
    assert worker.containers() == [worker.name]
    return worker


def notes(cache: Path) -> list[str]:
    return sorted(note.stem for note in (cache / "running").iterdir())


def test_the_next_executor_on_the_worker_ends_it(begin: Begin, seqtool_image: Pushed, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    left = killed(begin, seqtool_image, cache)
    assert notes(cache) == [left.name]
    other = begin(Work(seqtool_image.by_digest, args=["sleep", "1"]))
    assert other.run("--cache-dir", str(cache)) == 0
    assert other.service.states() == HAPPY
    poll(lambda: not left.containers(), "the container is gone")
    poll(lambda: notes(cache) == [], "its note is gone")
    assert not list(Path("/sys/fs/cgroup").glob(f"*/*{left.service.job}*"))
    assert [e["container_name"] for e in other.log() if e["event"] == "ending_leftovers"] == [left.name]


def test_several_starts_at_once_end_it_once(begin: Begin, seqtool_image: Pushed, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    left = killed(begin, seqtool_image, cache)
    others = [begin(Work(seqtool_image.by_digest, args=["sleep", "2"])) for _ in range(3)]
    for other in others:
        other.start("--cache-dir", str(cache))
    for other in others:
        assert other.processes[0].wait(60) == 0
    poll(lambda: not left.containers() and notes(cache) == [], "the container and its note are gone")
    ended = [e for other in others for e in other.log() if e["event"] == "ending_leftovers"]
    assert len(ended) == 1


def test_a_living_executors_container_is_left_alone(begin: Begin, seqtool_image: Pushed, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    living = begin(Work(seqtool_image.by_digest, args=["sleep", "60"]))
    executor = living.start("--cache-dir", str(cache))
    living.service.await_call(lambda c: c.path == "/update/job_submitted")
    other = begin(Work(seqtool_image.by_digest, args=["sleep", "1"]))
    assert other.run("--cache-dir", str(cache)) == 0
    assert living.containers() == [living.name]
    assert executor.poll() is None
    executor.terminate()
    assert executor.wait(30) == 143
    assert living.nothing_left()
    assert notes(cache) == []


def test_a_note_that_is_not_ours_is_not_acted_upon(begin: Begin, seqtool_image: Pushed, tmp_path: Path) -> None:
    """What a note says is run, so whoever could write one could run anything."""
    cache, ran = tmp_path / "cache", tmp_path / "ran"
    program = tmp_path / "podman"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    note = cache / "running/x.json"
    note.parent.mkdir(parents=True, mode=0o700)
    worker = {"worker": [os.uname().nodename, Path("/proc/sys/kernel/random/boot_id").read_text().strip()]}
    said = {"container": "x", "runtime": "podman", "runtime_path": str(program), "process": None}
    note.write_text(json.dumps(said | worker))
    note.chmod(0o666)
    first = begin(Work(seqtool_image.by_digest, args=["sleep", "1"]))
    assert first.run("--cache-dir", str(cache)) == 0
    assert not ran.exists()
    note.chmod(0o600)
    second = begin(Work(seqtool_image.by_digest, args=["sleep", "1"]))
    assert second.run("--cache-dir", str(cache)) == 0
    poll(ran.exists, "a note of ours is acted upon")
