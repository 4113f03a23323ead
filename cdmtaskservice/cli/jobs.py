"""`cts jobs`, `job`, `outputs` and `cancel`."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdmtaskservice.cli import completion
from cdmtaskservice.cli.service import AsJson, TokenFile, Url, connected, who_and_where, words
from cdmtaskservice.cli.terminal import Exit, fail, say, show_json, show_table
from cdmtaskservice.cli.wording import read_time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cdmtaskservice.client import Client
    from cdmtaskservice.client.models import Container, JobPreview

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's ID.", autocompletion=completion.job_ids)]
JobIds = Annotated[list[str], typer.Argument(metavar="ID", help="IDs of jobs.", autocompletion=completion.job_ids)]
Cluster = Annotated[
    str | None,
    typer.Option("--site", "--cluster", metavar="SITE", help="At this site.", autocompletion=completion.sites),
]
State = Annotated[
    str | None,
    typer.Option("--state", metavar="STATE", help="In this state.", autocompletion=completion.states),
]
Tag = Annotated[str | None, typer.Option("--tag", metavar="TAG", help="With this tag.")]
Text = Annotated[
    str | None, typer.Option("-q", "--query", metavar="TEXT", help="With this text in name, tags, image or ID.")
]
After = Annotated[
    datetime.datetime | None,
    typer.Option(
        "--after",
        metavar="TIME",
        parser=read_time,
        help="Whose state has changed then or later: 2030-01-31[T12:00:00Z].",
    ),
]
Before = Annotated[
    datetime.datetime | None,
    typer.Option("--before", metavar="TIME", parser=read_time, help="Whose state has changed before."),
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many at most.")]

FEW = 50
"""Jobs that are listed unless told otherwise."""


def jobs(
    cluster: Cluster = None,
    state: State = None,
    tag: Tag = None,
    text: Text = None,
    after: After = None,
    before: Before = None,
    limit: Limit = FEW,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List your jobs, the last change of state first."""
    with connected(url, token_file) as cts:
        found = list(
            cts.jobs(cluster=cluster, state=state, tag=tag, q=text, after=after, before=before, limit=limit + 1)
        )
    show_jobs(found, limit, as_json=as_json)


def show_jobs(found: Sequence[JobPreview], limit: int, *, as_json: bool, users: bool = False) -> None:
    """A list of jobs, of which one more than `limit` was asked for. users: whether to tell whose each is."""
    from cdmtaskservice.cli.job_view import JOB_HEADINGS, job_row

    shown = found[:limit]
    if as_json:
        show_json({"jobs": [job.raw for job in shown]})
    else:
        headings = (*JOB_HEADINGS, *(["user"] if users else []))
        show_table(headings, [(*job_row(job), *([job.user] if users else [])) for job in shown])
    if len(found) > limit:
        say(f"There are more than {limit}: ask for more with --limit, or for fewer with a filter")


def job(
    job_id: JobId,
    containers: Annotated[bool, typer.Option("--containers", help="Show every container.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show a job: its state and how it came there, its containers, what it has used, and what went wrong."""
    from cdmtaskservice.cli.job_view import next_step, show_containers, show_job

    with connected(url, token_file) as cts:
        if containers:
            each = cts.containers(job_id)
            if as_json:
                show_json({"containers": [c.raw for c in each]})
            else:
                show_containers(each)
            return
        found = cts.job(job_id)
        known = None if as_json else containers_of(cts, job_id)
    if as_json:
        show_json(found.raw)
        return
    show_job(found, known, [], datetime.datetime.now(datetime.UTC))
    if hint := next_step(found, known):
        say(hint)


def containers_of(cts: Client, job_id: str) -> list[Container] | None:
    """The job's containers; None where the service is too old to tell."""
    from cdmtaskservice.client.errors import NotFound

    try:
        return cts.containers(job_id)
    except NotFound as exc:
        if not exc.is_url:
            raise
    return None


def outputs(
    job_id: JobId,
    directory: Annotated[
        Path | None,
        typer.Option("--download", metavar="DIR", file_okay=False, help="Fetch them, each compared with its checksum."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there with other content.")
    ] = False,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List the files that a job has made, with their checksums, or fetch them.

    Fetched files lie below DIR as they do below the job's output directory; their names are printed. What is there
    already with the right content is not fetched again, so a download that was broken off goes on.
    """
    if overwrite and directory is None:
        fail("--overwrite needs --download", Exit.USAGE)
    with connected(url, token_file) as cts:
        found = cts.job(job_id)
        if not found.is_over:
            fail(f"{job_id} is {found.state}, and has no outputs before it is over; `cts watch {job_id}` follows it")
        fetched = None if directory is None else cts.download(job_id, directory, overwrite=overwrite)
    if as_json:
        told = [dict(output.raw) for output in found.outputs]
        show_json({"outputs": told, **({} if fetched is None else {"downloaded": [str(file) for file in fetched]})})
    elif fetched is None:
        show_table(("file", "CRC64NVME"), [(output.file, output.crc64nvme) for output in found.outputs])
    else:
        show_table(("file",), [(str(file),) for file in fetched])
    if not found.outputs:
        say(f"{job_id} is {found.state}, and has no outputs")


def cancel(
    job_ids: JobIds,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Have jobs ended. They are canceled when all of their containers are stopped."""
    with connected(url, token_file) as cts:
        refused = cancel_each(job_ids, cts.cancel, url, token_file)
    if as_json:
        show_json({})
    if refused:
        raise typer.Exit(Exit.REFUSED)


def cancel_each(
    job_ids: Sequence[str], ask: Callable[[str], None], url: str | None, token_file: Path | None
) -> list[str]:
    """Ask for the end of each, whatever becomes of the others; those that cannot be canceled."""
    from cdmtaskservice.client.errors import ServiceError

    refused = []
    for job_id in dict.fromkeys(job_ids):
        try:
            ask(job_id)
        except ServiceError as exc:
            told = " ".join(words(exc, who_and_where(url, token_file)))
            say(told if job_id in told.split() else f"{job_id}: {told}")
            refused.append(job_id)
        else:
            say(f"{job_id} is being canceled")
    return refused
