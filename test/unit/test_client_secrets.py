"""Neither the token nor a presigned URL is shown by anything of the client's."""

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cdmtaskservice.client import CTSError, Profile
from cdmtaskservice.client.http import fault_of, new_wire
from cdmtaskservice.client.requests import Request
from test.stand_ins.client_desk import JOB, STORE, TOKEN, URL, Desk, Facade, client_of, job, reply, stream

SIGNATURE = "s3cret-signature"
SIGNED = f"{STORE}/a?X-Amz-Credential=key&X-Amz-Signature={SIGNATURE}"
FILES = {"files": [{"file": "bucket/ann/out/a", "crc64nvme": "AAAAAAAAAAA=", "url": SIGNED}], "total": 1}


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(params=["sync", "async"])
def cts(request: pytest.FixtureRequest, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Facade]:
    yield from client_of(request.param, desk, monkeypatch)


def test_nothing_shows_the_token(cts: Facade):
    client = cts._client
    shown = [client, client.admin, client._driver, client._driver._wire, client._calls, Profile(URL, TOKEN)]
    assert all(TOKEN not in f"{s!r} {s}" for s in shown)


def test_files_do_not_show_their_urls(cts: Facade, desk: Desk):
    desk.on("GET /jobs/job-1/files", reply(FILES))
    [file] = cts.outputs(JOB)
    assert file.url == SIGNED
    assert SIGNATURE not in f"{file!r} {file}"
    assert SIGNATURE not in repr(Request("GET", url=SIGNED))


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.UnsupportedProtocol(f"Request URL '{SIGNED}' has an unsupported protocol"),
        httpx.RemoteProtocolError(f"{SIGNED} broke"),
        httpx.Response(403, text=SIGNED),
        httpx.Response(418, text=SIGNED),
    ],
)
def test_errors_and_their_tracebacks(cts: Facade, desk: Desk, tmp_path: Path, trouble: Any):
    desk.always("GET /jobs/job-1", reply(job()))
    desk.always("GET /jobs/job-1/files", reply(FILES))
    desk.always("GET store/a", trouble)
    with pytest.raises(CTSError) as caught:
        cts.download(JOB, tmp_path)
    text = "".join(traceback.format_exception(caught.value))
    assert SIGNATURE not in text
    assert TOKEN not in text
    error: BaseException | None = caught.value
    while error is not None:
        assert not hasattr(error, "request")
        assert error.__cause__ is None
        error = error.__cause__


def test_errors_of_the_service(cts: Facade, desk: Desk):
    desk.always("GET /jobs/job-1/status", httpx.ConnectError("refused"))
    with pytest.raises(CTSError) as caught:
        cts.status(JOB)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_a_fault_carries_nothing_of_its_request():
    error = httpx.ReadError("broken", request=httpx.Request("GET", SIGNED))
    assert SIGNATURE not in str(fault_of(error))


def test_logs_show_no_signatures(cts: Facade, desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    desk.on("GET /jobs/job-1", reply(job()))
    desk.on("GET /jobs/job-1/files", reply(FILES))
    desk.on("GET store/a", stream())
    with caplog.at_level(logging.DEBUG):
        cts.download(JOB, tmp_path)
    lines = [r.getMessage() for r in caplog.records if r.name == "httpx"]
    assert any(f"{STORE}/a?…" in line for line in lines)
    assert any("kind=outputs" in line for line in lines)
    assert SIGNATURE not in caplog.text
    assert TOKEN not in caplog.text


def test_other_lines_of_httpx_are_left_alone(caplog: pytest.LogCaptureFixture):
    new_wire(Profile(URL), 1.0)
    with caplog.at_level(logging.INFO):
        logging.getLogger("httpx").info("plain")
        logging.getLogger("httpx").info("%(a)s", {"a": "mapped"})
        logging.getLogger("httpx").info("%s %s", "GET", httpx.URL("http://x/?q=1"))
    assert [r.getMessage() for r in caplog.records] == ["plain", "mapped", "GET http://x/?q=1"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_without_a_token_none_is_sent(kind: str, desk: Desk, monkeypatch: pytest.MonkeyPatch):
    desk.on("GET /sites", reply({"sites": []}))
    for cts in client_of(kind, desk, monkeypatch, token=None):
        cts.sites()
    assert "authorization" not in desk.asked[0].headers


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_cookies_do_not_reach_the_store(kind: str, desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    desk.on("GET /jobs/job-1", reply(job(), set_cookie="session=s3cret; Domain=.test; Path=/"))
    desk.on("GET /jobs/job-1/files", reply(FILES))
    desk.on("GET store/a", stream())
    for cts in client_of(kind, desk, monkeypatch):
        cts.download(JOB, tmp_path)
    [asked] = desk.requests("GET store/a")
    assert "cookie" not in asked.headers
