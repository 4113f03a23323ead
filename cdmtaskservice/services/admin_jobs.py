"""What administrators do with anybody's jobs."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence

from cdmtaskservice.auth.base import Authenticator
from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import (
    IllegalParameterError,
    InvalidJobStateError,
    InvalidUserError,
    MissingParameterError,
    NoSuchSubJobError,
)
from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.records import ContainerRecord, InputFiles, JobRecord, OutputFiles
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.reconciler.relay import Publisher, Relay
from cdmtaskservice.services.jobs import Jobs
from cdmtaskservice.sites.base import Run, Site, SiteUnreachableError
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

MIN_NOTIFICATION_AGE = datetime.timedelta(minutes=1)


class AdminJobs:
    """All jobs. Every method that names a job raises NoSuchJobError."""

    def __init__(
        self,
        jobs: JobStore,
        containers: ContainerStore,
        files: FileStore,
        owned: Jobs,
        sites: Mapping[str, Site],
        authenticator: Authenticator,
        relay: Relay,
        publisher: Publisher,
        clock: Clock,
    ) -> None:
        self._jobs = jobs
        self._containers = containers
        self._files = files
        self._owned = owned
        self._sites = sites
        self._authenticator = authenticator
        self._relay = relay
        self._publisher = publisher
        self._clock = clock

    async def list(self, wanted: JobFilter, token: str) -> Sequence[JobRecord]:
        """Jobs of everybody or, with `wanted.user`, of that user, who must exist: InvalidUserError.

        token: the administrator's own, with which the auth service is asked.
        """
        if wanted.user is not None and not await self._authenticator.user_exists(wanted.user, token):
            raise InvalidUserError(f"There is no user {wanted.user!r}")
        return await self._jobs.list(wanted)

    async def get(self, job_id: str) -> tuple[JobRecord, InputFiles, OutputFiles]:
        """The job with its files."""
        return await self._owned.get(None, job_id)

    async def exit_codes(self, job_id: str) -> Sequence[int | None]:
        """Exit codes by container number."""
        return await self._owned.exit_codes(None, job_id)

    async def cancel(self, job_id: str) -> None:
        """Begin to cancel a job. Raises: InvalidJobStateError where it is over."""
        await self._owned.cancel(None, job_id)

    async def containers(self, job_id: str) -> Sequence[ContainerRecord]:
        """All containers, by number, without output files that are too many for one record."""
        await self._owned.find(job_id, None)
        return [await self._with_outputs(c) for c in await self._containers.list(job_id)]

    async def container(self, job_id: str, number: int) -> ContainerRecord:
        """One container. Raises: NoSuchSubJobError."""
        job = await self._owned.find(job_id, None)
        container = await self._containers.get(job_id, number)
        if container is None:
            raise NoSuchSubJobError(f"Job {job_id} has no container {number}; they are 0 to {job.containers - 1}")
        return await self._with_outputs(container)

    async def _with_outputs(self, container: ContainerRecord) -> ContainerRecord:
        if container.state is not JobState.COMPLETE or container.outputs is not None:
            return container
        outputs = await self._files.outputs(container.job_id, container=container.number, attempt=container.attempt)
        return container.with_outputs(outputs)

    async def runner_status(self, job_id: str, number: int) -> Mapping[str, object]:
        """What the engine says of a container's run; empty before it was submitted."""
        job = await self._owned.find(job_id, None)
        container = await self.container(job_id, number)
        run, handles = Run(job_id, number, container.run), job.handles.get(self._site(job).info.kind, ())
        return await self._site(job).runner_status(run, job.transitions[0].time, handles)

    async def set_meta(
        self, job_id: str, set_fields: Mapping[str, str | int | float], unset_keys: Collection[str]
    ) -> None:
        """Set and remove metadata that the owner sees too.

        Raises: MissingParameterError where nothing is asked for, IllegalParameterError for a key in both.
        """
        await self._owned.find(job_id, None)
        if not set_fields and not unset_keys:
            raise MissingParameterError("set_fields or unset_keys must name at least one key")
        both = sorted(set(set_fields) & set(unset_keys))
        if both:
            raise IllegalParameterError(f"The keys {', '.join(both)} are in both set_fields and unset_keys; use one")
        await self._jobs.update_meta(job_id, set_fields, unset_keys)

    async def notify(self, job_id: str, state: JobState) -> None:
        """Publish again that the job has reached `state`.

        Raises: InvalidJobStateError where it has not, DependencyUnavailableError where the broker is away.
        """
        job = await self._owned.find(job_id, None)
        for transition in job.transitions:
            if transition.state is state:
                await self._publisher.publish(job_id, transition)
                return
        raise InvalidJobStateError(f"Job {job_id} has not been in the state {state.value}")

    async def unsent(self, age: datetime.timedelta) -> tuple[int, int]:
        """Publish messages owed for longer than `age`; returns how many jobs and transitions there were.

        Raises: IllegalParameterError for an age under a minute, DependencyUnavailableError.
        """
        if age < MIN_NOTIFICATION_AGE:
            raise IllegalParameterError(f"notification_age is {age.total_seconds():g} seconds; it must be at least 60")
        owed = await self._jobs.overdue(self._clock() - age, 10_000)
        sent = [await self._relay.publish(job) for job in owed]
        return len(owed), sum(sent)

    async def clean(self, job_id: str, force: bool) -> None:
        """Remove the job's files at its site; once more is no error.

        Raises: InvalidJobStateError where it is not over, unless forced.
        """
        job = await self._owned.find(job_id, None)
        if not job.state.is_terminal and not force:
            raise InvalidJobStateError(
                f"Job {job_id} is in the state {job.state.value}; only a job that is over can be cleaned without force"
            )
        if not job.cleaned:
            site = self._site(job)
            await site.clean(job_id, job.handles.get(site.info.kind, ()))
            if job.state.is_terminal:  # else there will be more to clean
                await self._jobs.set_fields(job_id, {"cleaned": 1})

    def _site(self, job: JobRecord) -> Site:
        if job.site not in self._sites:
            raise SiteUnreachableError(f"The site {job.site} is not in the settings any more")
        return self._sites[job.site]
