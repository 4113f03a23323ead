"""What reference data services ask, over HTTP and in the same process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from cdmtaskservice.domain.errors import DependencyUnavailableError, InvalidRefdataStateError
from cdmtaskservice.domain.refdata_calls import RefdataProgress, RefdataUpdate, RefdataWorkRequest
from cdmtaskservice.domain.states import RefdataState
from cdmtaskservice.stager.desk import Desk, DeskRefusedError, DeskUnreachableError, HttpDesk
from cdmtaskservice.wiring.refdata import DirectDesk
from test.unit.api_fakes import FakeServices

BEAT = {"task": "t", "claim": "c"}
ASKED = [
    ("work", ("kbase", RefdataWorkRequest(claim="c", root="/r", room=3))),
    ("progress", ("ref1", "kbase", RefdataProgress(task="t", claim="c"))),
    ("update", ("ref1", "kbase", RefdataState.ERROR, RefdataUpdate(task="t", claim="c", error="e"))),
]


async def over(desk: HttpDesk, transport: httpx.AsyncBaseTransport, url: str) -> None:
    """Send what a desk sends to something in this process."""
    await desk._client.aclose()
    desk._client = httpx.AsyncClient(transport=transport, base_url=url)


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("refserv\n")
    return tmp_path / "token"


@pytest.fixture(params=["http", "direct"])
async def desk(request: pytest.FixtureRequest, services: FakeServices, token: Path) -> AsyncIterator[Desk]:
    """Both kinds, in front of the same service."""
    with capture_logs():
        if request.param == "direct":
            yield DirectDesk(services.refdata_desk)  # type: ignore[arg-type]
            return
        async with HttpDesk("http://cts/below", token) as http:
            await over(http, httpx.ASGITransport(services.app(root_path="/below")), "http://cts/below")
            yield http


async def ask_all(desk: Desk) -> tuple[Any, bool]:
    told = await desk.work("kbase", "c", "/r", 3)
    stop = await desk.progress("ref1", "kbase", BEAT)
    await desk.update("ref1", "kbase", "error", {**BEAT, "error": "e"})
    return told, stop


async def test_calls_reach_the_service(desk: Desk, services: FakeServices) -> None:
    told, stop = await ask_all(desk)
    assert services.refdata_desk.calls == ASKED
    assert (told["work"][0]["task"], told["report_interval"], stop) == ("1-refdata-1", 5.0, False)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DependencyUnavailableError("the database is away"), DeskUnreachableError),
        (InvalidRefdataStateError("not yours"), DeskRefusedError),
    ],
)
async def test_what_the_service_says_no_to(
    desk: Desk, services: FakeServices, error: Exception, told: type[Exception]
) -> None:
    services.refdata_desk.raises = dict.fromkeys(("work", "progress", "update"), error)
    for call in (
        desk.work("kbase", "c", "/r", 1),
        desk.progress("ref1", "kbase", BEAT),
        desk.update("ref1", "kbase", "complete", BEAT),
    ):
        with pytest.raises(told):
            await call


async def test_what_nobody_may_send_is_refused(desk: Desk, services: FakeServices) -> None:
    for call in (
        desk.work("kbase", "c", "relative", 1),
        desk.progress("ref1", "kbase", {**BEAT, "progress": {"phase": "x"}}),
        desk.update("ref1", "kbase", "staged", BEAT),
    ):
        with pytest.raises(DeskRefusedError):
            await call
    assert services.refdata_desk.calls == []


# Over HTTP only


async def test_the_token_is_read_for_each_call(services: FakeServices, token: Path) -> None:
    with capture_logs():
        async with HttpDesk("http://cts", token) as desk:
            await over(desk, httpx.ASGITransport(services.app()), "http://cts")
            await ask_all(desk)
            for wrong in ("nobody", "ann", "", "two words"):
                token.write_text(wrong)
                with pytest.raises(DeskUnreachableError, match=r"HTTP 40[13]|Protocol"):
                    await desk.work("kbase", "c", "/r", 1)
            token.unlink()
            with pytest.raises(DeskUnreachableError, match="FileNotFoundError"):
                await desk.work("kbase", "c", "/r", 1)
            token.write_bytes(b"\xff")
            with pytest.raises(DeskUnreachableError, match="UnicodeDecodeError"):
                await desk.work("kbase", "c", "/r", 1)
            token.write_text("refserv")
            await ask_all(desk)


def answering(answer: Callable[[], httpx.Response]) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: answer())


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503])
async def test_answers_that_may_be_others_later(status: int, token: Path) -> None:
    async with HttpDesk("http://cts", token) as desk:
        await over(desk, answering(lambda: httpx.Response(status, text="<html>")), "http://cts")
        with pytest.raises(DeskUnreachableError, match=f"PUT .*update/complete: HTTP {status}: <html>"):
            await desk.update("ref1", "kbase", "complete", BEAT)


@pytest.mark.parametrize("status", [301, 400, 404, 405, 413])
async def test_answers_that_are_meant_so(status: int, token: Path) -> None:
    async with HttpDesk("http://cts", token) as desk:
        await over(desk, answering(lambda: httpx.Response(status, text="no")), "http://cts")
        with pytest.raises(DeskRefusedError, match=f"HTTP {status}: no"):
            await desk.update("ref1", "kbase", "complete", BEAT)


@pytest.mark.parametrize(
    "body", [b"<html>Log in", b"", b"[]", b"{}", b'{"work": {}, "report_interval": 1}', b'{"work": []}', b"\xff"]
)
async def test_answers_of_something_else_than_the_service(body: bytes, token: Path) -> None:
    """As of a proxy: they must not end the reference data service."""
    async with HttpDesk("http://cts", token) as desk:
        await over(desk, answering(lambda: httpx.Response(200, content=body)), "http://cts")
        with pytest.raises(DeskUnreachableError, match="/external_exec/refdata/kbase/work answers what is no"):
            await desk.work("kbase", "c", "/r", 1)
        with pytest.raises(DeskUnreachableError, match=r"/ref1/kbase/progress (answers what is no|does not say)"):
            await desk.progress("ref1", "kbase", BEAT)
        with pytest.raises(DeskUnreachableError, match=r"/ref1/kbase/update/complete answers 200"):
            await desk.update("ref1", "kbase", "complete", BEAT)


async def test_nobody_there(token: Path) -> None:
    async with HttpDesk("http://127.0.0.1:9", token) as desk:
        with pytest.raises(DeskUnreachableError, match="ConnectError"):
            await desk.work("kbase", "c", "/r", 1)
