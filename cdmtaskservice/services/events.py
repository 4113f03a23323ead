"""What happens to a job, for those who watch it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.services.feeds import LONGEST, Feed, Feeds
from cdmtaskservice.services.jobs import Jobs
from cdmtaskservice.store.containers import ContainerStore

_PAUSE = 1.0
"""Seconds between two looks at a job that is watched, unless there is a hint."""

_SIGN_OF_LIFE = 15.0


@dataclass(frozen=True)
class JobNews:
    """A job as it is now, and how many of its containers are in each state, zeros left out."""

    job: JobRecord
    counts: Mapping[JobState, int]


class JobEvents:
    """Watching jobs."""

    def __init__(self, owned: Jobs, containers: ContainerStore, feeds: Feeds) -> None:
        self._owned = owned
        self._containers = containers
        self._feeds = feeds

    async def watch(
        self, viewer: Principal, job_id: str, *, any_job: bool = False
    ) -> AsyncGenerator[JobNews | None, None]:
        """The job now and after each change, until it is over, the service stops or an hour has gone.

        None where nothing has changed for a while, so that whoever passes it on can show that it lives.
        any_job: for administrators. Raises NoSuchJobError, UnauthorizedError, ResourceUnavailableError.
        """
        await self._owned.find(job_id, None if any_job else viewer)
        news = self._news(viewer.user, job_id)
        await anext(news)  # takes its place among the readers, or is refused before anything is answered
        return news

    async def _news(self, user: str, job_id: str) -> AsyncGenerator[JobNews | None, None]:
        with self._feeds.reading(
            user, ("job", job_id), lambda: _JobFeed(self._owned, self._containers, job_id)
        ) as feed:
            seen: JobNews | None = None
            yield None
            end = time.monotonic() + LONGEST
            while time.monotonic() < end and not self._feeds.closed:
                if feed.news is not None and feed.news != seen:
                    seen = feed.news
                    yield seen
                    continue
                if feed.over:
                    return
                if not await feed.wait(_SIGN_OF_LIFE):
                    yield None

    def wake(self, job_id: str) -> None:
        """There is news of a job."""
        self._feeds.wake(("job", job_id))


class _JobFeed(Feed):
    least_pause = 0.25

    def __init__(self, owned: Jobs, containers: ContainerStore, job_id: str) -> None:
        super().__init__()
        self._owned = owned
        self._containers = containers
        self._job_id = job_id
        self.news: JobNews | None = None

    async def refresh(self) -> float | None:
        # The containers first: a job that is over is shown with what its containers came to.
        tally = await self._containers.tally(self._job_id)
        job = await self._owned.find(self._job_id, None)
        if job.state.is_terminal:
            tally = await self._containers.tally(self._job_id)
        self.news, before = JobNews(job, _counts(job, tally.counts)), self.news
        if self.news != before:
            self.publish()
        return None if job.state.is_terminal else _PAUSE


def _counts(job: JobRecord, counts: Mapping[JobState, int]) -> Mapping[JobState, int]:
    """Zeros left out; containers of a canceled job that came to no end are canceled with it."""
    if job.state is not JobState.CANCELED:
        return {state: n for state, n in counts.items() if n}
    ended = {state: n for state, n in counts.items() if n and state.is_terminal}
    cut_off = sum(counts.values()) - sum(ended.values())
    return {**ended, JobState.CANCELED: cut_off} if cut_off else ended
