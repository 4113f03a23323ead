"""What the client tries again, and the errors that come of what it does not."""

import socket
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cdmtaskservice.client import (
    AuthenticationError,
    Conflict,
    CTSError,
    InvalidRequest,
    InvalidState,
    LifetimeTooShort,
    NoLogs,
    NoSuchContainer,
    NoSuchFile,
    NoSuchImage,
    NoSuchJob,
    NoSuchReferenceData,
    NotFound,
    ResourceUnavailable,
    ServiceError,
    ServiceUnreachable,
    SiteUnavailable,
    TooManyRequests,
    Unauthorized,
    Unsupported,
)
from cdmtaskservice.client.errors import read_error
from cdmtaskservice.client.retrying import Backoff
from cdmtaskservice.domain.errors import ErrorType
from test.stand_ins.client_desk import JOB, Desk, Facade, client_of, refusal, reply, status

REQUEST = httpx.Request("GET", "http://cts.test/base/x?X-Amz-Signature=s3cret")


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(params=["sync", "async"])
def cts(request: pytest.FixtureRequest, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Facade]:
    yield from client_of(request.param, desk, monkeypatch)


UNSENT = {
    "refused": httpx.ConnectError("[Errno 111] Connection refused"),
    "no connection": httpx.ConnectTimeout(""),
}
UNCERTAIN: dict[str, Any] = {
    "broken": httpx.ReadError("reset"),
    "cut": httpx.RemoteProtocolError("peer closed connection"),
    "half sent": httpx.WriteError("pipe"),
    "silent": httpx.ReadTimeout("slow"),
    "502": httpx.Response(502, text="<html>bad gateway</html>"),
    "503": refusal(503),
    "504": httpx.Response(504),
    "429": httpx.Response(429),
}
FINAL = {str(s): refusal(s) for s in (400, 401, 403, 404, 405, 409, 413, 500, 501)}
GET = ("GET /jobs/job-1/status", status(), lambda c: c.status(JOB))
PUT = ("PUT /jobs/job-1/cancel", None, lambda c: c.cancel(JOB))
DELETE = ("DELETE /admin/refdata/r", None, lambda c: c.admin.retire_refdata("r"))
SUBMIT = ("POST /jobs", {"job_id": JOB}, lambda c: c.submit({"a": 1}))
POST = ("POST /admin/images/i", None, lambda c: c.admin.approve_image("i"))


@pytest.mark.parametrize("call", [GET, PUT, DELETE, SUBMIT], ids=["GET", "PUT", "DELETE", "submission"])
@pytest.mark.parametrize("trouble", [*UNSENT, *UNCERTAIN])
def test_what_may_be_repeated_is(cts: Facade, desk: Desk, trouble: str, call: Any):
    what, answer, do = call
    desk.on(what, {**UNSENT, **UNCERTAIN}[trouble], reply(answer))
    do(cts)
    assert len(desk.asked) == 2
    assert desk.slept == [0.5]


@pytest.mark.parametrize("trouble", UNSENT)
def test_other_posts_are_repeated_where_they_cannot_have_arrived(cts: Facade, desk: Desk, trouble: str):
    desk.on(POST[0], UNSENT[trouble], refusal(400, 50010))
    with pytest.raises(Conflict):
        POST[2](cts)
    assert len(desk.asked) == 2


@pytest.mark.parametrize("trouble", UNCERTAIN)
def test_other_posts_are_not_repeated_where_they_may_have_arrived(cts: Facade, desk: Desk, trouble: str):
    desk.on(POST[0], UNCERTAIN[trouble])
    with pytest.raises(CTSError) as caught:
        POST[2](cts)
    assert len(desk.asked) == 1
    assert isinstance(caught.value, TooManyRequests if trouble == "429" else ServiceUnreachable)
    assert trouble == "429" or "may have been carried out" in str(caught.value)


@pytest.mark.parametrize("trouble", FINAL)
@pytest.mark.parametrize("call", [GET, SUBMIT], ids=["GET", "submission"])
def test_refusals_are_final(cts: Facade, desk: Desk, trouble: str, call: Any):
    desk.on(call[0], FINAL[trouble])
    with pytest.raises(ServiceError) as caught:
        call[2](cts)
    assert caught.value.http_status == int(trouble)
    assert caught.value.request_id == "req-1"
    assert len(desk.asked) == 1


