"""`cts watch` and `logs`: a job while it goes on."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from cdmtaskservice.cli.jobs import JobId, containers_of
from cdmtaskservice.cli.service import AsJson, TokenFile, Url, connected, connected_async, run, who_and_where
from cdmtaskservice.cli.terminal import Exit, fail, harmless, say, show_json
from cdmtaskservice.cli.wording import read_seconds, time_shown

if TYPE_CHECKING:
    from cdmtaskservice.client import AsyncClient, Client
    from cdmtaskservice.client.calls import LogStream
    from cdmtaskservice.client.events import Event
    from cdmtaskservice.client.models import Job
    from cdmtaskservice.client.profile import Profile
    from cdmtaskservice.client.progress import Bar

Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        parser=read_seconds,
        help="Wait no longer: seconds, or such as 15m, 2h. Exit code 6.",
    ),
]

Tell = Callable[[tuple[str, str, str]], None]
"""Takes what is new: when (or nothing), what, and words about it."""

PIECE = 8 << 20
"""Bytes of a log that are asked for at once."""

PAUSE = 5.0
"""Seconds between two tries while a service that has answered before is away."""


def watch(
    job_id: JobId,
    timeout: Timeout = None,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Follow a job until it is over: each change of its state, its containers, and what holds it up.

    Exit code 0 where it is complete, 4 where it ended in error, 5 where it was canceled, 6 where --timeout ran out.
    While a service that has answered before is away, this waits. With --json the job is printed at the end.
    """
    profile = who_and_where(url, token_file)
    to_people = sys.stdout.isatty() and sys.stderr.isatty()
    end(profile, job_id, timeout, tell_nothing if as_json else _print, bar=to_people, as_json=as_json)


def end(
    profile: Profile,
    job_id: str,
    timeout: float | None,
    tell: Tell,
    *,
    bar: bool,
    as_json: bool,
    submitted: bool = False,
) -> None:
    """Follow a job until it is over, say how it ended, and end the command with the code for that.

    tell: gets each change. bar: whether one is to be drawn. submitted: whether the service has just accepted the job,
    so that it is waited for from the start, and nobody must believe that there is no job.
    """
    from cdmtaskservice.cli.job_view import ENDS, tell_end
    from cdmtaskservice.client import Client
    from cdmtaskservice.client.errors import CTSError

    try:
        job = run(profile, _followed(profile, job_id, timeout, tell, bar, submitted))
    except KeyboardInterrupt:
        say(f"{job_id} goes on; `cts watch {job_id}` follows it again, `cts cancel {job_id}` ends it")
        raise
    except typer.Exit as exc:
        if submitted and exc.exit_code != Exit.TIMED_OUT:  # which says as much
            say(f"Job {job_id} is submitted; follow it with `cts watch {job_id}`")
        raise
    if as_json:
        show_json(job.raw)
    containers = None
    if job.state == "error":
        # For a better hint only.
        try:
            with Client(profile.url, profile.token, retries=1) as cts:
                containers = containers_of(cts, job_id)
        except CTSError:
            containers = None
    tell_end(job, containers)
    raise typer.Exit(ENDS.get(job.state, Exit.REFUSED))


async def _followed(
    profile: Profile, job_id: str, patience: float | None, tell: Tell, bar: bool, answered: bool
) -> Job:
    from cdmtaskservice.client.errors import WaitTimeout
    from cdmtaskservice.client.progress import new_bar

    async with connected_async(profile) as cts:
        following = _Following(cts, job_id, tell, new_bar(bar, f"Job {job_id[:8]}"), answered)
        limit = asyncio.timeout(patience)
        try:
            async with limit:
                return await following.to_the_end()
        except TimeoutError:
            if patience is None or not limit.expired():
                raise
            raise WaitTimeout(job_id, following.state, patience) from None
        finally:
            following.bar.close()


