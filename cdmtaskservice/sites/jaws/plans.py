"""What remote code is asked to do, in the forms that `cdmtaskservice.executor.remote` reads. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from cdmtaskservice.domain.arguments import PlacedFile, render
from cdmtaskservice.domain.parameters import Parameters
from cdmtaskservice.domain.placement import split_files
from cdmtaskservice.domain.records import InputFiles, JobRecord
from cdmtaskservice.domain.refdata import refdata_of
from cdmtaskservice.sites.jaws import wdl
from cdmtaskservice.sites.jaws.config import JawsSiteConfig
from cdmtaskservice.sites.tasks import Plan

_SLOWEST = 5_000_000
"""Bytes a second that a transfer must move."""


def stage(config: JawsSiteConfig, inputs: InputFiles, urls: Sequence[str]) -> Plan:
    """Every input of a job into the site's cache. urls: presigned GETs, in the order of the inputs."""
    files = zip(inputs.files, urls, inputs.sizes, inputs.crc64nvmes, strict=True)
    return {
        "cache": config.places.cache,
        "inputs": [{"file": f, "name": cached_name(c, s), "url": u, "size": s, "crc64nvme": c} for f, u, s, c in files],
        "connections": config.connections,
        "patience": config.patience,
        "time_limit": _time_limit(config, sum(inputs.sizes)),
    }


def cached_name(crc64nvme: str, size: int) -> str:
    """Where a file with that checksum (base64) and so many bytes lies, below the cache."""
    digits = base64.b64decode(crc64nvme).hex()
    return f"{digits[:2]}/{digits}-{size}"


def tag(job_id: str, attempt: int | str = "") -> str:
    """What a run is called at JAWS, so that it is found again; without an attempt what all tags of a job begin with."""
    return f"cts-{job_id}-{attempt}"


def submit(
    config: JawsSiteConfig, job: JobRecord, attempt: int, inputs: InputFiles, settings_file: str, not_after: float
) -> Plan:
    """The run of one attempt. settings_file: of the `jaws` command. not_after: seconds since the epoch by which that
    must have been called."""
    there = config.places.run_dir(job.id, attempt)
    params = Parameters.model_validate(job.input["params"])
    containers, manifests = [], []
    for number, share in enumerate(split_files(len(inputs), job.containers)):
        own = inputs.part(share.start, share.stop)
        ids: Sequence[str | None] = own.data_ids or [None] * len(own)
        rendered = render(params, number, [PlacedFile(p, i) for p, i in zip(own.places, ids, strict=True)])
        files = [
            (place, config.places.cached(cached_name(crc, size)))
            for place, crc, size in zip(own.places, own.crc64nvmes, own.sizes, strict=True)
        ]
        if rendered.manifest is not None:
            name = f"manifest-{number}.txt"
            manifests.append({"name": name, "content": rendered.manifest.content})
            files.append((rendered.manifest.path, f"{there}/{name}"))
        containers.append(wdl.ContainerScript(files, [*job.image.entrypoint, *rendered.args], rendered.environment))
    spec = wdl.RunSpec(
        image=f"{job.image.name}@{job.image.digest}",
        cpus=job.input["cpus"],
        memory=job.input["memory"],
        runtime=job.runtime,
        start_time=config.start_time,
        input_mount_point=params.input_mount_point,
        output_mount_point=params.output_mount_point,
        refdata=(config.places.refdata(needed.id), needed.mount_point) if (needed := refdata_of(job)) else None,
    )
    jaws = config.jaws
    return {
        "directory": there,
        "files": [
            {"name": "cts.wdl", "content": wdl.workflow(spec)},
            {"name": "inputs.json", "content": wdl.inputs(containers)},
            *manifests,
        ],
        "command": [
            *(jaws.executable, "submit", "--tag", tag(job.id, attempt)),
            *(f"{there}/cts.wdl", f"{there}/inputs.json", config.jaws_site),
        ],
        "environment": {"JAWS_USER_CONFIG": settings_file},
        "timeout": jaws.submit_timeout,
        "not_after": not_after,
    }


def collect(config: JawsSiteConfig, job: JobRecord, output_dir: str, *, failed: bool) -> Plan:
    """What a run has left. output_dir: of the run, as the transfer nodes see it."""
    return {
        "output_dir": output_dir,
        "paths": [config.places.output_paths],
        "workflow": wdl.WORKFLOW,
        "task": wdl.TASK,
        "outputs_dir": wdl.OUTPUTS_DIR,
        "containers": job.containers,
        "failed": failed,
        "roots": [config.places.output_paths[1]],
        "part_size": config.part_size,
        "connections": config.connections,
        "mark": wdl.MARK,
    }


def send(config: JawsSiteConfig, files: Sequence[Mapping[str, Any]]) -> Plan:
    """files: as `collect` has told of them, each with its `upload` and the S3 path `target`."""
    return {
        "files": list(files),
        "roots": [config.places.output_paths[1], config.places.tasks],
        "part_size": config.part_size,
        "connections": config.connections,
        "patience": config.patience,
        "time_limit": _time_limit(config, sum(f["size"] for f in files)),
    }


def remove(trees: Sequence[tuple[str, str]], expired: Sequence[tuple[str, float]] = ()) -> Plan:
    """trees: a root and a directory right below it. expired: a root and an age in seconds."""
    return {
        "trees": [{"root": root, "name": name} for root, name in trees],
        "expired": [{"root": root, "age": age} for root, age in expired],
    }


def _time_limit(config: JawsSiteConfig, size: int) -> float:
    """Seconds after which a transfer of so many bytes is begun anew, whatever it does."""
    return 2 * config.patience + size / _SLOWEST
