"""Waiting for a job: by events or by polling, through outages, with and without a timeout."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cdmtaskservice.client import (
    AuthenticationError,
    NoSuchJob,
    ServiceUnreachable,
    WaitTimeout,
    aio,
    blocking,
    watching,
)
from cdmtaskservice.client.progress import Bar
from test.stand_ins.client_desk import JOB, Desk, Facade, client_of, job, refusal, reply, status, stream
from test.unit.test_client_events import END, EVENTS, SSE, counts, event, state
from test.unit.test_client_retries import _caused

STATUS = "GET /jobs/job-1/status"
DETAILS = "GET /jobs/job-1"


class Shown(Bar):
    """Keeps what a bar is told."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.closed = 0

    def name(self, what: str) -> None:
        self.said.append(what)

    def count(self, done: int, total: int | None = None) -> None:
        self.said.append((done, total))

    def note(self, text: str | None) -> None:
        self.said.append({"note": text})

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Shown:
    shown = Shown()
    for module in (blocking, aio):
        monkeypatch.setattr(module, "new_bar", lambda wanted, title: shown)
    return shown


@pytest.fixture(params=["sync", "async"])
def cts(request: pytest.FixtureRequest, desk: Desk, bar: Shown, monkeypatch: pytest.MonkeyPatch) -> Iterator[Facade]:
    yield from client_of(request.param, desk, monkeypatch)


def test_a_job_that_is_over(cts: Facade, desk: Desk, bar: Shown):
    desk.on(STATUS, reply(status("error")))
    desk.on(DETAILS, reply(job("error")))
    assert cts.wait(JOB).state == "error"
    assert desk.slept == []
    assert bar.closed


def test_waiting_by_events(cts: Facade, desk: Desk, bar: Shown):
    desk.on(STATUS, reply(status("created")), reply(status("complete")))
    waiting, freed = event("waiting", {"waiting": "no room"}), event("waiting", {"waiting": None})
    desk.on(
        EVENTS,
        stream(
            state("created", 0),
            counts(created=2),
            waiting,
            state("job_submitted", 1),
            freed,
            counts(complete=1, job_submitted=1),
            state("complete", 2),
            END,
            kind=SSE,
        ),
    )
    desk.on(DETAILS, reply(job()))
    assert cts.wait(JOB).state == "complete"
    assert desk.slept == []
    assert bar.said == [
        "created",
        (0, 2),
        {"note": "no room"},
        "job_submitted",
        {"note": None},
        (1, 2),
        "complete",
        {"note": None},
    ]


def test_a_service_without_events_is_polled_ever_more_seldom(cts: Facade, desk: Desk):
    desk.on(EVENTS, refusal(404, 40000))
    desk.on(STATUS, *[reply(status("created"))] * 9, reply(status("job_submitted")), reply(status("complete")))
    desk.on(DETAILS, reply(job()))
    assert cts.wait(JOB).is_over
    assert len(desk.requests(EVENTS)) == 1
    assert desk.slept == [0.5, 1, 2, 4, 8, 15, 15, 15, 0.5]


def test_too_many_streams_are_waited_for_by_polling(cts: Facade, desk: Desk):
    desk.on(EVENTS, refusal(400, 60000), stream(END, kind=SSE))
    desk.always(STATUS, lambda _: reply(status("complete" if len(desk.requests(EVENTS)) > 1 else "created")))
    desk.on(DETAILS, reply(job()))
    assert cts.wait(JOB).is_over
    assert sum(desk.slept) >= 60


def test_an_outage_of_any_length_is_waited_for(cts: Facade, desk: Desk, bar: Shown):
    away: list[Any] = [httpx.ConnectError("[Errno 111] Connection refused"), refusal(503), httpx.ReadTimeout("")] * 100
    desk.on(STATUS, reply(status("created")), *away, reply(status("created")), reply(status("complete")))
    desk.on(EVENTS, stream(httpx.ReadError("reset"), kind=SSE), httpx.ConnectError("refused"), stream(END, kind=SSE))
    desk.on(DETAILS, *away, reply(job()))
    assert cts.wait(JOB).is_over
    assert max(desk.slept) == 20
    notes = [s["note"] for s in bar.said if isinstance(s, dict)]
    assert any(n and n.startswith("No answer for ") and "Connection refused" in n for n in notes)
    assert any(n and int(n.removeprefix("No answer for ").split()[0]) > 1000 for n in notes)
    assert notes[-1] is None
    assert desk.left == []