class _Following:
    """One job, followed. state: the last that was told. answered: whether the service is known to be there."""

    def __init__(self, cts: AsyncClient, job_id: str, tell: Tell, bar: Bar, answered: bool) -> None:
        self.state: str | None = None
        self.bar = bar
        self._cts = cts
        self._job_id = job_id
        self._tell = tell
        self._answered = answered
        self._away = False
        self._seen = -1
        self._counts: Mapping[str, int] = {}
        self._waiting: str | None = None

    async def to_the_end(self) -> Job:
        """The job once it is over."""
        from cdmtaskservice.client.errors import NotFound, ResourceUnavailable, ServiceUnreachable, TooManyRequests

        while True:
            try:
                async for event in self._cts.events(self._job_id):
                    self._take(event)
                job = await self._cts.job(self._job_id)
                if job.is_over:
                    return job
            except NotFound as exc:
                if not exc.is_url:
                    raise
                # A service that is older than events can be asked again and again.
                return await self._cts.wait(self._job_id, progress=False)
            except ResourceUnavailable:
                return await self._cts.wait(self._job_id, progress=False)
            except ServiceUnreachable as exc:
                if exc.hopeless or not self._answered:
                    raise
                await self._outlast(f"the service does not answer, and is waited for: {exc.message}")
            except TooManyRequests as exc:
                await self._outlast(f"the service wants fewer requests, and is waited for: {exc.message}")

    async def _outlast(self, why: str) -> None:
        self._away = True
        self._wait_for(why)
        await asyncio.sleep(PAUSE)

    def _take(self, event: Event) -> None:
        from cdmtaskservice.client.events import ContainersEvent, StateEvent, WaitingEvent

        self._answered = True
        if self._away:
            # A new connection does not say that the last one's trouble is over.
            self._away = False
            self._wait_for(None)
        if isinstance(event, StateEvent):
            if 0 <= event.number <= self._seen:
                return
            self._seen = max(event.number, self._seen)
            self.state = event.state
            self._tell((time_shown(event.time), event.state, ""))
            self.bar.name(event.state)
        elif isinstance(event, ContainersEvent):
            # A line for each change of a thousand containers would be no help.
            if event.counts.keys() != self._counts.keys():
                self._tell(("", "containers", ", ".join(f"{state} {n}" for state, n in event.counts.items())))
            self._counts = event.counts
            self.bar.count(event.over, event.total)
        elif isinstance(event, WaitingEvent):
            self._wait_for(event.waiting)

    def _wait_for(self, what: str | None) -> None:
        if what is not None and what != self._waiting:
            self._tell(("", "waiting", what))
        self._waiting = what
        self.bar.note(what)


def tell_person(news: tuple[str, str, str]) -> None:
    """On standard error."""
    say(_line(news))


def tell_nothing(news: tuple[str, str, str]) -> None:
    """For whoever wants the end alone."""


def _print(news: tuple[str, str, str]) -> None:
    typer.echo(_line(news) if sys.stdout.isatty() else "\t".join(harmless(cell) for cell in news))


def _line(news: tuple[str, str, str]) -> str:
    when, what, words = news
    return harmless(f"{when:20}  {what}  {words}").rstrip()


def logs(
    job_id: JobId,
    container: Annotated[int, typer.Option("-c", "--container", metavar="N", min=0, help="Of this container.")] = 0,
    stderr: Annotated[bool, typer.Option("--stderr", help="What it wrote to standard error.")] = False,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on while the container runs.")] = False,
    seek: Annotated[int, typer.Option("--seek", metavar="BYTES", min=0, help="Leave out so many at the start.")] = 0,
    tail: Annotated[int | None, typer.Option("--tail", metavar="LINES", min=0, help="The last lines alone.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Print what a container has written, byte for byte. With -f also what it writes from now on.

    If a container is started again after its worker was lost, -f goes on with the next attempt, and says so. While the
    service is away, -f waits for it.
    """
    if follow and tail is not None:
        fail("--tail and -f exclude each other: what a running container writes has no last line", Exit.USAGE)
    stream = "stderr" if stderr else "stdout"
    with connected(url, token_file) as cts:
        if not follow:
            chunks = _stored(cts, job_id, container, stream, seek)
            _write(chunks if tail is None else _last_lines(chunks, tail))
            return
        # A service that never answers is no reason to wait, and one that goes away later is.
        cts.status(job_id)
    with connected(url, token_file, patient=True) as cts:
        _write(_live(cts, job_id, container, stream, seek))


def _stored(cts: Client, job_id: str, container: int, stream: str, seek: int) -> Iterator[bytes]:
    """A log, which may be large, piece by piece."""
    while True:
        piece = cts.log(job_id, container, _stream(stream), seek=seek, length=PIECE)
        yield piece
        seek += len(piece)
        if len(piece) < PIECE:
            return


def _live(cts: Client, job_id: str, container: int, stream: str, seek: int) -> Iterator[bytes]:
    attempt: int | None = None
    for chunk in cts.follow_log(job_id, container, _stream(stream), seek=seek):
        if attempt is not None and chunk.attempt not in {None, attempt}:
            say(f"attempt {attempt} was lost; attempt {chunk.attempt} begins")
        attempt = chunk.attempt or attempt
        if chunk.missing:
            say(f"{chunk.missing} bytes before this are kept no more while the container runs")
        yield chunk


def _stream(name: str) -> LogStream:
    return "stderr" if name == "stderr" else "stdout"


def _last_lines(chunks: Iterable[bytes], number: int) -> Iterator[bytes]:
    lines: deque[bytes] = deque(maxlen=number)
    rest: list[bytes] = []
    for chunk in chunks:
        *whole, last = chunk.split(b"\n")
        if whole:
            lines.append(b"".join([*rest, whole[0]]) + b"\n")
            lines.extend(line + b"\n" for line in whole[1:])
            rest = []
        if last:
            rest.append(last)
    if rest:
        lines.append(b"".join(rest))
    yield from lines


def _write(chunks: Iterable[bytes]) -> None:
    out = sys.stdout.buffer
    try:
        for chunk in chunks:
            out.write(chunk)
            out.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough. What Python would still write at its end has nowhere to go, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