def test_tries_end(cts: Facade, desk: Desk):
    desk.always(GET[0], httpx.ConnectError("[Errno 111] Connection refused"))
    with pytest.raises(ServiceUnreachable, match="Connection refused") as caught:
        cts.status(JOB)
    assert desk.slept == [0.5, 1, 2, 4, 8]
    assert len(desk.asked) == 6
    assert caught.value.__cause__ is None


def test_a_service_that_stays_away_says_who_to_ask(cts: Facade, desk: Desk):
    desk.always(GET[0], refusal(503))
    with pytest.raises(ServiceUnreachable, match=r"HTTP 503.*the message") as caught:
        cts.status(JOB)
    assert (caught.value.http_status, caught.value.request_id) == (503, "req-1")


@pytest.mark.parametrize(("asked", "slept"), [("7", 7), ("0", 0.5), ("9999", 60), ("soon", 0.5), ("-3", 0.5)])
def test_the_service_says_how_long_to_wait(cts: Facade, desk: Desk, asked: str, slept: float):
    desk.on(GET[0], refusal(503, retry_after=asked), reply(status()))
    cts.status(JOB)
    assert desk.slept == [slept]


def test_jitter_spreads_the_tries():
    assert Backoff(lambda: 0.0).delay(3) == 2
    assert Backoff(lambda: 1.0).delay(3) == 4
    assert Backoff(lambda: 1.0).delay(10_000) == 10


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def test_a_certificate_that_is_not_trusted_is_not_tried_again(cts: Facade, desk: Desk):
    distrust = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")
    desk.on(GET[0], _caused(httpx.ConnectError(str(distrust)), distrust))
    with pytest.raises(ServiceUnreachable, match="self-signed") as caught:
        cts.status(JOB)
    assert caught.value.hopeless
    assert len(desk.asked) == 1


def test_a_host_that_nobody_knows(cts: Facade, desk: Desk):
    lookup = socket.gaierror(-2, "Name or service not known")
    desk.always(GET[0], lambda _: _caused(httpx.ConnectError(str(lookup)), lookup))
    with pytest.raises(ServiceUnreachable) as caught:
        cts.status(JOB)
    assert caught.value.unknown_host
    assert not caught.value.hopeless


def test_a_submission_keeps_its_key_over_all_tries(cts: Facade, desk: Desk):
    desk.on(SUBMIT[0], httpx.ReadTimeout(""), refusal(503), httpx.ReadError(""), reply({"job_id": JOB}))
    assert cts.submit({"a": 1}) == JOB
    keys = {r.headers["idempotency-key"] for r in desk.asked}
    assert len(desk.asked) == 4
    assert len(keys) == 1
    assert 1 <= len(keys.pop()) <= 64
    assert len({r.content for r in desk.asked}) == 1


def test_each_submission_has_a_key_of_its_own(cts: Facade, desk: Desk):
    desk.always(SUBMIT[0], reply({"job_id": JOB}))
    cts.submit({"a": 1})
    cts.submit({"a": 1})
    cts.submit({"a": 1}, idempotency_key="mine")
    keys = [r.headers["idempotency-key"] for r in desk.asked]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


EXPECTED: dict[ErrorType, type[ServiceError]] = {
    ErrorType.AUTHENTICATION_FAILED: AuthenticationError,
    ErrorType.NO_TOKEN: AuthenticationError,
    ErrorType.INVALID_TOKEN: AuthenticationError,
    ErrorType.INVALID_AUTH_HEADER: AuthenticationError,
    ErrorType.INVALID_USERNAME: InvalidRequest,
    ErrorType.UNAUTHORIZED: Unauthorized,
    ErrorType.S3_PATH_INACCESSIBLE: Unauthorized,
    ErrorType.S3_BUCKET_INACCESSIBLE: Unauthorized,
    ErrorType.MISSING_PARAMETER: InvalidRequest,
    ErrorType.ILLEGAL_PARAMETER: InvalidRequest,
    ErrorType.REQUEST_VALIDATION_FAILED: InvalidRequest,
    ErrorType.ILLEGAL_S3_PATH: InvalidRequest,
    ErrorType.CHECKSUM_MISMATCH: InvalidRequest,
    ErrorType.IMAGE_NAME_PARSE: InvalidRequest,
    ErrorType.IMAGE_FETCH: InvalidRequest,
    ErrorType.IMAGE_NO_ENTRYPOINT: InvalidRequest,
    ErrorType.CLIENT_LIFETIME: LifetimeTooShort,
    ErrorType.INVALID_JOB_STATE: InvalidState,
    ErrorType.INVALID_REFDATA_STATE: InvalidState,
    ErrorType.NOT_FOUND: NotFound,
    ErrorType.NO_SUCH_S3_PATH: NoSuchFile,
    ErrorType.NO_SUCH_BUCKET: NoSuchFile,
    ErrorType.NO_SUCH_IMAGE: NoSuchImage,
    ErrorType.NO_SUCH_JOB: NoSuchJob,
    ErrorType.NO_SUCH_SUBJOB: NoSuchContainer,
    ErrorType.NO_SUCH_REFDATA: NoSuchReferenceData,
    ErrorType.NO_LOGS: NoLogs,
    ErrorType.IMAGE_TAG_EXISTS: Conflict,
    ErrorType.IMAGE_DIGEST_EXISTS: Conflict,
    ErrorType.REFDATA_EXISTS: Conflict,
    ErrorType.RESOURCE_UNAVAILABLE: ResourceUnavailable,
    ErrorType.JOB_FLOW_INACTIVE: SiteUnavailable,
    ErrorType.JOB_FLOW_UNAVAILABLE: SiteUnavailable,
    ErrorType.UNSUPPORTED: Unsupported,
}


