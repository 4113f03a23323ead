"""A running service, as commands reach it, and what they say where it says no or nothing."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from cdmtaskservice.cli.faults import faults_shown
from cdmtaskservice.cli.terminal import Exit, fail, harmless

if TYPE_CHECKING:
    from cdmtaskservice.cli.job_file import JobFile
    from cdmtaskservice.client import AsyncClient, Client
    from cdmtaskservice.client.errors import CTSError, ServiceError
    from cdmtaskservice.client.profile import Profile

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The service. Else CTS_URL, else that of `cts login`."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="Holds your token; - is standard input. Else CTS_TOKEN, CTS_TOKEN_FILE, or that of `cts login`.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document: what the service has sent.")]

RETRIES = 2
"""How often a request is sent again: for a few seconds, since somebody waits."""

_PATIENT_RETRIES = 100
"""The same, where somebody is content to wait."""

T = TypeVar("T")


@contextmanager
def connected(url: str | None, token_file: Path | None, *, patient: bool = False) -> Iterator[Client]:
    """A client of the service. What goes wrong within ends the command, with words.

    patient: it waits for a service that goes away, for a quarter of an hour.
    """
    profile = who_and_where(url, token_file)
    from cdmtaskservice.client import Client

    with told(profile), Client(profile.url, profile.token, retries=_PATIENT_RETRIES if patient else RETRIES) as cts:
        yield cts


def run(profile: Profile, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. What goes wrong within ends the command, with words."""
    with told(profile):
        return asyncio.run(work)


@asynccontextmanager
async def connected_async(profile: Profile) -> AsyncIterator[AsyncClient]:
    """A client of the service, for what must be broken off in time."""
    from cdmtaskservice.client import AsyncClient

    async with AsyncClient(profile.url, profile.token, retries=RETRIES) as cts:
        yield cts


def who_and_where(url: str | None, token_file: Path | None) -> Profile:
    """The service and the token that a command is to use."""
    from cdmtaskservice.client.errors import NotConfigured
    from cdmtaskservice.client.profile import load_profile, resolve

    token = None if token_file is None else read_token(token_file)
    try:
        if url is None and not os.environ.get("CTS_URL") and load_profile() is None:
            fail("No service is named: call `cts login` once, give --url, or set CTS_URL", Exit.USAGE)
        return resolve(url, token)
    except NotConfigured as exc:
        fail(str(exc))
    except ValueError as exc:
        fail(str(exc))


def read_token(file: Path) -> str:
    """The token in a file; of standard input where the file is `-`."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        fail(f"The token file {file} cannot be read: {reason}")
    if not text.strip():
        fail(f"The token file {file} is empty")
    return text.strip()


@contextmanager
def told(profile: Profile, job: JobFile | None = None) -> Iterator[None]:
    """Errors of the client end the command, with one line that says what was wrong and what to do.

    job: where faults of a submission are to be looked for.
    """
    from cdmtaskservice.client.errors import CTSError

    try:
        yield
    except CTSError as exc:
        refuse(exc, profile, job)
    except ValueError as exc:
        # What cannot be part of a request, such as an ID with a slash.
        fail(harmless(str(exc)))
    except BrokenPipeError:
        raise
    except OSError as exc:
        fail(f"{exc.filename or 'A file'} cannot be written: {exc.strerror or exc}")


def refuse(exc: CTSError, profile: Profile, job: JobFile | None = None) -> NoReturn:
    """End the command with the words and the exit code for this error."""
    from cdmtaskservice.client import errors

    code = Exit.REFUSED
    if isinstance(exc, errors.ServiceUnreachable):
        code = Exit.UNREACHABLE
    elif isinstance(exc, errors.WaitTimeout):
        code = Exit.TIMED_OUT
    fail("\n".join(words(exc, profile, job)), code)


def words(exc: CTSError, profile: Profile, job: JobFile | None = None) -> list[str]:
    """What is said of an error: a line, and further ones for the faults of a request."""
    from cdmtaskservice.client import errors

    if isinstance(exc, errors.ServiceUnreachable):
        return [f"{_line(exc.message)} ({profile.url}{_request(exc.request_id)})"]
    if isinstance(exc, errors.WaitTimeout):
        return [f"{_line(str(exc))}; it goes on, and `cts watch {exc.job_id}` follows it"]
    if isinstance(exc, errors.FileExists):
        return [_line(f"{exc.path} exists with other content: move it away, or say --overwrite")]
    if not isinstance(exc, errors.ServiceError):
        return [_line(str(exc))]
    if isinstance(exc, errors.AuthenticationError) and profile.token is None:
        return ["This needs your token: call `cts login`, or name its file with --token-file or CTS_TOKEN_FILE"]
    faults = faults_shown(exc.detail, job)
    known = f"HTTP {exc.http_status}, request {exc.request_id or 'no ID'}"
    if len(faults) == 1:
        return [f"{faults[0]} ({known})"]
    return [f"{_line(exc.message)} ({known}){_remedy(exc, job)}", *(f"  {fault}" for fault in faults)]


def _remedy(exc: ServiceError, job: JobFile | None) -> str:
    from cdmtaskservice.client import errors

    if isinstance(exc, errors.NoLogs) and "follow=true" in exc.message:
        return "; use -f for that"
    if job is not None and "has no CRC64NVME checksum" in exc.message:
        return "; or give it one where it is: `cts s3 checksum FILE --add`"
    for kind, remedy in (
        (errors.AuthenticationError, "`cts login` takes a new token"),
        (errors.NoSuchImage, "`cts images` lists those that are approved"),
        (errors.SiteUnavailable, "`cts sites` shows all"),
        (errors.NoLogs, "`cts job ID` shows how far the job is"),
    ):
        if isinstance(exc, kind):
            return f"; {remedy}"
    return ""


def _request(request_id: str | None) -> str:
    return f", request {request_id}" if request_id else ""


def _line(text: str) -> str:
    return harmless(" ".join(text.split()))
