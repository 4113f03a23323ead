"""Events of a job: how they are read, and that each comes once however often the connection breaks."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.client import (
    ContainersEvent,
    EndEvent,
    Event,
    NoSuchJob,
    NotFound,
    ResourceUnavailable,
    ServiceUnreachable,
    StateEvent,
    UnexpectedReply,
    WaitingEvent,
)
from cdmtaskservice.client.events import EventParser, RawEvent, read_event
from test.stand_ins.client_desk import JOB, TIME, Broken, Desk, Facade, client_of, refusal, reply, stream

EVENTS = "GET /jobs/job-1/events"
SSE = "text/event-stream; charset=utf-8"


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(params=["sync", "async"])
def cts(request: pytest.FixtureRequest, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Facade]:
    yield from client_of(request.param, desk, monkeypatch)


def event(name: str, data: Any, number: int | None = None) -> bytes:
    lines = [f"event: {name}", *([] if number is None else [f"id: {number}"]), f"data: {json.dumps(data)}"]
    return ("\n".join(lines) + "\n\n").encode()


def state(name: str, number: int) -> bytes:
    return event("state", {"state": name, "time": TIME}, number)


def counts(**by_state: int) -> bytes:
    return event("containers", {"counts": by_state})


END = event("end", {"state": "complete"})
ALIVE = b": alive\n\n"

TEXT = (
    '\ufeffevent: state\nid: 3\ndata: {"a": "ü"}\n\n: alive\r\n\r\ndata:one\rdata: two\r\rid: 4\n\n'
    "event:x\r\ndata\r\n\r\nretry: 5\nunknown: y\nid: a\0b\ndata:  z\n\nevent: never\n\ndata: half"
).encode()
READ = [
    RawEvent("state", '{"a": "ü"}', "3"),
    RawEvent(":", "", "3"),
    RawEvent("message", "one\ntwo", "3"),
    RawEvent("x", "", "4"),
    RawEvent("message", " z", "4"),
]


@given(st.lists(st.integers(0, len(TEXT)), max_size=20))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]):
    parser = EventParser()
    ends = sorted({0, *cuts, len(TEXT)})
    pieces = [TEXT[a:b] for a, b in itertools.pairwise(ends)]
    assert [e for piece in pieces for e in parser.feed(piece)] == READ


def test_events_are_the_same_wherever_they_are_cut_in_two():
    for cut in range(len(TEXT)):
        parser = EventParser()
        assert [*parser.feed(TEXT[:cut]), *parser.feed(TEXT[cut:])] == READ


def test_an_event_that_never_ends():
    parser = EventParser()
    parser.feed(b"data: " + b"x" * 500_000 + b"\n")
    parser.feed(b"data: " + b"x" * 500_000)
    with pytest.raises(UnexpectedReply):
        parser.feed(b"x" * 500_000)


def test_every_kind_of_event():
    assert read_event(RawEvent("state", json.dumps({"state": "created", "time": TIME}), "0")) == StateEvent(
        kind="state", state="created", time=StateEvent.read({"state": "", "time": TIME}).time, number=0
    )
    told = read_event(RawEvent("containers", '{"counts": {"created": 2, "complete": 3, "error": 1}}', ""))
    assert isinstance(told, ContainersEvent)
    assert (told.total, told.over) == (6, 4)
    assert read_event(RawEvent("waiting", '{"waiting": null}', "")) == WaitingEvent(kind="waiting", waiting=None)
    assert read_event(RawEvent("end", '{"state": "error"}', "")) == EndEvent(kind="end", state="error")
    later = read_event(RawEvent("later", '{"x": 1}', ""))
    assert type(later) is Event
    assert (later.kind, later.raw["x"]) == ("later", 1)
    with pytest.raises(UnexpectedReply):
        read_event(RawEvent("state", "{", ""))
    with pytest.raises(UnexpectedReply):
        read_event(RawEvent("state", "{}", ""))


def test_a_job_from_its_beginning_to_its_end(cts: Facade, desk: Desk):
    said = [state("created", 0), counts(created=2), ALIVE, state("complete", 1), END, state("never", 2)]
    desk.on(EVENTS, stream(*said, kind=SSE))
    found = list(cts.events(JOB))
    assert [e.kind for e in found] == ["state", "containers", "state", "end"]
    assert desk.asked[0].headers["accept"] == "text/event-stream"
    assert "last-event-id" not in desk.asked[0].headers


@pytest.mark.parametrize("broken", [True, False], ids=["broken", "ended without an end"])
def test_a_new_connection_goes_on_where_the_last_one_was(cts: Facade, desk: Desk, broken: bool):
    cut = [httpx.ReadError("reset")] if broken else []
    waiting = event("waiting", {"waiting": "no room"})
    desk.on(
        EVENTS,
        stream(state("created", 0), state("download_submitted", 1), counts(created=1), waiting, *cut, kind=SSE),
        stream(*cut, kind=SSE),
        httpx.ConnectError("refused"),
        stream(state("download_submitted", 1), state("complete", 2), counts(created=1), waiting, END, kind=SSE),
    )
    found = list(cts.events(JOB))
    assert [e.kind for e in found] == ["state", "state", "containers", "waiting", "state", "end"]
    assert [r.headers.get("last-event-id") for r in desk.asked] == [None, "1", "1", "1"]


@pytest.mark.parametrize("next_", [ALIVE, state("job_submitted", 1), counts(complete=1), END])
def test_what_held_the_job_up_before_the_connection_broke(cts: Facade, desk: Desk, next_: bytes):
    """The service tells at the beginning what holds the job up, and nothing where nothing does."""
    waiting = event("waiting", {"waiting": "no room"})
    desk.on(
        EVENTS,
        stream(counts(created=1), waiting, ALIVE, counts(created=2), kind=SSE),
        stream(counts(created=2), waiting, ALIVE, kind=SSE),
        stream(counts(created=2), next_, ALIVE, END, kind=SSE),
    )
    said = [e.waiting for e in cts.events(JOB) if isinstance(e, WaitingEvent)]
    assert said == ["no room", None]


def test_a_connection_that_is_silent_is_made_anew(cts: Facade, desk: Desk):
    desk.on(EVENTS, stream(state("created", 0), httpx.ReadTimeout(""), kind=SSE), stream(END, kind=SSE))
    assert [e.kind for e in cts.events(JOB)] == ["state", "end"]
    assert desk.asked[0].extensions["timeout"]["read"] == 45


def test_pauses_between_connections_that_bring_nothing_grow(cts: Facade, desk: Desk):
    desk.on(EVENTS, *(stream(kind=SSE) for _ in range(4)), stream(state("created", 0), kind=SSE), stream(END, kind=SSE))
    list(cts.events(JOB))
    assert desk.slept == [0.5, 1, 2, 4, 0.5]


def test_events_of_half_an_event_are_not_told(cts: Facade, desk: Desk):
    half = state("created", 0)[:-1]
    desk.on(EVENTS, stream(half, kind=SSE), stream(state("created", 0), END, kind=SSE))
    assert [e.kind for e in cts.events(JOB)] == ["state", "end"]
    assert "last-event-id" not in desk.asked[1].headers


def test_the_connection_is_closed_when_nobody_listens_any_more(cts: Facade, desk: Desk):
    answer = stream(state("created", 0), state("complete", 1), END, kind=SSE)
    body = answer.stream
    desk.on(EVENTS, answer)
    found = cts.events(JOB)
    next(found)
    assert isinstance(body, Broken)
    assert not body.closed
    found.close()
    assert body.closed


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([refusal(404, 40000)], NotFound),
        ([refusal(404, 40040)], NoSuchJob),
        ([refusal(400, 60000)], ResourceUnavailable),
        ([httpx.ConnectError("")] * 6, ServiceUnreachable),
        ([reply({"not": "events"})], UnexpectedReply),
    ],
)
def test_what_is_told_to_who_listens(cts: Facade, desk: Desk, answers: list[Any], error: type[Exception]):
    desk.on(EVENTS, *answers)
    with pytest.raises(error):
        list(cts.events(JOB))
    assert desk.left == []