@pytest.mark.parametrize("kind", ErrorType, ids=lambda k: k.name)
def test_every_error_of_the_service_has_its_class(cts: Facade, desk: Desk, kind: ErrorType):
    desk.on(GET[0], refusal(int(kind.status), kind.code, kind.text))
    with pytest.raises(ServiceError) as caught:
        cts.status(JOB)
    error = caught.value
    assert type(error) is EXPECTED[kind]
    found = (error.http_status, error.app_code, error.app_error, error.message, error.request_id, error.detail)
    assert found == (kind.status, kind.code, kind.text, "the message", "req-1", [])
    assert str(error) == f"{kind.text} ({kind.code}): the message [request req-1]"


def test_no_code_has_two_classes():
    def below(kind: type[ServiceError]) -> list[type[ServiceError]]:
        return [kind, *(c for sub in kind.__subclasses__() for c in below(sub))]

    codes = [code for kind in below(ServiceError) for code in vars(kind).get("codes", ())]
    assert sorted(codes) == sorted(e.code for e in ErrorType)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (httpx.Response(401), AuthenticationError, "HTTP 401: Unauthorized"),
        (httpx.Response(403, text="no,\n  not you"), Unauthorized, "HTTP 403: Forbidden: no, not you"),
        (httpx.Response(404, text="<html>x</html>"), NotFound, "HTTP 404: Not Found"),
        (httpx.Response(409, json={"error": "?"}), Conflict, 'HTTP 409: Conflict: {"error":"?"}'),
        (httpx.Response(413, json={"error": {"message": 5}}), InvalidRequest, "HTTP 413: Request Entity Too Large"),
        (httpx.Response(418, content=b"\xff" * 1000), ServiceError, "HTTP 418: I'm a Teapot: " + "\ufffd" * 300 + "…"),
        (httpx.Response(599), ServiceError, "HTTP 599: status 599"),
        (refusal(400, 77777), InvalidRequest, "the kind (77777): the message [request req-1]"),
        (refusal(409), Conflict, "HTTP 409: the message [request req-1]"),
        (refusal(500), ServiceError, "HTTP 500: the message [request req-1]"),
    ],
)
def test_errors_of_others_and_of_newer_services(cts: Facade, desk: Desk, answer: Any, kind: Any, message: str):
    desk.on(GET[0], answer)
    with pytest.raises(ServiceError) as caught:
        cts.status(JOB)
    assert type(caught.value) is kind
    assert str(caught.value) == message


def test_all_faults_of_a_request_are_there():
    detail = [{"loc": ["body", "cpus"], "msg": "too few"}]
    body = httpx.Response(400, json={"error": {"appcode": 30010, "request_validation_detail": detail}}).content
    assert read_error(400, body).detail == detail


def test_too_many_requests(cts: Facade, desk: Desk):
    desk.always(GET[0], httpx.Response(429, text="slower"))
    with pytest.raises(TooManyRequests, match="slower"):
        cts.status(JOB)
    assert len(desk.asked) == 6


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_no_tries_at_all(kind: str, desk: Desk, monkeypatch: pytest.MonkeyPatch):
    for cts in client_of(kind, desk, monkeypatch, retries=0):
        desk.on(GET[0], httpx.ReadTimeout(""))
        with pytest.raises(ServiceUnreachable, match="no answer in time"):
            cts.status(JOB)
    assert desk.slept == []
