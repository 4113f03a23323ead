"""Tasks of remote code (`cdmtaskservice.executor.remote`), as whoever has them done sees them.

A task belongs to an owner, a job or the staging of reference data, and has a name that the owner never uses again.
Asking is safe to repeat: a task that was begun twice does its work once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Plan = Mapping[str, Any]


@dataclass(frozen=True)
class TaskFailure:
    """Why a task failed. error: for the owner. again: when another try is worth it, as in `executor/remote/task.py`."""

    error: str
    admin_error: str | None
    again: str | None


@dataclass(frozen=True)
class TaskStatus:
    """What became of a task of remote code: it runs, or has a result, or failed, or was lost without a word.

    crashed: it was lost, and is known to have run. why: what keeps one that runs from going on. progress: how far it
    has come, as it says itself.
    """

    running: bool = False
    result: Mapping[str, Any] | None = None
    failure: TaskFailure | None = None
    lost: str | None = None
    crashed: bool = False
    why: str | None = None
    progress: Mapping[str, Any] | None = None


class TaskPlace(Protocol):
    """Where tasks are done. Every method raises SiteUnreachableError where that place does not answer."""

    async def begin_task(self, owner: str, name: str, kind: str, plan: Plan) -> str:
        """Have a task done; returns its ID there, "" where it has none but its name."""
        ...

    async def task_status(self, owner: str, name: str, handle: str | None, age: float = 0.0) -> TaskStatus:
        """What became of a task. handle: its ID there, None where that was never stored. age: seconds since it was
        begun."""
        ...

    async def stop_task(self, owner: str, name: str, handle: str | None, age: float) -> bool:
        """Stop a task, or keep it from beginning. False while it goes on: ask again."""
        ...
