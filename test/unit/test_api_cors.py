"""What browsers are told of pages of other origins: who may call, and never about the service's own pages."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from structlog.testing import capture_logs

from test.unit.api_fakes import Client, FakeServices

APP = "https://app.example.org"
OTHER = "https://evil.example.org"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def some(services: FakeServices) -> Client:
    """A service that one origin may call."""
    return Client(services, cors_origins=[APP])


@pytest.fixture
def everybody(services: FakeServices) -> Client:
    return Client(services, cors_origins=["*"])


@pytest.fixture
def nobody(services: FakeServices) -> Client:
    return Client(services)


def told(response: httpx.Response) -> set[str]:
    """The headers of an answer that have to do with it."""
    return {name for name in response.headers if name.startswith("access-control-")}


async def test_by_default_no_page_may(nobody: Client) -> None:
    for method, headers in (("GET", {}), ("OPTIONS", ASKS)):
        response = await nobody.send(method, "/sites", headers={"Origin": APP, **headers})
        assert told(response) == set()
        assert "vary" not in response.headers
    assert response.status_code == 405


async def test_a_page_of_an_origin_that_may(some: Client) -> None:
    response = await some.get("/jobs", "ann", headers={"Origin": APP})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == APP
    assert response.headers["vary"] == "Origin"
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert {"X-Request-ID", "ETag", "CTS-Log-Attempt", "CTS-Log-Offset"} <= set(exposed)
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("origin", [OTHER, "null", APP + ":8443", APP.upper(), "http://app.example.org", None])
async def test_any_other_origin(origin: str | None, some: Client) -> None:
    headers = {"Origin": origin} if origin else {}
    response = await some.get("/jobs", "ann", headers=headers)
    assert response.status_code == 200  # to the browser it is to refuse the page
    assert told(response) == set()
    assert response.headers["vary"] == "Origin"
    asked = await some.send("OPTIONS", "/jobs", headers={**headers, **ASKS})
    assert (asked.status_code, told(asked)) == (405, set())


async def test_every_origin(everybody: Client) -> None:
    for headers in ({"Origin": OTHER}, {}):
        response = await everybody.get("/jobs", "ann", headers=headers)
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers
        assert "vary" not in response.headers


@pytest.mark.parametrize("path", ["/jobs", "/jobs/job1/cancel", "/nowhere", "/admin/jobs"])
async def test_the_question_before_is_answered_without_a_token(path: str, services: FakeServices, some: Client) -> None:
    response = await some.send("OPTIONS", path, headers={"Origin": APP, **ASKS})
    assert response.status_code == 204
    assert response.content == b""
    assert response.headers["access-control-allow-origin"] == APP
    assert {"POST", "PUT", "DELETE"} <= set(response.headers["access-control-allow-methods"].split(", "))
    allowed = {h.lower() for h in response.headers["access-control-allow-headers"].split(", ")}
    assert {"authorization", "content-type", "idempotency-key", "last-event-id"} <= allowed
    assert response.headers["x-request-id"]
    assert services.authentication.calls == []


async def test_a_question_that_is_none_is_a_request_like_any_other(some: Client) -> None:
    response = await some.send("OPTIONS", "/jobs", headers={"Origin": APP})
    assert response.status_code == 405
    assert response.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [("/jobs", None, 401), ("/jobs", "bad", 401), ("/admin/jobs", "ann", 403), ("/nowhere", "ann", 404)],
)
async def test_pages_can_read_errors(path: str, token: str | None, status: int, some: Client) -> None:
    response = await some.get(path, token, headers={"Origin": APP})
    assert response.status_code == status
    assert response.headers["access-control-allow-origin"] == APP
    assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


async def test_pages_can_read_that_something_went_wrong_inside(services: FakeServices, some: Client) -> None:
    services.jobs.raises["list"] = RuntimeError("oops")
    response = await some.get("/jobs", "ann", headers={"Origin": APP})
    assert response.status_code == 500
    assert response.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize("prefix", ["", "/services/cts"])
@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/jobs/1", "/ui//jobs"])
async def test_the_services_own_pages_are_never_shared(prefix: str, path: str, services: FakeServices) -> None:
    client = Client(services, cors_origins=["*"], root_path=prefix)
    for method, headers in (("GET", {}), ("OPTIONS", ASKS)):
        response = await client.send(method, prefix + path, headers={"Origin": APP, **headers})
        assert told(response) == set()
    shared = await client.get(f"{prefix}/uis", headers={"Origin": APP})
    assert "access-control-allow-origin" in shared.headers
