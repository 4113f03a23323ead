"""How far a job at JAWS has come between two of its states. Stored with the job before each thing that is begun.

What is stored is only a note of what was begun: what became of it is always read from NERSC and JAWS.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from cdmtaskservice.store.codec import from_millis, to_millis
from cdmtaskservice.store.looks import Looked

_LONGEST_PAUSE = 300.0
"""Seconds before something is tried again. The first pause is a look's delay; it doubles from one try to the next."""


@dataclass(frozen=True)
class Flow:
    """A job's way through NERSC and JAWS. Times in milliseconds since the epoch, 0 for never; 0 and 1 for no and yes.

    version: counts the notes, so that of two who write only one does.
    attempt: from 1; each is one run at JAWS at most. failed_runs: how many of these came to nothing by JAWS's fault.
    vain: attempts in a row that JAWS did not take.
    staged: whether the inputs were seen to be there for this attempt. run: at JAWS, "" for none yet. output_dir: where
    JAWS says that its results are. missing: since when JAWS says that it has no such run.
    task: the kind of the task of remote code that was begun last, "" for none. number: tells its tries apart. handle:
    its ID at NERSC, "" where that is not known. begun: when. ended: when it was first seen to have come to nothing.
    left: the least that any try of it had still to do: files to send, or bytes to come; -1 where that is not known.
    failures: tries that came to nothing in a row; refused, absent, crashed, wrong: how many of those were refused,
    found nothing, ended without a word, and sent what S3 has otherwise. not_before: when the next try may begin. why,
    told: why the last one came to nothing, for administrators and for the owner.
    collected: the task that has found what the run left.
    purpose: what a staging of reference data is about: `stage`, `clean` or `retire`. done: whether that is done where
    its tasks are done, and only JAWS has still to copy it. Its `attempt` is its round.
    """

    version: int = 0
    purpose: str = ""
    done: int = 0
    attempt: int = 1
    failed_runs: int = 0
    vain: int = 0
    staged: int = 0
    run: str = ""
    output_dir: str = ""
    missing: int = 0
    task: str = ""
    number: int = 0
    handle: str = ""
    begun: int = 0
    ended: int = 0
    left: int = -1
    failures: int = 0
    refused: int = 0
    absent: int = 0
    crashed: int = 0
    wrong: int = 0
    not_before: int = 0
    why: str = ""
    told: str = ""
    collected: str = ""

    @classmethod
    def of(cls, job: Looked) -> Flow:
        """That of a job, or of a staging of reference data."""
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

    @property
    def submitted(self) -> bool:
        """Whether JAWS may have a run of the job."""
        return bool(self.run) or self.attempt > 1 or self.task not in {"", "stage"}

    @property
    def next_version(self) -> Flow:
        """The same as the next note."""
        return replace(self, version=self.version + 1)

    def begin(self, task: str, now: datetime.datetime, left: int = -1, forgiven: Sequence[str] = ("refused",)) -> Flow:
        """A task of this kind is begun: the next try, where it is the one before again.

        left: how much it has to do. forgiven: what is counted anew where that is less than ever.
        """
        base = self
        if task != self.task:
            base = replace(self, failures=0, refused=0, absent=0, crashed=0, wrong=0, why="", told="", left=-1)
        if 0 <= left < base.left:  # the try before has brought something on its way
            anew: dict[str, Any] = dict.fromkeys(forgiven, 0)
            base = replace(base, **anew)
        if base.left >= 0:
            left = min(left, base.left) if left >= 0 else base.left
        return replace(
            base, task=task, number=base.number + 1, handle="", begun=to_millis(now), ended=0, not_before=0, left=left
        )

    def held_up(self, now: datetime.datetime, pause: float, why: str, told: str) -> Flow:
        """The task could not begin, as another one is in its way; that is no failure. pause: seconds."""
        return replace(self, not_before=_later(now, pause, 0), handle="", why=why[:1000], told=told[:1000])

    def failed(self, now: datetime.datetime, pause: float, why: str, told: str, counter: str = "") -> Flow:
        """The task has come to nothing, and is tried again after a pause. pause: seconds, the first time. counter:
        counts such tries."""
        counted: dict[str, Any] = {counter: getattr(self, counter) + 1} if counter else {}
        return replace(
            self,
            failures=self.failures + 1,
            not_before=_later(now, pause, self.failures),
            handle="",
            why=why[:1000],
            told=told[:1000],
            **counted,
        )

    def next_attempt(self, now: datetime.datetime, pause: float, why: str, told: str, *, failed_run: bool) -> Flow:
        """What was submitted came to nothing: the next run, after a pause. pause: seconds, the first time that JAWS did
        not take it; it is longer where JAWS failed, which may be about to fail the next one too."""
        return Flow(
            version=self.version,
            attempt=self.attempt + 1,
            failed_runs=self.failed_runs + failed_run,
            vain=0 if failed_run else self.vain + 1,
            not_before=_later(now, pause, 3 + 2 * self.failed_runs if failed_run else self.vain),
            why=why[:1000],
            told=told[:1000],
        )

    def age(self, now: datetime.datetime) -> float:
        """Seconds since the task was begun."""
        return (now - from_millis(self.begun)).total_seconds()

    def pause(self, now: datetime.datetime) -> float:
        """Seconds before the next try may begin; not more than 0 for at once."""
        return (from_millis(self.not_before) - now).total_seconds()


def _later(now: datetime.datetime, pause: float, times: int) -> int:
    return to_millis(now + datetime.timedelta(seconds=min(_LONGEST_PAUSE, pause * 2.0 ** min(times, 20))))


def seconds_since(millis: int, now: datetime.datetime) -> float:
    """Seconds since a time of a flow."""
    return (now - from_millis(millis)).total_seconds()
