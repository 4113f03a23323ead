"""What a job that has come to its end tells of its containers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cdmtaskservice.domain.records import ContainerRecord
from cdmtaskservice.domain.states import JobState

_NAMED = 5
"""How many failed containers are described one by one."""

_TEXT = 10_000
"""The most characters of an error or trace that a job keeps."""


def usage_fields(containers: Sequence[ContainerRecord], cpus: int) -> Mapping[str, Any]:
    """The job's `cpu_hours`, `cpu_factor` and `max_memory`, where the containers measured them.

    cpus: requested for each container. cpu_factor: CPU time ÷ (requested CPUs × wall time).
    """
    fields: dict[str, Any] = {}
    cpu = [c.usage.cpu_seconds for c in containers if c.usage.cpu_seconds is not None]
    both = [
        (c.usage.cpu_seconds, c.usage.wall_seconds)
        for c in containers
        if c.usage.cpu_seconds is not None and c.usage.wall_seconds is not None
    ]
    wall = sum(w for _, w in both)
    memory = [c.usage.max_memory for c in containers if c.usage.max_memory is not None]
    if cpu:
        fields["cpu_hours"] = sum(cpu) / 3600
    if wall > 0:
        fields["cpu_factor"] = sum(c for c, _ in both) / (cpus * wall)
    if memory:
        fields["max_memory"] = max(memory)
    return fields


def failure_fields(containers: Sequence[ContainerRecord], total: int | None = None) -> Mapping[str, Any]:
    """The job's `error` for its owner and, where there are, `admin_error` and `traceback` of the first failures.

    total: of how many containers these are the ones to tell of, where there are more.
    """
    failed = [c for c in containers if c.state is JobState.ERROR]
    told = [f"container {c.number}: {_describe(c)}" for c in failed[:_NAMED]]
    if len(failed) > _NAMED:
        told.append(f"and {len(failed) - _NAMED} more")
    fields: dict[str, Any] = {
        "error": f"{len(failed)} of {total or len(containers)} containers failed; " + "; ".join(told)
    }
    admin = [f"container {c.number}: {c.admin_error}" for c in failed[:_NAMED] if c.admin_error]
    if admin:
        fields["admin_error"] = "\n".join(admin)[:_TEXT]
    trace = next((c.traceback for c in failed if c.traceback), None)
    if trace:
        fields["traceback"] = trace[-_TEXT:]
    return fields


def _describe(container: ContainerRecord) -> str:
    if container.error:
        return container.error if len(container.error) <= _TEXT // _NAMED else f"{container.error[: _TEXT // _NAMED]} …"
    if container.exit_code:
        return f"its program ended with exit code {container.exit_code}; see its logs"
    return "it failed; an administrator can see why"