def test_an_outage_from_the_first_moment_on(cts: Facade, desk: Desk):
    desk.on(STATUS, *[httpx.ConnectError("refused")] * 50, reply(status("complete")))
    desk.on(DETAILS, reply(job()))
    assert cts.wait(JOB).is_over


def test_a_host_that_never_was_there_is_not_waited_for(cts: Facade, desk: Desk, bar: Shown):
    desk.always(STATUS, httpx.ConnectError("[Errno -2] Name or service not known"))
    with pytest.raises(ServiceUnreachable):
        cts.wait(JOB)
    assert len(desk.asked) == 6
    assert bar.closed


def test_a_host_that_is_not_known_for_a_while_is(cts: Facade, desk: Desk):
    lost = httpx.ConnectError("[Errno -2] Name or service not known")
    desk.on(STATUS, reply(status("created")), *[lost] * 30, reply(status("complete")))
    desk.on(EVENTS, lost)
    desk.on(DETAILS, reply(job()))
    assert cts.wait(JOB).is_over


def test_a_certificate_that_is_not_trusted_is_not_waited_for(cts: Facade, desk: Desk):
    desk.always(STATUS, lambda _: _caused(httpx.ConnectError("CERTIFICATE_VERIFY_FAILED"), OSError()))
    with pytest.raises(ServiceUnreachable):
        cts.wait(JOB)
    assert len(desk.asked) == 1


@pytest.mark.parametrize(
    ("answer", "error"), [(refusal(404, 40040), NoSuchJob), (refusal(401, 10020), AuthenticationError)]
)
def test_refusals_end_it(cts: Facade, desk: Desk, bar: Shown, answer: httpx.Response, error: type[Exception]):
    desk.on(STATUS, answer, reply(status("created")))
    with pytest.raises(error):
        cts.wait(JOB)
    desk.on(EVENTS, answer)
    with pytest.raises(error):
        cts.wait(JOB)
    assert bar.closed


def test_a_timeout_is_kept_to_the_second_by_polling(cts: Facade, desk: Desk, bar: Shown):
    desk.always(STATUS, reply(status("job_submitted")))
    with pytest.raises(WaitTimeout, match="not over after 10 s: it is job_submitted") as caught:
        cts.wait(JOB, timeout=10)
    assert sum(desk.slept) == 10
    assert desk.requests(EVENTS) == []
    assert (caught.value.job_id, caught.value.state, caught.value.timeout) == (JOB, "job_submitted", 10)
    assert isinstance(caught.value, TimeoutError)
    assert bar.closed


def test_a_stream_is_left_before_the_timeout(cts: Facade, desk: Desk):
    desk.always(STATUS, reply(status("job_submitted")))

    def alive(seconds: float) -> Any:
        return lambda: desk.sleep(seconds)

    said: list[Any] = [b": alive\n\n", alive(15)] * 20
    desk.on(EVENTS, stream(*said, kind=SSE))
    begin = desk.now
    with pytest.raises(WaitTimeout):
        cts.wait(JOB, timeout=100)
    assert desk.now - begin == pytest.approx(100)
    assert desk.asked[1].extensions["timeout"]["read"] == 45


def test_a_silent_stream_does_not_outlast_the_timeout(cts: Facade, desk: Desk):
    desk.always(STATUS, reply(status("job_submitted")))
    desk.on(EVENTS, stream(lambda: desk.sleep(30), httpx.ReadTimeout(""), kind=SSE))
    with pytest.raises(WaitTimeout):
        cts.wait(JOB, timeout=30)
    [asked] = desk.requests(EVENTS)
    assert asked.extensions["timeout"]["read"] == 30


def test_an_outage_ends_with_the_timeout(cts: Facade, desk: Desk):
    desk.always(STATUS, httpx.ConnectError("refused"))
    with pytest.raises(WaitTimeout, match="its state could not be read"):
        cts.wait(JOB, timeout=100)
    assert sum(desk.slept) == 100


def test_no_time_at_all(cts: Facade, desk: Desk):
    with pytest.raises(WaitTimeout):
        cts.wait(JOB, timeout=0)
    assert watching.CLOSE < watching.SILENCE
