"""`cts submit`: a job from a file."""

from __future__ import annotations

import sys
import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from cdmtaskservice.cli import service
from cdmtaskservice.cli.follow import Timeout, end, tell_person
from cdmtaskservice.cli.job_file import NUMBERS, JobFile, JobFileError, read_job
from cdmtaskservice.cli.service import AsJson, TokenFile, Url, told, who_and_where
from cdmtaskservice.cli.terminal import Exit, fail, say, show_json

if TYPE_CHECKING:
    from cdmtaskservice.client.profile import Profile

SETTABLE = frozenset({"cluster", "image", "name", "output_dir", *NUMBERS})
"""The fields that can be given on the command line, instead of or beside those of the file."""

RETRIES = 5
"""How often a submission is sent again, for some ten seconds: a script may have made much for it."""

EXAMPLE = """\
# A job: `cts submit job.yaml`. Fields, limits and defaults: docs/user-guide.md.
# A value without quotes is text, just as it is written here.

cluster: local                                   # a site, from `cts sites`
image: registry.example.org/tools/seqtool:1.0    # an approved image, from `cts images`
name: all reads of run 1                         # for people
tags: [reads, run-1]                             # `cts jobs --tag reads` finds it

num_containers: 2      # which share the input files
cpus: 1                # for each container
memory: 500MB
runtime: PT10M         # or seconds; what takes longer is ended

params:
  # What the image's program is called with; each entry is one argument.
  args:
    - stats
    - -o
    - /output_files
    # This one is replaced by the paths of the container's input files.
    - type: input_files
      input_files_format: space_separated_list
  declobber: true      # each container's outputs go below its number

input_files:           # in S3, as BUCKET/KEY; `cts s3 checksum` says whether they can be inputs
  - cts-data/ann/reads/sample1.fasta
  - cts-data/ann/reads/sample2.fasta
  - cts-data/ann/reads/sample3.fasta
output_dir: cts-data/ann/results/run1
"""


def submit(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="The job, as YAML or JSON; - reads standard input.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help=f"Set one of {', '.join(sorted(SETTABLE))}; may be repeated."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all that a submission checks, and store nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it is over.")] = False,
    timeout: Timeout = None,
    key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="KEY", help="The same key and job give the same ID, however often."),
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Print a job to begin with.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job. Its ID, and nothing else, is printed on standard output.

    With --wait the exit code is 0 where the job is complete, 4 where it ended in error, 5 where it was canceled, and 6
    where --timeout ran out; it goes on then. While the service is away, the job that it has accepted is waited for.
    """
    if example:
        typer.echo(EXAMPLE, nl=False)
        return
    if file is None:
        fail("Name the FILE of a job; --example prints one", Exit.USAGE)
    if dry_run and wait:
        fail("--dry-run and --wait exclude each other", Exit.USAGE)
    if timeout is not None and not wait:
        fail("--timeout needs --wait", Exit.USAGE)
    if file == "-" and str(token_file) == "-":
        fail("Only one of the job and the token can come from standard input", Exit.USAGE)
    job = _read(file, settings or [])
    profile = who_and_where(url, token_file)
    if dry_run:
        _check(profile, job, as_json=as_json)
        return
    job_id = _submit(profile, job, key or uuid.uuid4().hex)
    if not as_json:
        typer.echo(job_id)
    elif wait:
        say(f"{job_id} is submitted")  # the document comes at the end
    else:
        show_json({"job_id": job_id})
    sys.stdout.flush()
    if not wait:
        say(f"`cts watch {job_id}` follows it")
        return
    end(profile, job_id, timeout, tell_person, bar=sys.stderr.isatty(), as_json=as_json, submitted=True)


def _read(file: str, settings: list[str]) -> JobFile:
    try:
        data = sys.stdin.buffer.read() if file == "-" else _content(file)
        job = read_job(data, file)
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals or name not in SETTABLE:
                fail(f"--set {setting}: write FIELD=VALUE, with one of {', '.join(sorted(SETTABLE))}", Exit.USAGE)
            job.set(name, value)
        job.refuse_guesses()
    except JobFileError as exc:
        fail(f"{'standard input' if file == '-' else file}: {exc}")
    return job


def _content(file: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            return stream.read()
    except OSError as exc:
        fail(f"{file} cannot be read: {exc.strerror or exc}")


def _check(profile: Profile, job: JobFile, *, as_json: bool) -> None:
    from cdmtaskservice.cli.job_view import show_dry_run
    from cdmtaskservice.client import Client

    with told(profile, job), Client(profile.url, profile.token, retries=service.RETRIES) as cts:
        found = cts.check(job.job)
    if as_json:
        show_json(found.raw)
        return
    show_dry_run(found)
    for warning in found.warnings:
        say(f"warning: {warning}")
    say("it would be accepted; nothing was submitted")


def _submit(profile: Profile, job: JobFile, key: str) -> str:
    from cdmtaskservice.client import Client
    from cdmtaskservice.client.errors import ServiceUnreachable

    with told(profile, job), Client(profile.url, profile.token, retries=RETRIES) as cts:
        try:
            return cts.submit(job.job, idempotency_key=key)
        except ServiceUnreachable:
            say(f"It is not known whether there is a job; --idempotency-key {key} submits it again, but not twice")
            raise
