"""Following the log of a container while it runs.

The service streams what there is and goes on while the container runs. What ends the stream decides what comes next:

| how it ended | the container | next |
|---|---|---|
| the connection broke, or was silent | | ask again from where it broke |
| as it should | its program has ended, or the job is over | the end |
| as it should | a new attempt has begun | ask again, from the attempt's first byte |
| as it should | neither | ask again from where it ended |

Each reply names the attempt that its bytes are of. Where it is not the one that was followed, its log is read from the
beginning.
"""

from __future__ import annotations

from typing import Self

from cdmtaskservice.client.calls import Calls, LogStream, log_request
from cdmtaskservice.client.effects import Emit, Flow, Items, NetworkFault, open_, pause, read
from cdmtaskservice.client.errors import NoLogs, NotFound
from cdmtaskservice.client.models import Container
from cdmtaskservice.client.requests import Reply

SILENCE = 60.0
"""Seconds without a byte after which the connection is made anew: a program may be silent, and so may a dead line."""

_RUN = frozenset(
    {
        "upload_submitting",
        "upload_submitted",
        "complete",
        "error_processing_submitting",
        "error_processing_submitted",
        "error",
    }
)
"""The states of a container whose program has ended."""


class LogChunk(bytes):
    """Bytes of a log, and where they are from.

    attempt: at the container, from 1, None where the service does not say. offset: of the first byte in the attempt's
    log. missing: bytes right before these that the service did not keep.
    """

    attempt: int | None
    offset: int
    missing: int

    def __new__(cls, data: bytes, attempt: int | None = None, offset: int = 0, missing: int = 0) -> Self:
        """The bytes with that."""
        chunk = super().__new__(cls, data)
        chunk.attempt, chunk.offset, chunk.missing = attempt, offset, missing
        return chunk


def follow(calls: Calls, job_id: str, container: int, stream: LogStream, seek: int) -> Items[LogChunk]:
    """A container's log from byte `seek` on, until its program has ended, with the attempts that follow a lost one."""
    position, attempt = seek, None
    quiet = -1  # connections in a row that brought nothing; the first one may wait for the container's begin
    while True:
        query = {"follow": True, "seek": position or None}
        try:
            request = log_request(job_id, container, stream, query, SILENCE)
            reply = yield from calls.retrying.call(request, open_)
        except NoLogs:
            # Between two streams: it is there in a moment, or never.
            if quiet < 0 or (yield from _has_ended(calls, job_id, container, attempt)):
                raise
            quiet += 1
            yield from pause(calls.retrying.backoff.delay(quiet))
            continue
        now = _number(reply, "cts-log-attempt")
        changed = attempt is not None and now is not None and now != attempt
        attempt = attempt if now is None else now
        if changed and position:
            position = 0
            continue
        offset = _number(reply, "cts-log-offset")
        begin = position if offset is None else offset
        skipped, missing = max(position - begin, 0), max(begin - position, 0)
        position = max(position, begin)
        quiet += 1
        whole = True
        try:
            while (chunk := (yield from read())) is not None:
                new, skipped = chunk[skipped:], max(skipped - len(chunk), 0)
                if new:
                    yield Emit(LogChunk(new, attempt, position, missing))
                    position, missing, quiet = position + len(new), 0, 0
        except NetworkFault:
            whole = False
        if whole and (yield from _has_ended(calls, job_id, container, attempt)):
            return
        yield from pause(calls.retrying.backoff.delay(quiet))


def _has_ended(calls: Calls, job_id: str, number: int, attempt: int | None) -> Flow[bool]:
    """Whether nothing more will come of the container's log."""
    try:
        containers = yield from calls.containers(job_id)
    except NotFound as e:
        if e.is_url:
            return True
        raise
    found: Container | None = next((c for c in containers if c.container_number == number), None)
    if found is not None:
        if attempt is not None and found.attempt is not None and found.attempt > attempt:
            return False
        if found.state in _RUN:
            return True
    status = yield from calls.status(job_id)
    return status.is_over or status.state == "canceling"


def _number(reply: Reply, header: str) -> int | None:
    text = reply.headers.get(header, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
