"""Bad requests of every kind, and faults inside: always the contract's body, never more than it should tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from structlog.testing import capture_logs

from cdmtaskservice.api.models import ErrorReply
from cdmtaskservice.domain.errors import (
    CTSError,
    DependencyUnavailableError,
    IllegalParameterError,
    NoSuchJobError,
)
from test.unit.api_fakes import Client, FakeServices
from test.unit.api_records import JOB_INPUT, NOW, NOW_TEXT

JSON = {"Content-Type": "application/json"}


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


def _error(response: httpx.Response) -> dict[str, Any]:
    ErrorReply.model_validate_json(response.content)
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["httpcode"] == response.status_code
    return error


def _all_errors() -> list[type[CTSError]]:
    found: list[type[CTSError]] = []
    for kind in CTSError.__subclasses__():
        found += [kind, *kind.__subclasses__()]
    return found


@pytest.mark.parametrize("kind", _all_errors(), ids=lambda kind: kind.__name__)
async def test_every_error_has_its_code(kind: type[CTSError], services: FakeServices, client: Client) -> None:
    services.jobs.raises["get"] = kind("the secret reason")
    response = await client.get("/jobs/job1", "ann")
    error = ErrorReply.model_validate_json(response.content).error
    assert response.status_code == error.httpcode == kind.http_status
    assert error.httpstatus == kind.http_status.phrase
    assert error.time == NOW
    assert error.request_id == response.headers["x-request-id"]
    if kind.error_type is not None:
        assert (error.appcode, error.apperror) == (kind.error_type.code, kind.error_type.text)
    else:
        assert "appcode" not in response.text
        assert "apperror" not in response.text
    if kind.http_status >= 500:
        assert "secret" not in response.text
        assert int(response.headers["retry-after"]) > 0
    else:
        assert error.message == "the secret reason"


async def test_subclasses_keep_the_code_of_their_parent(services: FakeServices, client: Client) -> None:
    class VanishedJobError(NoSuchJobError):
        """A kind of error that nobody has told the API of."""

    services.jobs.raises["get"] = VanishedJobError("It was here")
    response = await client.get("/jobs/job1", "ann")
    assert (response.status_code, response.json()["error"]["appcode"]) == (404, 40040)


async def test_unknown_url(client: Client) -> None:
    response = await client.get("/nowhere")
    assert _error(response) == {
        "httpcode": 404,
        "httpstatus": "Not Found",
        "time": NOW_TEXT,
        "request_id": response.headers["x-request-id"],
        "message": "There is nothing at this URL; see /docs for what there is",
        "appcode": 40000,
        "apperror": "Not Found",
    }


@pytest.mark.parametrize(
    "path", ["/refdata/x", "/callback/other/j1", "/admin/clients/other", "/jobs/j1/x", "/images/a%0Ab"]
)
async def test_what_there_is_not(path: str, client: Client) -> None:
    assert _error(await client.get(path, "admin"))["appcode"] in {40000, 40040}


async def test_wrong_method(client: Client) -> None:
    response = await client.send("DELETE", "/whoami", "ann")
    error = _error(response)
    assert response.status_code == 405
    assert response.headers["allow"] == "GET"
    assert "appcode" not in error
    assert "GET" in error["message"]


@pytest.mark.parametrize(
    ("path", "allowed"), [("/jobs", {"GET", "POST"}), ("/admin/sites/x/active", {"PUT", "DELETE"})]
)
async def test_allow_names_all_methods(path: str, allowed: set[str], client: Client) -> None:
    response = await client.send("PATCH", path, "ann")
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nothing",
        b"\xff\xfe{}",
        b'{"cluster": "\xff"}',
        b"[" * 100_000,
        b"1" * 5000,
        b"[]",
        b"null",
        b'"job"',
        b"NaN",
        json.dumps({**JOB_INPUT, "surprise": 1}).encode(),
        json.dumps({**JOB_INPUT, "image": "\ud800"}).encode(),
        json.dumps({**JOB_INPUT, "cpus": 10**400}).encode(),
        json.dumps({**JOB_INPUT, "memory": float("inf")}).encode(),
        json.dumps({**JOB_INPUT, "input_files": [{"file": 1, "crc64nvme": [[]]}] * 10_000}).encode(),
    ],
    ids=lambda body: body[:20].decode("ascii", "replace"),
)
async def test_bodies_that_are_no_job(body: bytes, services: FakeServices, client: Client) -> None:
    response = await client.send("POST", "/jobs", "ann", content=body, headers=JSON)
    error = _error(response)
    assert (response.status_code, error["appcode"]) == (400, 30010)
    assert 0 < len(error["request_validation_detail"]) <= 100
    assert len(response.content) < 200_000
    assert services.submission.calls == []


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json", "\xff"]
)
async def test_bodies_of_another_type(kind: str, services: FakeServices, client: Client) -> None:
    headers = {"Content-Type": kind.encode("latin-1")}
    response = await client.send("POST", "/jobs", "ann", content=json.dumps(JOB_INPUT), headers=headers)
    error = _error(response)
    assert (response.status_code, error["appcode"]) == (400, 30010)
    assert "Content-Type: application/json" in error["message"]
    assert services.submission.calls == []


@pytest.mark.parametrize("headers", [{}, {"Content-Type": ""}])
async def test_bodies_of_no_type_are_json(headers: dict[str, str], services: FakeServices, client: Client) -> None:
    response = await client.send("POST", "/jobs", "ann", content=json.dumps(JOB_INPUT), headers=headers)
    assert response.status_code == 200, response.text
    assert len(services.submission.calls) == 1


async def test_message_of_a_validation_error_names_field_and_fault(client: Client) -> None:
    response = await client.send("POST", "/jobs", "ann", json={**JOB_INPUT, "output_dir": "cts-data/../x"})
    error = _error(response)
    assert error["message"].startswith("The request is not valid: body.output_dir: S3 path")
    assert error["apperror"] == "Request validation failed"
    detail = error["request_validation_detail"][0]
    assert detail["loc"] == ["body", "output_dir"]
    assert detail["type"] == "value_error"


async def test_details_hold_nothing_huge(client: Client) -> None:
    files = [{"file": f"no slash {n}", "x": 1} for n in range(5000)]
    response = await client.send("POST", "/jobs", "ann", json={**JOB_INPUT, "input_files": files, "name": "n" * 10**6})
    error = _error(response)
    assert "more faults" in error["message"]
    assert len(response.content) < 100_000
    response = await client.send("POST", "/jobs", "ann", json={**JOB_INPUT, "n" * 10**6: 1})
    assert _error(response)["request_validation_detail"][0]["loc"][1].startswith("nnn")
    assert len(response.content) < 2_000


async def test_announced_body_too_large(services: FakeServices, client: Client) -> None:
    small = Client(services, max_body=1000)
    response = await small.send("POST", "/jobs", "ann", content=b" " * 1001, headers=JSON)
    error = _error(response)
    assert response.status_code == 413
    assert "1000 bytes" in error["message"]
    assert "appcode" not in error
    assert (await small.send("POST", "/jobs", "ann", content=b" " * 1000, headers=JSON)).status_code == 400


async def test_streamed_body_too_large(services: FakeServices) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 100

    small = Client(services, max_body=1000)
    response = await small.send("POST", "/jobs", "ann", content=endless(), headers=JSON)
    assert response.status_code == 413
    _error(response)
    assert sent < 20


async def test_largest_job_fits(services: FakeServices, client: Client) -> None:
    files = [{"file": f"bucket/{n:01024}", "data_id": "d" * 255, "crc64nvme": "S8AXmd7A3f8="} for n in range(10_000)]
    response = await client.send("POST", "/jobs", "ann", json={**JOB_INPUT, "input_files": files})
    assert response.status_code == 200, response.text[:500]


async def test_token_is_asked_before_the_body_is_read(services: FakeServices, client: Client) -> None:
    response = await client.send("POST", "/jobs", content=b"{", headers=JSON)
    assert (response.status_code, _error(response)["appcode"]) == (401, 10010)
    response = await client.send("POST", "/jobs", "container", content=b"{", headers=JSON)
    assert (response.status_code, _error(response)["appcode"]) == (403, 20000)


async def test_fault_inside_shows_nothing_and_is_logged(services: FakeServices, client: Client) -> None:
    services.jobs.raises["get"] = RuntimeError("password is hunter2")
    with capture_logs() as logs:
        response = await client.get("/jobs/job1", "ann")
    error = _error(response)
    assert response.status_code == 500
    assert "hunter2" not in response.text
    assert "appcode" not in error
    failed = next(e for e in logs if e["event"] == "request_failed")
    assert failed["request_id"] == error["request_id"]
    assert failed["exc_info"] is services.jobs.raises["get"]


async def test_fault_of_authentication_itself(services: FakeServices, client: Client) -> None:
    services.authentication.raises["principal"] = RuntimeError("oops")
    response = await client.get("/sites", "ann")
    assert response.status_code == 500
    _error(response)


async def test_auth_service_away(services: FakeServices, client: Client) -> None:
    services.authentication.raises["principal"] = DependencyUnavailableError("http://10.0.0.1 is away")
    with capture_logs() as logs:
        response = await client.get("/jobs", "ann")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert "10.0.0.1" not in _error(response)["message"]
    logged = next(e for e in logs if e["event"] == "dependency_unavailable")
    assert logged["error"] == "http://10.0.0.1 is away"
    assert logged["request_id"] == response.headers["x-request-id"]


async def test_log_that_breaks_off_breaks_the_connection(services: FakeServices) -> None:
    services.jobs.log_chunks = [b"first", RuntimeError("S3 went away")]
    app = services.app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cts") as http:
        with pytest.raises(RuntimeError, match="S3 went away"):
            await http.get("/jobs/job1/log/0/stdout", headers={"Authorization": "Bearer ann"})
    assert services.jobs.log_closed


@pytest.mark.parametrize("value", ["Basic eDp5", "ann", "Bearer", "Bearer ", "", "Bearer a b", "Bearer \xfc"])
async def test_headers_that_hold_no_token(value: str, client: Client) -> None:
    for path in ("/sites", "/jobs", "/nowhere"):
        response = await client.get(path, headers={"Authorization": value.encode("latin-1")})
        assert (response.status_code, _error(response)["appcode"]) == (401, 10030)


async def test_two_tokens_are_no_token(client: Client) -> None:
    headers = [("Authorization", "Bearer ann"), ("Authorization", "Bearer admin")]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(client.app), base_url="http://cts") as http:
        response = await http.get("/admin/jobs", headers=headers)
    assert (response.status_code, _error(response)["appcode"]) == (401, 10030)


async def test_bad_token_at_an_unknown_url(client: Client) -> None:
    response = await client.get("/nowhere", "nobody")
    assert (response.status_code, _error(response)["appcode"]) == (401, 10020)
    response = await client.send("PATCH", "/jobs", "nobody")
    assert response.status_code == 401


@pytest.mark.parametrize("path", ["//sites", "/sites/", "/sites//", "///sites///", "//"])
async def test_slashes_make_no_other_url(path: str, services: FakeServices) -> None:
    status, _ = await _raw(services.app(), path)
    assert status == 200


@pytest.mark.parametrize("root_path", ["/services/cts", "/services/cts/"])
@pytest.mark.parametrize("prefix", ["", "/services/cts", "//services//cts"], ids=["stripped", "kept", "doubled"])
async def test_behind_a_proxy(root_path: str, prefix: str, services: FakeServices) -> None:
    app = services.app(root_path=root_path)
    for path in ("/", "/sites", "/sites/"):
        assert (await _raw(app, prefix + path))[0] == 200, path
    status, body = await _raw(app, f"{prefix}/openapi.json")
    assert json.loads(body)["servers"] == [{"url": "/services/cts"}]
    for page in ("/docs", "/redoc"):
        status, body = await _raw(app, prefix + page)
        assert status == 200
        assert b"/services/cts/openapi.json" in body


async def test_request_ids_are_fresh_and_ours(client: Client) -> None:
    given = {"X-Request-ID": "mine\u00fc".encode("latin-1")}
    ids = {(await client.get("/", headers=given)).headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20
    assert all(len(i) == 16 and i.isalnum() for i in ids)


async def test_surrogates_in_a_message(services: FakeServices, client: Client) -> None:
    services.jobs.raises["get"] = IllegalParameterError("the name \ud800 is odd")
    response = await client.get("/jobs/job1", "ann")
    assert response.status_code == 400
    assert _error(response)["message"] == "the name ? is odd"


@pytest.mark.parametrize(
    "path", ["/jobs/%00", "/jobs/%FF", "/jobs/..%2f..", "/images/%00", "/jobs/%F0%9F%98%80", "/jobs/" + "x" * 5000]
)
async def test_odd_paths(path: str, client: Client) -> None:
    response = await client.get(path, "ann")
    assert response.status_code < 500


async def test_every_request_is_logged_with_who_sent_it(client: Client) -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        response = await client.send("PUT", "/jobs/job1/cancel?secret=1", "ann")
        await client.get("/health/live")
    line = next(e for e in logs if e["event"] == "request")
    assert line["request_id"] == response.headers["x-request-id"]
    assert (line["method"], line["path"], line["status"], line["user"]) == ("PUT", "/jobs/job1/cancel", 204, "ann")
    assert line["route"] == "/jobs/{job_id}/cancel"
    assert "Bearer" not in str(logs)
    assert logs[-1]["log_level"] == "debug"


async def _raw(app: Any, path: str) -> tuple[int, bytes]:
    """A GET with a path that no client changes."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"cts")],
        "client": ("127.0.0.1", 1),
        "server": ("cts", 80),
    }
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:])
