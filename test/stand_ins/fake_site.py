"""An engine that exists in memory only, with switches for what engines do to people."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from cdmtaskservice.sites.base import (
    Run,
    RunRequest,
    RunState,
    RunStatus,
    SiteHealth,
    SiteInfo,
    SiteUnreachableError,
    SubmissionRefusedError,
)


async def nothing() -> None:
    return None


class FakeSite:
    """A site that does as it is told.

    runs: what the engine says of each run it knows. starts: how often each run was taken in by the engine; more than
    once means that one attempt ran twice.
    """

    def __init__(self, name: str = "here", *, kind: str = "local", network: bool = False) -> None:
        self._info = SiteInfo(
            name=name,
            kind=kind,
            nodes=1,
            cpus_per_node=8,
            memory_per_node=8_000_000_000,
            max_runtime=3600.0,
            network=network,
        )
        self.runs: dict[Run, RunStatus] = {}
        self.requests: dict[Run, RunRequest] = {}
        self.starts: Counter[Run] = Counter()
        self.released: list[str] = []
        self.cleaned: list[str] = []
        self.ended: list[tuple[Run, str]] = []
        self.polls = 0

        self.submit_window = 0.0
        """As in `Site`. With one, submissions have handles."""
        self.refused: str | None = None
        """Why submissions are refused."""
        self.lost_submits = 0
        """So many submissions take no effect, and nobody knows."""
        self.unreachable: str | None = None
        """Why no call is answered."""
        self.available = True
        """What `health` says."""
        self.raises_after_submit: Exception | None = None
        """The next submit takes effect and raises this."""
        self.slow_end = 0
        """So many more calls of `end` leave what runs running."""
        self.bug: Exception | None = None
        """What every poll raises, though no engine is away."""
        self.during_poll: Callable[[], Awaitable[None]] = nothing
        """Runs after the engine has been asked and before its answer is read."""

    restarts_executors = False

    @property
    def info(self) -> SiteInfo:
        return self._info

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def health(self) -> SiteHealth:
        return SiteHealth(self.available, None if self.available else "it was switched off")

    async def submit(self, requests: Sequence[RunRequest]) -> Sequence[str]:
        self._answer()
        if self.refused is not None:
            raise SubmissionRefusedError(self.refused, "it is refused")
        if self.lost_submits:
            self.lost_submits -= 1
            raise SiteUnreachableError("no answer")
        for request in requests:
            if request.run not in self.runs:
                self.starts[request.run] += 1
                self.requests[request.run] = request
                self.runs[request.run] = RunStatus(RunState.QUEUED)
        if self.raises_after_submit is not None:
            error, self.raises_after_submit = self.raises_after_submit, None
            raise error
        return [f"handle-{len(self.starts)}"] if self.submit_window else ()

    async def poll(self, runs: Collection[Run], since: datetime.datetime | None = None) -> Mapping[Run, RunStatus]:
        self._answer()
        self.polls += 1
        if self.bug is not None:
            raise self.bug
        said = {run: self.runs.get(run, RunStatus(RunState.UNKNOWN)) for run in runs}
        await self.during_poll()
        return said

    async def end(self, runs: Collection[Run], reason: str) -> Collection[Run]:
        self._answer()
        left = []
        slow = self.slow_end > 0
        self.slow_end = max(0, self.slow_end - 1)
        for run in runs:
            status = self.runs.get(run)
            if status is None or status.state is RunState.ENDED:
                continue
            self.ended.append((run, reason))
            if slow and status.state is RunState.RUNNING:
                left.append(run)
            else:
                self.runs[run] = RunStatus(RunState.ENDED, reason)
        return left

    async def release(self, job_id: str) -> None:
        self._answer()
        self.released.append(job_id)
        for run in [r for r in self.runs if r.job_id == job_id]:
            del self.runs[run]

    async def clean(self, job_id: str, handles: Sequence[str] = ()) -> None:
        self._answer()
        self.cleaned.append(job_id)

    async def runner_status(
        self, run: Run, since: datetime.datetime | None = None, handles: Sequence[str] = ()
    ) -> Mapping[str, object]:
        self._answer()
        status = self.runs.get(run)
        return {"state": status.state.value} if status else {}

    # Switches

    def begin(self, run: Run) -> None:
        """The engine starts the run's executor."""
        self.runs[run] = RunStatus(RunState.RUNNING)

    def lose(self, run: Run, detail: str | None = None) -> None:
        """The run's executor dies, and the engine knows it."""
        self.runs[run] = RunStatus(RunState.ENDED, detail)

    def forget(self, run: Run) -> None:
        """The engine knows nothing of the run any more."""
        self.runs.pop(run, None)

    def live(self) -> Sequence[Run]:
        """The runs that are queued or running."""
        return [r for r, s in self.runs.items() if s.state in {RunState.QUEUED, RunState.RUNNING}]

    def _answer(self) -> None:
        if self.unreachable is not None:
            raise SiteUnreachableError(self.unreachable)
