"""How far a job at JAWS has come between two of its states. Stored with the job before each thing that is begun.

What is stored is only a note of what was begun: what became of it is always read from NERSC and JAWS.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.store.codec import from_millis, to_millis

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
"""Seconds before something is tried again; doubled from one try to the next."""


@dataclass(frozen=True)
class Flow:
    """A job's way through NERSC and JAWS. Times in milliseconds since the epoch.

    attempt: from 1; each is one run at JAWS at most. failed_runs: how many of these JAWS itself failed.
    task: the kind of the task of remote code that was begun last, "" for none. number: tells its tries apart. handle:
    its ID at NERSC, "" where that is not known. begun: when. failures: tries that failed in a row, without what was
    asked being answered; refused, crashed: how many of those were refused, and ended without a word.
    not_before: when the next try may begin. why, told: why the last one failed, for administrators and for the owner.
    collected: the task that has found what the run left. run: at JAWS, "" for none yet.
    """

    attempt: int = 1
    failed_runs: int = 0
    task: str = ""
    number: int = 0
    handle: str = ""
    begun: int = 0
    failures: int = 0
    refused: int = 0
    crashed: int = 0
    not_before: int = 0
    why: str = ""
    told: str = ""
    collected: str = ""
    run: str = ""

    @classmethod
    def of(cls, job: JobRecord) -> Flow:
        """That of a job."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in job.flow.items() if name in known})

    @property
    def stored(self) -> Mapping[str, Any]:
        """As it is kept, without what is as at the beginning."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    @property
    def name(self) -> str:
        """Of the task that was begun last. A submission is made once an attempt."""
        return f"{self.attempt}-{self.task}" + ("" if self.task == "submit" else f"-{self.number}")

    def begin(self, task: str, now: datetime.datetime) -> Flow:
        """A task of this kind is begun: the next try, where it is the one before again."""
        fresh = replace(self, failures=0, refused=0, crashed=0, not_before=0, why="", told="", number=0)
        base = self if task == self.task else fresh
        return replace(base, task=task, number=base.number + 1, handle="", begun=to_millis(now))

    def failed(self, now: datetime.datetime, why: str, told: str, *, refused: bool = False, lost: bool = False) -> Flow:
        """The task has failed, and is tried again after a pause."""
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self.failures, 20))
        return replace(
            self,
            failures=self.failures + 1,
            refused=self.refused + refused,
            crashed=self.crashed + lost,
            not_before=to_millis(now + datetime.timedelta(seconds=pause)),
            handle="",
            why=why[:1000],
            told=told[:1000],
        )

    def next_attempt(self, why: str, *, failed_run: bool) -> Flow:
        """What was submitted came to nothing: the next run."""
        return Flow(
            attempt=self.attempt + 1,
            failed_runs=self.failed_runs + failed_run,
            failures=self.failures,
            not_before=self.not_before,
            why=why[:1000],
            told=self.told,
        )

    def age(self, now: datetime.datetime) -> float:
        """Seconds since the task was begun."""
        return (now - from_millis(self.begun)).total_seconds()

    def pause(self, now: datetime.datetime) -> float:
        """Seconds before the next try may begin; not more than 0 for at once."""
        return (from_millis(self.not_before) - now).total_seconds()
