"""The table of answers, retries, reports and heartbeats."""

import base64
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from cdmtaskservice.executor import protocol, retry
from cdmtaskservice.executor.failures import BadToken, EndedByEngine, GaveUp, NotOurs, StoppedByService, failure_of
from cdmtaskservice.executor.jsonlog import Log, redacted
from cdmtaskservice.executor.live_logs import MOST_BEHIND, PIECE, LiveLogs
from cdmtaskservice.executor.protocol import Beat, Rejected, Service, _judged, _NoAnswer
from cdmtaskservice.executor.reporting import Heartbeat, Progress, Reporter, pause_after
from cdmtaskservice.executor.retry import LONGEST_WAIT, Retry
from cdmtaskservice.executor.stopping import Stop

from .test_executor_order import ORDER


class Quiet(Log):
    def event(self, event: str, **keys: object) -> None:
        pass


def error(code: int | None, message: str = "why") -> bytes:
    return json.dumps({"error": {"appcode": code, "message": message}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "raised"),
    [
        (408, b"", _NoAnswer),
        (429, b"", _NoAnswer),
        (500, error(None), _NoAnswer),
        (503, b"<html>", _NoAnswer),
        (200, b"<html>", _NoAnswer),  # some proxy's page
        (400, error(30300), NotOurs),
        (404, error(40040), NotOurs),
        (404, b"nothing here", NotOurs),
        (401, error(10020), BadToken),
        (403, error(20000), BadToken),
        (400, error(30010), Rejected),
        (400, b"[]", Rejected),
        (413, b"", Rejected),
        (302, b"", Rejected),
    ],
)
def test_table_of_answers(status: int, body: bytes, raised: type[Exception]) -> None:
    with pytest.raises(raised):
        _judged(status, body, None)


def test_good_answers_and_retry_after() -> None:
    assert _judged(200, b'{"a": 1}', None) == {"a": 1}
    assert _judged(204, b"", None) is None
    with pytest.raises(_NoAnswer) as no:
        _judged(503, b"", "7")
    assert no.value.retry_after == 7
    with pytest.raises(Rejected, match="too long a name"):
        _judged(400, error(30001, "too long a name"), None)


@pytest.mark.parametrize("url", ["example.org", "ftp://x", "http://", ""])
def test_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        Service(url, "j", 0, "t", 1, Stop(), Quiet())


