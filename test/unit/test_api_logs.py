"""Lines of the log say which request, who sent it, and which job it is about, whoever writes them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict

from test.unit.api_fakes import Client, FakeServices

MERGED = [structlog.contextvars.merge_contextvars]
_log = structlog.get_logger("a.service")


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def client(services: FakeServices) -> Client:
    return Client(services)


def _line(logs: list[EventDict], event: str) -> EventDict:
    [found] = [line for line in logs if line["event"] == event]
    return found


async def _says(*_: Any) -> None:
    await asyncio.sleep(0)
    _log.info("done")


async def test_what_a_service_logs_has_user_request_and_job(services: FakeServices, client: Client) -> None:
    services.jobs.cancel = _says  # type: ignore[method-assign]
    with capture_logs(processors=MERGED) as logs:
        response = await client.send("PUT", "/jobs/job1/cancel", "ann")
    said = {"request_id": response.headers["x-request-id"], "user": "ann", "job": "job1"}
    assert said.items() <= _line(logs, "done").items()
    assert said.items() <= _line(logs, "request").items()


async def test_what_a_service_logs_of_an_executor_has_its_container(services: FakeServices, client: Client) -> None:
    async def beat(*_: Any) -> dict[str, Any]:
        await _says()
        return {"stop": False, "reason": None}

    services.workers.heartbeat = beat  # type: ignore[method-assign]
    path = "/external_exec/jobs/job1/container/0/heartbeat"
    with capture_logs(processors=MERGED) as logs:
        response = await client.send("POST", path, "container", json={"phase": "running"})
    assert response.status_code == 200, response.text
    for event in ("done", "request"):
        line = _line(logs, event)
        assert (line["job"], line["container"]) == ("job1", 0)
        assert "attempt" in line
        assert "user" not in line


@pytest.mark.parametrize(
    ("path", "about"),
    [
        ("/jobs/job1/log/3/stdout", {"job": "job1", "container": 3}),
        ("/admin/jobs/job1/container/12", {"job": "job1", "container": 12}),
        ("/callback/job/job1", {"job": "job1"}),
        ("/jobs", {}),
        ("/images/localhost/a/b", {}),
        ("/ui/jobs/j1/containers/3", {"job": "j1", "container": 3}),
        ("/callback/refdata_download/r1/kbase", {}),
        ("/admin/refdata/bucket/jobs/human.fa", {}),
        ("/images/reg.org/jobs/tool:1", {}),
        (f"/jobs/{'j' * 5000}", {"job": "j" * 64}),
    ],
)
async def test_what_a_request_is_about(path: str, about: dict[str, Any], client: Client) -> None:
    with capture_logs(processors=MERGED) as logs:
        await client.get(path, "admin")
    line = _line(logs, "request")
    assert {key: line[key] for key in ("job", "container") if key in line} == about


async def test_faults_are_logged_with_the_user(services: FakeServices, client: Client) -> None:
    services.jobs.raises["get"] = RuntimeError("oops")
    with capture_logs(processors=MERGED) as logs:
        await client.get("/jobs/job1", "ann")
    assert {"user": "ann", "job": "job1"}.items() <= _line(logs, "request_failed").items()


async def test_nobody_is_taken_for_somebody_else(services: FakeServices, client: Client) -> None:
    services.jobs.cancel = _says  # type: ignore[method-assign]
    with capture_logs(processors=MERGED) as logs:
        await asyncio.gather(
            client.send("PUT", "/jobs/job1/cancel", "ann"),
            client.send("PUT", "/jobs/job2/cancel", "admin"),
            client.get("/"),
        )
        await client.get("/")
    done = {(line["user"], line["job"]) for line in logs if line["event"] == "done"}
    assert done == {("ann", "job1"), ("adam", "job2")}
    assert [line.get("user") for line in logs if line.get("path") == "/"] == [None, None]
    assert structlog.contextvars.get_contextvars() == {}
