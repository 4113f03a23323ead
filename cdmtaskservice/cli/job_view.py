"""How jobs are shown: rows of tables, and what a person might do next."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cdmtaskservice.cli.terminal import Exit, gap, say, show_table
from cdmtaskservice.cli.wording import duration_shown, size_shown, time_shown

if TYPE_CHECKING:
    from cdmtaskservice.client.models import Container, DryRun, Job, JobImage, JobPreview

Fields = list[tuple[str, str]]

JOB_HEADINGS = ("id", "state", "since", "site", "containers", "inputs", "name", "tags")

ENDS = {"complete": Exit.DONE, "error": Exit.JOB_FAILED, "canceled": Exit.JOB_CANCELED}
"""What a command that waits for a job ends with, by the job's state."""

_MOST_FAILED = 10
"""Failed containers that are shown unless all are asked for."""


def job_row(job: JobPreview) -> tuple[str, ...]:
    """A job in a list."""
    last = job.transition_times[-1].time if job.transition_times else None
    asked = job.job_input
    return (
        job.id,
        job.state,
        time_shown(last) if last else "",
        asked.cluster,
        str(asked.num_containers),
        str(job.input_file_count),
        asked.name or "",
        ", ".join(asked.tags),
    )


def show_job(job: Job, containers: Sequence[Container] | None, more: Fields, now: datetime.datetime) -> None:
    """All about a job, for people. containers: None where the service does not tell. more: further fields."""
    show_fields(_fields(job, containers) + more)
    gap()
    show_table(("step", "state", "since", "for"), timeline(job, now))
    failed = [c for c in containers or () if c.error or c.exit_code]
    if failed:
        gap()
        show_containers(failed[:_MOST_FAILED])
        if len(failed) > _MOST_FAILED:
            say(f"{len(failed) - _MOST_FAILED} more have failed; --containers shows all")


