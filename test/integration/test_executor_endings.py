"""Executors that end early: by signal, told to stop, refused, or killed and cleaned up after."""

import signal
import socket
import time

import pytest

from cdmtaskservice.embedded.image import Pushed
from cdmtaskservice.embedded.stack import EmbeddedStack
from test.stand_ins.executor_service import Fault, Work

from .executor_worker import Begin, after, outputs, poll


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


def test_signal_before_the_claim_is_answered(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest))
    executor = worker.start("--url", f"http://127.0.0.1:{_closed_port()}")
    poll(lambda: (worker.directory / "stderr").stat().st_size > 0, "the executor is at work")
    executor.terminate()
    assert executor.wait(10) == 143
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


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
