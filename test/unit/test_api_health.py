"""Health and numbers, and what surrounds the application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.services.health import DependencyState
from test.unit.api_fakes import Client, FakeServices


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Tracebacks with all their variables take longer to print than the tests to run."""
    with capture_logs():
        yield


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def client(services: FakeServices) -> Client:
    return Client(services)


async def test_alive_asks_nobody(services: FakeServices, client: Client) -> None:
    response = await client.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"status": "alive"})
    assert services.health.calls == []


async def test_ready(client: Client) -> None:
    response = await client.get("/health/ready")
    assert response.status_code == 200
    assert response.json() == {
        "ready": True,
        "dependencies": [
            {"name": "mongodb", "ok": True, "required": True},
            {"name": "kafka", "ok": True, "required": False},
        ],
    }


async def test_not_ready(services: FakeServices, client: Client) -> None:
    services.health.states = [DependencyState("mongodb", False, "no server"), DependencyState("kafka", True)]
    response = await client.get("/health/ready")
    assert response.status_code == 503
    assert response.json() == {
        "ready": False,
        "dependencies": [
            {"name": "mongodb", "ok": False, "required": True},
            {"name": "kafka", "ok": True, "required": True},
        ],
    }
    as_admin = (await client.get("/health/ready", "admin")).json()
    assert as_admin["dependencies"][0]["detail"] == "no server"
    assert "no server" not in (await client.get("/health/ready", "ann")).text


async def test_ready_without_what_only_delays(services: FakeServices, client: Client) -> None:
    services.health.states = [DependencyState("mongodb", True), DependencyState("kafka", False, "gone", required=False)]
    response = await client.get("/health/ready")
    assert response.status_code == 200
    assert response.json()["ready"] is True
    assert response.json()["dependencies"][1] == {"name": "kafka", "ok": False, "required": False}


async def _numbers(client: Client) -> dict[tuple[str, tuple[str, ...]], float]:
    """Samples by name and label values."""
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.text)
    return {(s.name, tuple(s.labels.values())): s.value for f in families for s in f.samples}


async def test_requests_are_counted_by_route_and_class(client: Client) -> None:
    for _ in range(3):
        await client.get("/jobs/job1/status", "ann")
        await client.get("/jobs/job2/status", "ann")
    await client.get("/jobs/job1/status")
    await client.get("/nowhere/1")
    await client.get("/nowhere/2")
    await client.send("BREW", "/nowhere/3")
    numbers = await _numbers(client)
    route = "/jobs/{job_id}/status"
    assert numbers["cts_http_requests_total", ("GET", route, "2xx")] == 6
    assert numbers["cts_http_requests_total", ("GET", route, "4xx")] == 1
    assert numbers["cts_http_requests_total", ("GET", "none", "4xx")] == 2
    assert numbers["cts_http_requests_total", ("other", "none", "4xx")] == 1
    assert numbers["cts_http_request_duration_seconds_count", ("GET", route)] == 7


async def test_faults_inside_count_too(services: FakeServices, client: Client) -> None:
    services.jobs.raises["list"] = RuntimeError("oops")
    await client.get("/jobs", "ann")
    assert (await _numbers(client))["cts_http_requests_total", ("GET", "/jobs", "5xx")] == 1


async def test_numbers_of_the_store(client: Client) -> None:
    numbers = await _numbers(client)
    assert numbers["cts_jobs", ("kbase", "complete")] == 7
    assert numbers["cts_jobs", ("kbase", "job_submitted")] == 4
    assert numbers["cts_jobs_owing_messages", ()] == 3
    assert numbers["cts_store_up", ()] == 1


async def test_numbers_without_the_store(services: FakeServices, client: Client) -> None:
    services.health.raises["gauges"] = DependencyUnavailableError("no store")
    await client.get("/health/live")
    numbers = await _numbers(client)
    assert numbers["cts_store_up", ()] == 0
    assert numbers["cts_http_requests_total", ("GET", "/health/live", "2xx")] == 1
    assert not any(name == "cts_jobs" for name, _ in numbers)


async def test_applications_count_for_themselves() -> None:
    one, other = Client(FakeServices()), Client(FakeServices())
    await one.get("/")
    assert ("cts_http_requests_total", ("GET", "/", "2xx")) not in await _numbers(other)


async def test_lifespan_is_entered_and_left(services: FakeServices) -> None:
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        assert app.state.services is services
        seen.append("begun")
        yield
        seen.append("over")

    app = services.app(lifespan=lifespan)
    async with app.router.lifespan_context(app):
        assert seen == ["begun"]
    assert seen == ["begun", "over"]
