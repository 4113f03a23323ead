"""`cts admin`: what administrators do about jobs."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cdmtaskservice.cli import completion
from cdmtaskservice.cli.jobs import (
    FEW,
    After,
    Before,
    Cluster,
    Limit,
    State,
    Tag,
    Text,
    cancel_each,
    show_jobs,
)
from cdmtaskservice.cli.service import AsJson, TokenFile, Url, connected
from cdmtaskservice.cli.terminal import Exit, fail, say, show_json, show_table
from cdmtaskservice.cli.wording import duration_shown, time_shown

if TYPE_CHECKING:
    from cdmtaskservice.client.admin_models import AdminJob, SubJob

app = typer.Typer(help="For administrators: everybody's jobs, and what goes on behind them.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's ID.")]


@app.command()
def jobs(
    user: Annotated[str | None, typer.Option("--user", metavar="USER", help="Of this user.")] = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="That cannot go on now.")] = False,
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
    """List everybody's jobs, the last change of state first."""
    with connected(url, token_file) as cts:
        found = list(
            cts.admin.jobs(
                cluster=cluster,
                state=state,
                tag=tag,
                q=text,
                after=after,
                before=before,
                limit=limit + 1,
                user=user,
                waiting=waiting or None,
            )
        )
    show_jobs(found, limit, as_json=as_json, users=True)


@app.command()
def job(job_id: JobId, url: Url = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Show a job with what its owner is not told: faults in full, IDs at the engines, messages."""
    from cdmtaskservice.cli.job_view import show_job

    with connected(url, token_file) as cts:
        found = cts.admin.job(job_id)
    if as_json:
        show_json(found.raw)
        return
    show_job(found, None, _more(found), datetime.datetime.now(datetime.UTC))


@app.command()
def cancel(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID", help="IDs of jobs.")],
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Have anybody's jobs ended."""
    with connected(url, token_file) as cts:
        refused = cancel_each(job_ids, cts.admin.cancel, url, token_file)
    if as_json:
        show_json({})
    if refused:
        raise typer.Exit(Exit.REFUSED)


@app.command()
def containers(
    job_id: JobId,
    number: Annotated[int | None, typer.Option("-c", "--container", metavar="N", min=0, help="This one alone.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List a job's containers with their attempts and faults."""
    with connected(url, token_file) as cts:
        found = cts.admin.containers(job_id) if number is None else [cts.admin.container(job_id, number)]
    if as_json:
        show_json({"subjobs": [c.raw for c in found]} if number is None else found[0].raw)
        return
    show_table(
        ("container", "state", "since", "attempt", "exit code", "outputs", "what went wrong"),
        [_row(c) for c in found],
    )


@app.command()
def runner_status(
    job_id: JobId,
    number: Annotated[int, typer.Option("-c", "--container", metavar="N", min=0, help="Of this container.")] = 0,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what the engine says of a container's run, or of a job's at JAWS."""
    import json

    with connected(url, token_file) as cts:
        found = cts.admin.runner_status(job_id, container=number)
    if as_json:
        show_json(found)
        return
    show_table(("what", "value"), [(k, v if isinstance(v, str) else json.dumps(v)) for k, v in found.items()])
    if not found:
        say("the engine has nothing of it: it was not submitted yet, or was let go of")


@app.command()
def meta(
    job_id: JobId,
    set_fields: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set this note; may be repeated.")
    ] = None,
    unset_keys: Annotated[
        list[str] | None, typer.Option("--unset", metavar="KEY", help="Remove this note; may be repeated.")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Set and remove notes on a job. Its owner sees them."""
    fields: dict[str, str | int | float] = {}
    for setting in set_fields or []:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            fail(f"--set {setting}: write KEY=VALUE", Exit.USAGE)
        fields[key] = value
    if not fields and not unset_keys:
        fail("Say what to --set or to --unset", Exit.USAGE)
    with connected(url, token_file) as cts:
        cts.admin.set_meta(job_id, set_fields=fields, unset_keys=unset_keys or [])
    _done(f"the notes on {job_id} are changed", as_json=as_json)


@app.command()
def notify(
    job_id: JobId,
    state: Annotated[
        str,
        typer.Argument(metavar="STATE", help="A state that the job was in.", autocompletion=completion.states),
    ],
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Publish the message of a state once more, with the same ID."""
    with connected(url, token_file) as cts:
        cts.admin.notify(job_id, state)
    _done(f"the message of {state} of {job_id} was published again", as_json=as_json)


@app.command()
def clean(
    job_id: JobId,
    force: Annotated[bool, typer.Option("--force", help="Even while it is not over, which harms it.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove what a site keeps of a job that is over. Its outputs and logs in S3 stay."""
    with connected(url, token_file) as cts:
        cts.admin.clean(job_id, force=force)
    _done(f"what the site kept of {job_id} is removed", as_json=as_json)


@app.command()
def unsent(
    age: Annotated[
        str | None, typer.Option("--age", metavar="DURATION", help="Owed for so long, such as PT10M, the default.")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Publish now what messages have been owed for a while, and say how many."""
    with connected(url, token_file) as cts:
        found = cts.admin.unsent_notifications(age)
    if as_json:
        show_json(found.raw)
        return
    show_table(("what", "value"), [("jobs", str(found.jobs)), ("messages", str(found.transitions))])


@app.command()
def nersc(
    lifetime: Annotated[
        str | None,
        typer.Option("--require-lifetime", metavar="DURATION", help="Exit code 1 where less is left, such as P2D."),
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the client of NERSC that the service uses, and when it expires."""
    with connected(url, token_file) as cts:
        found = cts.admin.nersc_client(lifetime)
    if as_json:
        show_json(found.raw)
        return
    show_table(
        ("what", "value"),
        [
            ("id", found.id),
            ("expires", time_shown(found.expires_at)),
            ("that is in", duration_shown(found.expires_in.total_seconds())),
        ],
    )


def _done(message: str, *, as_json: bool) -> None:
    say(message)
    if as_json:
        show_json({})


def _more(job: AdminJob) -> list[tuple[str, str]]:
    details = (("HTCondor", job.htcondor_details), ("JAWS", job.jaws_details), ("NERSC", job.nersc_details))
    unsent = [step.state for step in job.transition_times if not step.notif_sent]
    known: list[tuple[str, str | None]] = [
        ("user", job.user),
        ("cleaned", "yes" if job.cleaned else "no"),
        *(
            (f"{engine} {key}", ", ".join(map(str, ids)))
            for engine, found in details
            for key, ids in (found or {}).items()
        ),
        ("messages owed", ", ".join(unsent)),
        ("fault", job.admin_error),
        ("traceback", job.traceback),
    ]
    return [(name, value) for name, value in known if value]


def _row(container: SubJob) -> tuple[str, ...]:
    lost = [f"attempt {a.attempt} was lost: {a.why}" for a in container.lost_attempts]
    last = container.transition_times[-1].time if container.transition_times else None
    return (
        str(container.sub_id),
        container.state,
        time_shown(last) if last else "",
        str(container.attempt),
        "" if container.exit_code is None else str(container.exit_code),
        "" if container.outputs is None else str(len(container.outputs)),
        "; ".join([*([container.admin_error] if container.admin_error else []), *lost]),
    )