class Clock:
    """Time that passes only in sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: Stop) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []
        monkeypatch.setattr(retry.time, "monotonic", lambda: self.now)  # type: ignore[attr-defined]
        monkeypatch.setattr(stop, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def test_retries_double_with_jitter_up_to_a_bound_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    clock = Clock(monkeypatch, stop)
    tries = Retry(stop, patience=600)
    while tries.wait():
        pass
    assert sum(clock.sleeps) == pytest.approx(600)
    for n, slept in enumerate(clock.sleeps[:-1]):
        longest = min(LONGEST_WAIT, 0.25 * 2**n)
        assert longest / 2 <= slept <= longest
    assert len(set(clock.sleeps)) == len(clock.sleeps)


def test_progress_renews_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    clock = Clock(monkeypatch, stop)
    tries = Retry(stop, patience=10)
    for _ in range(50):
        assert tries.wait(at_least=5)
        tries.progress()
    assert clock.now > 300


def test_retry_ends_with_the_stop() -> None:
    stop = Stop()
    threading.Timer(0.05, lambda: stop.set(NotOurs("x"))).start()
    begun = time.monotonic()
    with pytest.raises(NotOurs):
        Retry(stop, 1000, first_wait=30).wait()
    assert time.monotonic() - begun < 5


def test_service_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    Clock(monkeypatch, stop)
    service = Service("http://127.0.0.1:1/x", "j", 0, "t", 5, stop, Quiet())

    def refuse(*_: object) -> None:
        raise _NoAnswer("refused")

    monkeypatch.setattr(service, "_once", refuse)
    with pytest.raises(GaveUp, match="did not answer /update/complete for 5 s"):
        service.update("complete", {})


class FakeService(Service):
    """Answers reports and heartbeats as told."""

    def __init__(self, outcomes: Mapping[str, Exception] | None = None, stop_reason: str | None = None) -> None:
        self.outcomes = outcomes or {}
        self.stop_reason = stop_reason
        self.seen: list[str] = []
        self.beats = 0
        self.wanted: list[Mapping[str, int]] = []
        """What the answers to heartbeats ask for, one after the other."""
        self.pieces: list[object] = []

    def update(self, state: str, body: Mapping[str, object]) -> None:
        assert str(body["time"]).endswith("Z")
        self.seen.append(state)
        if state in self.outcomes:
            raise self.outcomes[state]

    def heartbeat(self, body: Mapping[str, object]) -> Beat:
        self.beats += 1
        self.pieces.append(body.get("logs"))
        if "heartbeat" in self.outcomes and self.beats == 1:
            raise self.outcomes["heartbeat"]
        return Beat(self.stop_reason, self.wanted.pop(0) if self.wanted else {})


def test_reports_keep_their_order() -> None:
    service, stop = FakeService(), Stop()
    reporter = Reporter(service, stop, Quiet())
    for n in range(50):
        reporter.send(str(n))
    reporter.flush()
    assert service.seen == [str(n) for n in range(50)]
    reporter.close()


def test_rejected_report_is_raised_once_and_the_next_is_sent() -> None:
    service, stop = FakeService({"a": Rejected("bad")}), Stop()
    reporter = Reporter(service, stop, Quiet())
    reporter.send("a")
    with pytest.raises(Rejected):
        reporter.flush()
    reporter.send("error")
    reporter.flush()
    assert service.seen == ["a", "error"]
    reporter.close()


@pytest.mark.parametrize("why", [NotOurs("x"), BadToken("x"), ZeroDivisionError("a bug")])
def test_report_that_ends_everything(why: Exception) -> None:
    service, stop = FakeService({"a": why}), Stop()
    reporter = Reporter(service, stop, Quiet())
    reporter.send("a")
    with pytest.raises(type(why)):
        reporter.flush()
    assert stop.why is why


def test_heartbeat_stops_everything() -> None:
    stop = Stop()
    Heartbeat(FakeService(stop_reason="canceled"), Progress(), LiveLogs("/nowhere"), 0.001, stop, Quiet())
    with pytest.raises(StoppedByService, match="canceled"):
        stop.sleep(10)


def test_heartbeat_goes_on_after_a_fault() -> None:
    stop = Stop()
    service = FakeService({"heartbeat": ZeroDivisionError("a bug")}, stop_reason="canceled")
    Heartbeat(service, Progress(), LiveLogs("/nowhere"), 0.001, stop, Quiet())
    with pytest.raises(StoppedByService):
        stop.sleep(10)
    assert service.beats == 2


def piece(stream: str, offset: int, data: bytes) -> dict[str, object]:
    return {"stream": stream, "offset": offset, "data": base64.b64encode(data).decode()}


def test_logs_are_sent_when_they_are_asked_for_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b"0123456789")
    logs = LiveLogs(str(tmp_path))
    assert logs.take() == ([], False)
    logs.want({"stdout": 4, "stderr": 0, "../secret": 0})
    assert logs.take() == ([piece("stdout", 4, b"456789")], False)
    assert logs.take() == ([], False)
    logs.want({"stdout": 10})
    assert logs.take() == ([], False)


def test_a_long_log_comes_in_pieces_and_not_from_its_beginning(tmp_path: Path) -> None:
    data = bytes(range(256)) * (MOST_BEHIND // 256 + 10)
    (tmp_path / "stderr").write_bytes(data)
    logs = LiveLogs(str(tmp_path))
    logs.want({"stderr": 0})
    start = len(data) - MOST_BEHIND
    assert logs.take() == ([piece("stderr", start, data[start : start + PIECE])], True)
    logs.want({"stderr": len(data) - PIECE})
    assert logs.take() == ([piece("stderr", len(data) - PIECE, data[-PIECE:])], False)


def test_heartbeats_carry_logs_while_they_are_followed(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b"one\n")
    stop, service = Stop(), FakeService()
    service.wanted = [{"stdout": 0}, {"stdout": 4}]
    heartbeat = Heartbeat(service, Progress(), LiveLogs(str(tmp_path)), 0.001, stop, Quiet())
    deadline = time.monotonic() + 20
    while service.beats < 4 and time.monotonic() < deadline:
        stop.sleep(0.001)
    heartbeat.close()
    assert service.pieces[:4] == [None, [piece("stdout", 0, b"one\n")], None, None]


def test_heartbeats_come_more_often_at_first() -> None:
    ages = [0.0]
    while ages[-1] < 120:
        ages.append(ages[-1] + pause_after(ages[-1], 15.0, 1.0))
    assert ages[1] == 2.0
    assert len([age for age in ages if age <= 60]) == 9
    assert ages[-1] - ages[-2] == 15.0
    assert pause_after(0.0, 15.0, 0.6) < 2.0 < pause_after(0.0, 15.0, 1.4)
    assert pause_after(1e6, 15.0, 1.4) == 15.0
    assert pause_after(0.0, 0.5, 1.0) == 0.5


def test_what_an_answer_to_a_heartbeat_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service("http://127.0.0.1:1", "j", 0, "t", 1.0, Stop(), Quiet())
    for answer, beat in (
        ({"stop": False, "reason": None, "logs": {"stdout": 5, "stderr": -1, "x": "1"}}, Beat(None, {"stdout": 5})),
        ({"stop": False, "logs": ["stdout"]}, Beat()),
        ({"stop": True, "reason": None}, Beat("the service said stop")),
        ({"stop": True, "reason": "canceled", "logs": {"stdout": 5}}, Beat("canceled")),
        (None, Beat()),
    ):
        monkeypatch.setattr(service, "_once", lambda *_, answer=answer: answer)
        assert service.heartbeat({}) == beat


def test_progress() -> None:
    progress = Progress()
    progress.start("uploading", 10)
    progress.add(7)
    progress.add(-3)
    expected = {"phase": "uploading", "bytes_done": 4, "bytes_total": 10, "ending": None}
    assert progress.body() == expected
    assert progress.body("SIGTERM")["ending"] == "SIGTERM"


def test_first_reason_counts_and_children_follow() -> None:
    parent = Stop()
    child, other = Stop(parent), Stop(parent)
    other.set(NotOurs("only mine"))
    assert parent.why is None
    assert child.why is None
    parent.set(EndedByEngine(15))
    parent.set(NotOurs("too late"))
    assert isinstance(child.why, EndedByEngine)
    assert child.why.exit_code == 143
    late = Stop(parent)
    with pytest.raises(EndedByEngine):
        late.check()


def test_redacted_urls_and_words_for_a_full_disk() -> None:
    assert redacted("https://u:p@s3/b/k?X-Amz-Signature=x#f") == "https://s3/b/k"
    assert "disk was full" in failure_of(OSError(28, "No space left on device")).error
    other = failure_of(KeyError("x"))
    assert "not the job's fault" in other.error
    assert "KeyError" in str(other.admin_error)


def test_order_that_cannot_be_read_leaves_the_token_for_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service("http://h", "j", 0, "executor", 5, Stop(), Quiet())
    monkeypatch.setattr(service, "_once", lambda *_: {"token": "container"})
    with pytest.raises(protocol.Rejected, match="cannot be carried out: "):
        service.claim("0" * 32, 1)
    assert service._token == "container"


@pytest.mark.parametrize(
    ("attempt", "run", "body"), [(2, None, {"attempt": 2}), (None, 3, {"run": 3}), (None, None, {})]
)
def test_claim_says_what_the_executor_was_launched_for(
    monkeypatch: pytest.MonkeyPatch, attempt: int | None, run: int | None, body: Mapping[str, object]
) -> None:
    service = Service("http://h", "j", 0, "executor", 5, Stop(), Quiet())
    sent: list[object] = []

    def once(method: str, path: str, body: Mapping[str, object], timeout: float) -> object:
        sent.append((method, path, body))
        return ORDER

    monkeypatch.setattr(service, "_once", once)
    service.claim("0" * 32, attempt, run)
    assert sent == [("POST", "/work", {"claim": "0" * 32, **body})]
