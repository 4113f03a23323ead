"""What a run at JAWS has left, as the files and records of a job."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from cdmtaskservice.domain.errors import IllegalS3PathError
from cdmtaskservice.domain.records import JobRecord, OutputFiles, Reached
from cdmtaskservice.domain.s3_paths import check_output_path, check_s3_path
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.reconciler.summary import failure_fields
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import INLINE_OUTPUTS, FileStore

Collected = Sequence[Mapping[str, Any]]
"""By container, what `executor/remote/collect.py` found."""

_OTHERS_FAILED = "it was ended, or its results were not kept, as another container of the job failed"


class JawsResults:
    """Stores results. All of it is safe to repeat."""

    def __init__(self, containers: ContainerStore, files: FileStore) -> None:
        self._containers = containers
        self._files = files

    @staticmethod
    def files_to_send(job: JobRecord, collected: Collected) -> Sequence[tuple[Mapping[str, Any], str]]:
        """Every output and log with its S3 path. Raises ValueError, for the owner, where one has no place there."""
        wanted: list[tuple[Mapping[str, Any], str]] = []
        owners: dict[str, int] = {}
        for number, container in enumerate(collected):
            for output in container["outputs"]:
                target = output_path(job, number, output["name"])
                other = owners.setdefault(target, number)
                if other != number:
                    raise ValueError(
                        f"Containers {other} and {number} both write the output file {output['name']!r}; give their "
                        "outputs different names, or submit the job with declobber"
                    )
                wanted.append((output, target))
            wanted += [(log, f"{job.logpath}container-{number}/{log['name']}.txt") for log in container["logs"]]
        return wanted

    async def store(self, job: JobRecord, collected: Collected, now: datetime.datetime) -> None:
        """The containers of a run that succeeded are complete."""
        for number, container in enumerate(collected):
            outputs: OutputFiles | None = OutputFiles(
                [output_path(job, number, o["name"]) for o in container["outputs"]],
                [o["crc64nvme"] for o in container["outputs"]],
            )
            if outputs is not None and len(outputs) > INLINE_OUTPUTS:
                await self._files.put_outputs(job.id, outputs, container=number, attempt=1)
                outputs = None
            await self._containers.report(
                job.id,
                number,
                JobState.COMPLETE,
                Reached(now, now),
                exit_code=container["exit_code"],
                outputs=outputs,
            )

    async def store_failure(self, job: JobRecord, collected: Collected, now: datetime.datetime) -> None:
        """The containers of a run that failed are errors: some by what they did, the others with them."""
        for number, container in enumerate(collected):
            error, admin_error = _failure(container)
            await self._containers.report(
                job.id,
                number,
                JobState.ERROR,
                Reached(now, now),
                exit_code=container["exit_code"],
                error=error,
                admin_error=admin_error,
            )

    async def fail_all(self, job: JobRecord, error: str, admin_error: str | None, now: datetime.datetime) -> None:
        """No container comes to an end of its own."""
        for container in await self._containers.live(job.id):
            await self._containers.report(
                job.id, container.number, JobState.ERROR, Reached(now, now), error=error, admin_error=admin_error
            )

    async def summary(
        self, job: JobRecord, state: JobState, cpu_hours: float | None
    ) -> tuple[JobState, Mapping[str, Any]]:
        """In which state the job ends, and what it tells of its containers."""
        containers = await self._containers.list(job.id)
        outputs = [
            c.outputs or await self._files.outputs(job.id, container=c.number, attempt=c.attempt)
            for c in containers
            if c.state is JobState.COMPLETE
        ]
        gathered = OutputFiles(
            [file for o in outputs for file in o.files], [crc for o in outputs for crc in o.crc64nvmes]
        )
        fields: dict[str, Any] = {"output_file_count": len(gathered)}
        if cpu_hours is not None:
            fields["cpu_hours"] = cpu_hours
        if state is JobState.ERROR:
            own = [c for c in containers if c.error != _OTHERS_FAILED]
            return state, {**fields, **failure_fields(own or containers, len(containers))}
        await self._files.put_outputs(job.id, gathered)
        if not len(gathered):
            mount = job.input["params"]["output_mount_point"]
            fields["error"] = (
                f"No container wrote an output file below {mount}; check the job's arguments and the containers' logs"
            )
            return JobState.ERROR, fields
        return state, fields


def output_path(job: JobRecord, number: int, name: str) -> str:
    """Where in S3 a container's output is. Raises ValueError, for the owner, where its name cannot be an S3 path."""
    directory: str = job.input["output_dir"]
    if job.input["params"]["declobber"]:
        directory = f"{directory}{number}/"
    try:
        return check_s3_path(directory + check_output_path(name))
    except (IllegalS3PathError, ValueError) as e:
        raise ValueError(f"The output {name!r} of container {number} cannot be stored: {e}") from e


def _failure(container: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Why a container failed: for its owner, where there is something to tell, and for administrators."""
    why = container["failure"]
    if why is None:
        return _OTHERS_FAILED, None
    error = container.get("error")  # results of an earlier version of the remote code have none
    if error is None and container["exit_code"] is None:
        return "JAWS could not start it; an administrator can see why", why
    return error, why
