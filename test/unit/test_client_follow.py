"""Following the log of a container, over connections that break and attempts that are lost."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cdmtaskservice.client import LogChunk, NoLogs, ResourceUnavailable, ServiceUnreachable, Unsupported
from test.stand_ins.client_desk import JOB, Desk, Facade, client_of, refusal, reply, status, stream

LOG = "GET /jobs/job-1/log/0/stdout"
CONTAINERS = "GET /jobs/job-1/containers"
STATUS = "GET /jobs/job-1/status"
BREAK = httpx.RemoteProtocolError("incomplete chunked read")


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(params=["sync", "async"])
def cts(request: pytest.FixtureRequest, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Facade]:
    yield from client_of(request.param, desk, monkeypatch)


def log(*pieces: Any, attempt: int = 1, offset: int = 0) -> httpx.Response:
    return stream(*pieces, cts_log_attempt=str(attempt), cts_log_offset=str(offset))


def container(state: str, attempt: int = 1) -> httpx.Response:
    others = {"container_number": 1, "state": "complete", "attempt": 9}
    return reply({"containers": [others, {"container_number": 0, "state": state, "attempt": attempt}]})


def read(cts: Facade, **more: Any) -> list[tuple[bytes, int | None, int, int]]:
    return [(bytes(c), c.attempt, c.offset, c.missing) for c in cts.follow_log(JOB, **more)]


def seeks(desk: Desk) -> list[str | None]:
    return [r.url.params.get("seek") for r in desk.requests(LOG)]


def test_a_container_that_runs_to_its_end(cts: Facade, desk: Desk):
    desk.on(LOG, log(b"one\n", b"two\n"))
    desk.on(CONTAINERS, container("upload_submitting"))
    found = list(cts.follow_log(JOB))
    assert b"".join(found) == b"one\ntwo\n"
    assert all(isinstance(c, LogChunk) for c in found)
    assert desk.asked[0].url.params["follow"] == "true"
    assert desk.asked[0].extensions["timeout"]["read"] == 60
    assert desk.slept == []


def test_another_container_and_stream(cts: Facade, desk: Desk):
    desk.on("GET /jobs/job-1/log/1/stderr", log(b"x", attempt=9, offset=7))
    desk.on(CONTAINERS, container("created"))
    assert [bytes(c) for c in cts.follow_log(JOB, 1, "stderr", seek=7)] == [b"x"]
    assert desk.asked[0].url.params["seek"] == "7"


@pytest.mark.parametrize("fault", [BREAK, httpx.ReadTimeout(""), httpx.ReadError("reset")])
def test_a_broken_connection_goes_on_where_it_was(cts: Facade, desk: Desk, fault: Exception):
    desk.on(
        LOG,
        log(b"012", b"34", fault),
        httpx.ConnectError("refused"),
        log(b"56", fault, offset=5),
        log(fault, offset=7),
        log(b"7", offset=7),
    )
    desk.on(CONTAINERS, container("complete"))
    assert b"".join(cts.follow_log(JOB)) == b"01234567"
    assert seeks(desk) == [None, "5", "5", "7", "7"]


def test_bytes_that_come_again_are_dropped(cts: Facade, desk: Desk):
    desk.on(LOG, log(b"0123", BREAK), log(b"01", b"2345", offset=0))
    desk.on(CONTAINERS, container("complete"))
    assert read(cts) == [(b"0123", 1, 0, 0), (b"45", 1, 4, 0)]


def test_bytes_that_are_not_kept_any_more_are_counted(cts: Facade, desk: Desk):
    desk.on(LOG, log(b"abc", offset=100), log(b"z", offset=1000))
    desk.on(CONTAINERS, container("job_submitted"), container("complete"))
    desk.on(STATUS, reply(status("job_submitted")))
    assert read(cts, seek=10) == [(b"abc", 1, 100, 90), (b"z", 1, 1000, 897)]
    assert seeks(desk) == ["10", "103"]


def test_a_new_attempt_after_a_break_is_read_from_its_beginning(cts: Facade, desk: Desk):
    desk.on(LOG, log(b"old", BREAK), log(b"w log", attempt=2, offset=3), log(b"new log", attempt=2))
    desk.on(CONTAINERS, container("complete", 2))
    assert read(cts) == [(b"old", 1, 0, 0), (b"new log", 2, 0, 0)]
    assert seeks(desk) == [None, "3", None]


def test_a_new_attempt_after_a_lost_one_follows(cts: Facade, desk: Desk):
    desk.on(LOG, log(b"old"), log(attempt=2, offset=3), log(b"new", attempt=2))
    desk.on(CONTAINERS, container("created", 2), container("complete", 2))
    assert read(cts) == [(b"old", 1, 0, 0), (b"new", 2, 0, 0)]


def test_a_lost_attempt_that_is_not_replaced_yet(cts: Facade, desk: Desk):
    desk.on(LOG, log(b"old"), log(offset=3), log(offset=3), log(attempt=2, offset=3), log(b"new", attempt=2))
    desk.on(CONTAINERS, *[container("job_submitted")] * 3, container("error", 2))
    desk.always(STATUS, reply(status("job_submitted")))
    assert read(cts) == [(b"old", 1, 0, 0), (b"new", 2, 0, 0)]
    assert desk.slept == [0.5, 1, 2]


@pytest.mark.parametrize("state", ["canceling", "canceled", "error"])
def test_a_job_that_is_over_ends_it(cts: Facade, desk: Desk, state: str):
    desk.on(LOG, log(b"x"))
    desk.on(CONTAINERS, container("job_submitted"))
    desk.on(STATUS, reply(status(state)))
    assert b"".join(cts.follow_log(JOB)) == b"x"


def test_a_service_that_knows_no_attempts(cts: Facade, desk: Desk):
    desk.on(LOG, stream(b"ab", BREAK), stream(b"c"))
    desk.on(CONTAINERS, refusal(404, 40000))
    assert read(cts) == [(b"ab", None, 0, 0), (b"c", None, 2, 0)]
    assert seeks(desk) == [None, "2"]


def test_a_log_between_two_places_is_waited_for(cts: Facade, desk: Desk):
    desk.on(LOG, log(b"ab", BREAK), refusal(404, 40070), refusal(404, 40070), log(b"c", offset=2))
    desk.on(CONTAINERS, *[container("job_submitted")] * 2, container("complete"))
    desk.always(STATUS, reply(status("job_submitted")))
    assert b"".join(cts.follow_log(JOB)) == b"abc"


def test_a_log_that_will_not_come_any_more(cts: Facade, desk: Desk):
    desk.on(LOG, log(b"ab", BREAK), refusal(404, 40070))
    desk.on(CONTAINERS, container("error"))
    with pytest.raises(NoLogs):
        list(cts.follow_log(JOB))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(404, 40070), NoLogs),
        (refusal(400, 100000), Unsupported),
        (refusal(400, 60000), ResourceUnavailable),
    ],
)
def test_refusals_are_told(cts: Facade, desk: Desk, answer: httpx.Response, error: type[Exception]):
    desk.on(LOG, answer)
    with pytest.raises(error):
        list(cts.follow_log(JOB))
    assert len(desk.asked) == 1


def test_a_service_that_stays_away(cts: Facade, desk: Desk):
    desk.on(LOG, log(b"x", BREAK), *[httpx.ConnectError("refused")] * 6)
    with pytest.raises(ServiceUnreachable):
        list(cts.follow_log(JOB))
    assert desk.left == []