def show_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Names and values, a line each; what has several lines gets further ones."""
    show_table(
        ("what", "value"),
        [
            (name if first else "", line)
            for name, value in fields
            for first, line in zip([True, *[False] * value.count("\n")], value.split("\n"), strict=True)
        ],
    )


def timeline(job: Job, now: datetime.datetime) -> list[tuple[str, str, str, str]]:
    """The states that a job went through, and for how long it was in each."""
    steps = job.transition_times
    ends = [*(step.time for step in steps[1:]), None if job.is_over else now]
    return [
        (
            str(number),
            step.state,
            time_shown(step.time),
            duration_shown((end - step.time).total_seconds()) if end else "",
        )
        for number, (step, end) in enumerate(zip(steps, ends, strict=True))
    ]


def show_containers(containers: Sequence[Container]) -> None:
    """A line for each container."""
    show_table(
        ("container", "state", "attempt", "exit code", "doing", "used", "what went wrong"),
        [
            (
                str(c.container_number),
                c.state,
                str(c.attempt or ""),
                "" if c.exit_code is None else str(c.exit_code),
                _doing(c),
                _used(c),
                c.error or "",
            )
            for c in containers
        ],
    )


def counted(states: Iterable[str]) -> str:
    """How many there are of each: `complete 3, error 1`."""
    return ", ".join(f"{state} {n}" for state, n in Counter(states).items())


def image_shown(image: JobImage) -> str:
    """An image with its tag and its digest."""
    return f"{image.name}{f':{image.tag}' if image.tag else ''}@{image.digest}"


def next_step(job: Job, containers: Sequence[Container] | None) -> str:
    """What a person might do next."""
    if not job.is_over:
        return f"`cts watch {job.id}` follows it, `cts logs {job.id} -f` shows what it writes"
    if job.state == "complete":
        return f"`cts outputs {job.id} --download DIR` fetches what it has made"
    if job.state == "error":
        number = next((c.container_number for c in containers or () if c.exit_code), None)
        if number is None:
            number = next((c.container_number for c in containers or () if c.error), 0)
        return f"`cts logs {job.id} -c {number} --stderr` shows what container {number} has said"
    return ""


def tell_end(job: Job, containers: Sequence[Container] | None) -> None:
    """On standard error, how a job has ended."""
    spent = (job.transition_times[-1].time - job.transition_times[0].time).total_seconds()
    say(f"{job.id} is {job.state}, after {duration_shown(spent)}")
    if job.error:
        say(job.error)
    if hint := next_step(job, containers):
        say(hint)


def show_dry_run(run: DryRun) -> None:
    """What a job would be, for people."""
    import shlex

    asked, example = run.job_input, run.example
    fields = [
        ("image", image_shown(run.image)),
        ("site", asked.cluster),
        ("containers", str(run.containers if run.containers is not None else asked.num_containers)),
        ("each with", f"{_of(asked.cpus, 'CPU')}, {size_shown(asked.memory)}, {_span(asked.runtime)} at most"),
        ("input files", f"{run.input_file_count}{_sized(run.input_bytes)}"),
        *([("CPU hours at most", f"{run.cpu_hours:.3g}")] if run.cpu_hours is not None else []),
        ("outputs go to", asked.output_dir),
    ]
    if example is not None:
        number = example.container_number
        fields += [
            (f"container {number} runs", shlex.join([*run.image.entrypoint, *example.args])),
            *((f"container {number} has", f"{name}={value}") for name, value in example.environment.items()),
            *((f"container {number} reads", path) for path in example.input_files),
        ]
        if example.manifest is not None:
            fields.append((f"in {example.manifest.path}", example.manifest.content.rstrip("\n")))
    show_fields(fields)


def _fields(job: Job, containers: Sequence[Container] | None) -> Fields:
    asked = job.job_input
    known: list[tuple[str, Any]] = [
        ("id", job.id),
        ("name", asked.name),
        ("tags", ", ".join(asked.tags)),
        ("state", job.state),
        ("waiting", job.waiting),
        ("error", job.error),
        ("site", asked.cluster),
        ("image", image_shown(job.image)),
        ("containers", _containers(job, containers)),
        ("each with", f"{_of(asked.cpus, 'CPU')}, {size_shown(asked.memory)}, {_span(asked.runtime)} at most"),
        ("input files", str(job.input_file_count)),
        ("output files", None if job.output_file_count is None else str(job.output_file_count)),
        ("outputs go to", asked.output_dir),
        ("CPU hours", None if job.cpu_hours is None else f"{job.cpu_hours:.3g}"),
        ("CPUs used", None if job.cpu_factor is None else f"{job.cpu_factor:.0%}"),
        ("most memory", None if job.max_memory is None else size_shown(job.max_memory)),
        ("logs are in", None if job.state == "canceled" else job.logpath),
        *((f"note {key}", str(value)) for key, value in job.admin_meta.items()),
    ]
    return [(name, value) for name, value in known if value]


def _containers(job: Job, containers: Sequence[Container] | None) -> str:
    number = str(job.job_input.num_containers)
    return f"{number}: {counted(c.state for c in containers)}" if containers else number


def _doing(container: Container) -> str:
    if container.phase is None:
        return ""
    if container.bytes_total:
        return f"{container.phase} {(container.bytes_done or 0) / container.bytes_total:.0%}"
    return container.phase


def _used(container: Container) -> str:
    parts = []
    if container.cpu_seconds is not None:
        parts.append(f"{duration_shown(container.cpu_seconds)} of CPU")
    if container.wall_seconds is not None:
        parts.append(f"in {duration_shown(container.wall_seconds)}")
    if container.max_memory is not None:
        parts.append(size_shown(container.max_memory))
    return ", ".join(parts)


def _of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _span(span: datetime.timedelta) -> str:
    return duration_shown(span.total_seconds())


def _sized(size: int | None) -> str:
    return "" if size is None else f", {size_shown(size)}"
