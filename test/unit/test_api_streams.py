"""Answers that go on: logs that are followed, and a job's events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from starlette.requests import ClientDisconnect

from cdmtaskservice.api.streams import events_response
from cdmtaskservice.domain.errors import (
    DependencyUnavailableError,
    NoSuchJobError,
    ResourceUnavailableError,
    UnsupportedOperationError,
)
from cdmtaskservice.services.live_logs import BrokenOffError
from test.unit.api_fakes import Client, FakeServices
from test.unit.api_records import CALLERS

ANN = CALLERS["ann"]


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def client(services: FakeServices) -> Client:
    return Client(services)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_log_that_is_followed(stream: str, services: FakeServices, client: Client) -> None:
    response = await client.get(f"/jobs/job1/log/1/{stream}?follow=true&seek=3", "ann")
    assert response.text == "live\nlog\n"
    assert services.live_logs.calls == [("follow", (ANN, "job1", 1, stream, 3))]
    assert services.jobs.calls == []
    assert {name: response.headers[name] for name in ("cts-log-attempt", "cts-log-offset", "x-accel-buffering")} == {
        "cts-log-attempt": "2",
        "cts-log-offset": "7",
        "x-accel-buffering": "no",
    }
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_log_can_not_be_followed_for_some_bytes(services: FakeServices, client: Client) -> None:
    response = await client.get("/jobs/job1/log/1/stdout?follow=true&length=3", "ann")
    assert (response.status_code, response.json()["error"]["appcode"]) == (400, 30001)
    assert "length" in response.json()["error"]["message"]
    assert services.live_logs.calls == []


async def test_refusals_come_before_the_stream(services: FakeServices, client: Client) -> None:
    for error, code in ((UnsupportedOperationError("x"), 100000), (ResourceUnavailableError("x"), 60000)):
        services.live_logs.raises["follow"] = error
        response = await client.get("/jobs/job1/log/1/stdout?follow=true", "ann")
        assert (response.status_code, response.json()["error"]["appcode"]) == (400, code)
    services.events.raises["watch"] = NoSuchJobError("x")
    response = await client.get("/jobs/job1/events", "ann")
    assert (response.status_code, response.json()["error"]["appcode"]) == (404, 40040)


@pytest.mark.parametrize("version", ["2.3", "2.4"])  # of ASGI: streams are sent in other ways
@pytest.mark.parametrize("why", [BrokenOffError("the service stops"), DependencyUnavailableError("S3 is away")])
async def test_a_stream_that_breaks_off_does_not_look_whole(
    version: str, why: Exception, services: FakeServices
) -> None:
    """The last message of a whole answer says that it is the last; without it, servers close the connection."""
    services.live_logs.chunks = [b"live\n", why]
    sent = []

    bodies = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, object]:
        if bodies:
            return bodies.pop()
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": version},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/jobs/job1/log/1/stdout",
        "query_string": b"follow=true",
        "headers": [(b"authorization", b"Bearer ann")],
    }
    await services.app()(scope, receive, send)
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    assert sent[1]["body"] == b"live\n"
    assert sent[1]["more_body"] is True


async def test_a_reader_that_leaves_before_the_first_byte_keeps_no_place() -> None:
    """Its news has taken a place among the readers already, and nothing of the stream has been read."""
    left = []

    async def begun() -> AsyncGenerator[None, None]:
        try:
            yield None
            yield None
        finally:
            left.append("place")

    news = begun()
    await anext(news)
    response = events_response(news, None)  # type: ignore[arg-type]

    async def send(_: object) -> None:
        raise OSError("the client is gone")

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}}
    with pytest.raises(ClientDisconnect):
        await response(scope, receive, send)
    assert left == ["place"]


async def test_how_long_a_reader_stays_is_no_latency(services: FakeServices, client: Client) -> None:
    for path in ("/jobs/job1/events", "/jobs/job1/log/1/stdout?follow=true", "/jobs/job1/log/1/stderr"):
        assert (await client.get(path, "ann")).status_code == 200
    await client.get("/jobs/job1/status", "ann")
    page = (await client.get("/metrics")).text
    timed = {line for line in page.splitlines() if line.startswith("cts_http_request_duration_seconds_count")}
    assert any("/status" in line for line in timed)
    assert not any("/events" in line or "/log/" in line for line in timed)
    assert 'route="/jobs/{job_id}/events",status="2xx"} 1.0' in page


def events(text: str) -> list[tuple[str, str | None, object]]:
    """(event, id, data) of a stream; a comment is an event without a name."""
    found: list[tuple[str, str | None, object]] = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append(
            (fields.get("event", ""), fields.get("id"), json.loads(fields["data"]) if "data" in fields else block)
        )
    return found


async def test_what_happens_to_a_job(services: FakeServices, client: Client) -> None:
    response = await client.get("/jobs/job1/events", "ann")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert services.events.calls == [("watch", (ANN, "job1"))]
    seen = events(response.text)
    states = [t.state.value for t in services.jobs.job.transitions]
    assert [(event_id, data["state"]) for name, event_id, data in seen if name == "state"] == [
        (str(n), state) for n, state in enumerate(states)
    ]
    assert seen[1][2] == {
        "state": "created",
        "time": services.jobs.job.transitions[0].time.isoformat().replace("+00:00", "Z"),
    }
    rest = [(name, data) for name, _, data in seen if name != "state"]
    assert rest[:4] == [
        ("", "retry: 2000"),
        ("containers", {"counts": {"created": 2}}),
        ("waiting", {"waiting": None}),
        ("", ": alive"),
    ]
    assert rest[4] == ("containers", {"counts": {"job_submitted": 2}})
    name, told = rest[5]
    assert name == "waiting"
    assert "goes on by itself" in told["waiting"]
    assert "host x" not in told["waiting"]
    assert rest[6:] == [
        ("waiting", {"waiting": None}),
        ("containers", {"counts": {"complete": 2}}),
        ("end", {"state": "complete"}),
    ]


@pytest.mark.parametrize(
    ("last", "first"), [("0", 1), ("5", 6), ("6", None), ("99", None), ("x", 0), ("-1", 0), ("9" * 40, 0)]
)
async def test_events_go_on_after_the_last_that_was_seen(last: str, first: int | None, client: Client) -> None:
    seen = events((await client.get("/jobs/job1/events", "ann", headers={"Last-Event-ID": last})).text)
    ids = [event_id for name, event_id, _ in seen if name == "state"]
    assert ids == ([] if first is None else [str(n) for n in range(first, 7)])
    assert seen[-1][0] == "end"
