"""A service that answers a client as a test says, without a network; and both clients as if they were one.

`Desk` is the service: it has answers for each request, and keeps what it was asked. `Facade` makes an `AsyncClient` as
blocking as `Client` is, so that each rule is tested once for both. Time passes only where a client waits.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from cdmtaskservice.client import aio, blocking
from cdmtaskservice.client.calls import Calls
from cdmtaskservice.client.retrying import Backoff, Retrying

URL = "http://cts.test/base"
STORE = "http://store.test"
TOKEN = "t0ken-of-ann"
JOB = "job-1"
TIME = "2030-01-01T12:00:00.123000Z"

Answer = httpx.Response | Exception | Callable[[httpx.Request], "httpx.Response | Exception"]

Piece = bytes | Exception | Callable[[], object]


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces, any of which may be an error to raise, or something to do."""

    def __init__(self, *pieces: Piece) -> None:
        self._pieces = pieces
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, bytes):
                yield piece
            else:
                piece()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def reply(body: Any = None, status: int = 200, **headers: str) -> httpx.Response:
    """A reply with JSON, or with none."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is None:
        return httpx.Response(204 if status == 200 else status, headers=names)
    return httpx.Response(status, json=body, headers=names)


def refusal(status: int, code: int | None = None, text: str | None = None, **headers: str) -> httpx.Response:
    """An error as the service sends it."""
    error = {"httpcode": status, "httpstatus": "?", "time": TIME, "request_id": "req-1", "message": "the message"}
    if code is not None:
        error |= {"appcode": code, "apperror": text or "the kind"}
    return reply({"error": error}, status, **headers)


def stream(
    *pieces: bytes | Exception | Callable[[], object], kind: str = "text/plain", **headers: str
) -> httpx.Response:
    """A reply whose body comes in pieces."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(200, headers={"content-type": kind, **names}, stream=Broken(*pieces))


class Desk:
    """Answers requests; what has no answer left fails the test that asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.slept: list[float] = []
        self.now = 1000.0
        self._answers: dict[str, list[Answer]] = {}
        self._always: dict[str, Answer] = {}

    def on(self, what: str, *answers: Answer) -> None:
        """The next answers to requests such as `GET /jobs/1`, to the store with `GET store/…`; one of each."""
        self._answers.setdefault(what, []).extend(answers)

    def always(self, what: str, answer: Answer) -> None:
        """What is answered when there is nothing else."""
        self._always[what] = answer

    def requests(self, what: str) -> list[httpx.Request]:
        """Those that were made."""
        return [r for r in self.asked if self._name(r) == what]

    @property
    def left(self) -> list[str]:
        """Answers that nobody has asked for."""
        return [what for what, answers in self._answers.items() if answers]

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer, or raise."""
        self.asked.append(request)
        what = self._name(request)
        left = self._answers.get(what)
        if not left and what not in self._always:
            raise AssertionError(f"nothing is known of {what}")
        answer: Any = left.pop(0) if left else self._always[what]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer.stream, Broken):
            return answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def _name(self, request: httpx.Request) -> str:
        path = request.url.raw_path.decode().partition("?")[0]
        if request.url.host == "store.test":
            return f"{request.method} store{path}"
        assert request.url.host == "cts.test"
        assert path.startswith("/base/")
        return f"{request.method} {path.removeprefix('/base')}"

    def sleep(self, seconds: float, *_: object) -> None:
        """Time passes."""
        self.slept.append(seconds)
        self.now += seconds


class Facade:
    """A client of either sort, with nothing to await. Iterators are for `for`."""

    def __init__(self, client: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self._client = client
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name == "admin":
            return Facade(found, self._loop)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            result = found(*args, **kwargs)
            if self._loop is None:
                return result
            if inspect.isasyncgen(result):
                return self._items(result)
            return self._loop.run_until_complete(result)

        return call

    def _items(self, items: Any) -> Iterator[Any]:
        assert self._loop is not None
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(items))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(items.aclose())


def client_of(
    kind: str, desk: Desk, monkeypatch: pytest.MonkeyPatch, token: str | None = TOKEN, **more: Any
) -> Iterator[Facade]:
    """A client of the desk's, `sync` or `async`, with the desk's time; closed afterwards."""

    def calls(retries: int) -> Calls:
        return Calls(Retrying(retries, Backoff(lambda: 1.0)), lambda: desk.now)

    async def sleep(seconds: float) -> None:
        desk.sleep(seconds)

    for name in ("CTS_URL", "CTS_TOKEN", "CTS_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CTS_PROFILE_FILE", "/nonexistent/profile.json")
    module: Any = blocking if kind == "sync" else aio
    monkeypatch.setattr(module, "new_calls", calls)
    sort: Any = blocking.Client if kind == "sync" else aio.AsyncClient
    client = sort(URL, token, transport=httpx.MockTransport(desk.handle), **more)
    client._driver._sleep = desk.sleep if kind == "sync" else sleep
    loop = None if kind == "sync" else asyncio.new_event_loop()
    facade = Facade(client, loop)
    yield facade
    facade.close()
    if loop is not None:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def status(state: str = "complete", *more: str) -> dict[str, Any]:
    """A job's status, after the states before."""
    times = [{"state": s, "time": TIME} for s in (*more, state)]
    return {"id": JOB, "user": "ann", "state": state, "transition_times": times, "admin_meta": {}}


def job(state: str = "complete", **more: Any) -> dict[str, Any]:
    """A job."""
    return {
        **status(state),
        "job_input": {
            "cluster": "local",
            "image": "registry.test/tool:1",
            "params": {"input_mount_point": "/in", "output_mount_point": "/out", "declobber": False},
            "num_containers": 1,
            "cpus": 1,
            "memory": 10_000_000,
            "runtime": "PT1M",
            "output_dir": "bucket/ann/out/",
            "input_files": [{"file": "bucket/ann/a", "crc64nvme": "AAAAAAAAAAA="}],
        },
        "image": {
            "name": "registry.test/tool",
            "digest": "sha256:1",
            "tag": "1",
            "entrypoint": ["tool"],
            "registered_by": "admin",
            "registered_on": TIME,
        },
        "input_file_count": 1,
        "outputs": [],
        **more,
    }


def body(request: httpx.Request) -> Any:
    """The JSON that was sent."""
    return json.loads(request.content)
