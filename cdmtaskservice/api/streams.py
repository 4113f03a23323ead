"""Answers that go on for as long as their reader stays: logs, and a job's news as server-sent events.

The form of these events is that of the HTML standard of the WHATWG, section 9.2.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import structlog
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from cdmtaskservice.api import views
from cdmtaskservice.api.middleware import mark_as_staying
from cdmtaskservice.api.responses import dump
from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.services.events import JobNews
from cdmtaskservice.services.jobs import LogStream
from cdmtaskservice.services.live_logs import BrokenOffError, FollowedLog

_log = structlog.get_logger(__name__)

_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""For proxies that would otherwise gather an answer before they pass it on."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_SLOWEST_READER = 120.0
"""Seconds for a chunk to be taken by its reader."""

_NOTHING = object()
_SIGN_OF_LIFE = b": alive\n\n"


class StayingResponse(StreamingResponse):
    """A stream. What feeds it is closed however the request ends, and a broken one does not look like a whole one.

    source: what `content` itself reads, if that is something else, and is to be closed also where nothing was read.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str],
        source: AsyncGenerator[Any, None] | None = None,
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        # A generator that was never begun runs none of its own code when it is closed.
        self._feeding = [content, *([] if source is None else [source])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        mark_as_staying(scope)

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(_SLOWEST_READER):
                    await send(message)
            except TimeoutError:
                raise BrokenOffError("its reader takes nothing") from None

        try:
            await super().__call__(scope, receive, send_in_time)
        except* (BrokenOffError, DependencyUnavailableError) as group:
            # Without its last chunk, an answer is broken for every client.
            _log.info("stream_broken_off", why=str(group.exceptions[0]))
        finally:
            for generator in self._feeding:
                await generator.aclose()


class LogResponse(StayingResponse):
    """A log as an attachment."""

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        job_id: str,
        number: int,
        stream: LogStream,
        more: Mapping[str, str] | None = None,
    ) -> None:
        name = f"{_UNSAFE.sub('_', job_id)}-{number}-{stream}.txt"
        headers = {
            "Content-Disposition": f'attachment; filename="{name}"',
            # A container may write what a browser would take for a page of ours.
            "X-Content-Type-Options": "nosniff",
            **(more or {}),
        }
        super().__init__(chunks, "text/plain; charset=utf-8", headers)


def followed_response(log: FollowedLog, job_id: str, number: int, stream: LogStream) -> LogResponse:
    """A log that is followed, as it comes."""
    more = {**_UNBUFFERED, "CTS-Log-Attempt": str(log.attempt), "CTS-Log-Offset": str(log.offset)}
    return LogResponse(log.chunks, job_id, number, stream, more)


def events_response(news: AsyncGenerator[JobNews | None, None], last_event_id: str | None) -> StayingResponse:
    """A job's news, as they come."""
    events = event_stream(news, transitions_seen(last_event_id))
    return StayingResponse(events, "text/event-stream", _UNBUFFERED, source=news)


async def event_stream(news: AsyncGenerator[JobNews | None, None], seen: int) -> AsyncGenerator[bytes, None]:
    """The events of a job, each state once.

    seen: how many transitions the reader knows of already.
    """
    yield b"retry: 2000\n\n"
    counts: Mapping[str, int] | None = None
    told: str | object | None = _NOTHING
    async with aclosing(news):
        async for now in news:
            if now is None:
                yield _SIGN_OF_LIFE
                continue
            for number, transition in enumerate(now.job.transitions[seen:], seen):
                yield _event("state", {"state": transition.state.value, "time": transition.time}, number)
            seen = max(seen, len(now.job.transitions))
            by_name = {s.value: now.counts[s] for s in JobState if s in now.counts}
            if by_name != counts:
                counts = by_name
                yield _event("containers", {"counts": counts})
            words = views.waiting(now.job)
            if words != told:
                told = words
                yield _event("waiting", {"waiting": words})
            if now.job.state.is_terminal:
                yield _event("end", {"state": now.job.state.value})
                return


def transitions_seen(last_event_id: str | None) -> int:
    """How many transitions a reader knows of who sends this `Last-Event-ID`; 0 for one that is not ours."""
    if last_event_id is None or not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > 9:
        return 0
    return int(last_event_id) + 1


def _event(name: str, data: Mapping[str, Any], number: int | None = None) -> bytes:
    id_line = b"" if number is None else b"id: %d\n" % number
    return b"event: %s\n%sdata: %s\n\n" % (name.encode(), id_line, dump(data))
