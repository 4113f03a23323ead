"""Everything that can be wrong with the connection to a pool, tried one after the other, for whoever makes it."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cdmtaskservice.sites.base import Finding, Run, RunRequest, SiteUnreachableError
from cdmtaskservice.sites.htcondor.ads import ATTRIBUTES, JobStatus, ended
from cdmtaskservice.sites.htcondor.analysis import Analyses
from cdmtaskservice.sites.htcondor.config import HTCondorSiteConfig
from cdmtaskservice.sites.htcondor.gateway import Gateway
from cdmtaskservice.sites.htcondor.holds import HOLDS, UNKNOWN
from cdmtaskservice.sites.htcondor.submission import OURS, client_group_requirement, describe, items

CODE_BASE = 160
"""As in `executor/checking.py`, which gives the codes."""

WORKER_FINDINGS: Mapping[int, tuple[str, str]] = {
    1: (
        "the worker cannot read its token file",
        "put a token with the executor role at `token_file` on every worker, mode 600, owned by the jobs' account",
    ),
    2: (
        "the service does not take the worker's token for an executor's",
        "give the account of the token in `token_file` the executor role (auth.roles.executor), or make a new token",
    ),
    4: (
        "the worker cannot reach the service",
        "see that `executor_url` (or service.external_url) leads to the running service from the worker",
    ),
    8: (
        "the worker cannot reach the object store",
        "see that s3.external_endpoint (or s3.endpoint, with `s3_address` internal) can be reached from the worker",
    ),
    16: (
        "no container runtime works for the jobs' account on the worker",
        "see `container_runtime`, `container_runtime_path` and `extra_path`; try `podman info` there as that account",
    ),
    32: (
        "a directory of the worker is missing or cannot be written",
        "see `cache_dir`, which must belong to the jobs' account, `refdata_dir` and `mount_prefix`",
    ),
}

_CALL = 20.0
_CLOCKS_APART = 3600
"""Seconds by which the schedd's clock and this one may be apart."""
_POLL = 0.5
_MACHINE = ("Machine", "TotalSlotCpus", "TotalSlotMemory", "TotalSlotGPUs", "Cpus", "Memory", "GPUs")
_TRANSFERS = "HasFileTransferPluginMethods"


async def check(
    config: HTCondorSiteConfig, executable: Callable[[], Awaitable[str]], gateway: Gateway, patience: float
) -> AsyncIterator[Finding]:
    """Try everything. executable: gives the SHA-256 of `executable.sh`. patience: seconds for the job on a worker."""
    steps: Sequence[tuple[str, Callable[[], AsyncIterator[Finding]]]] = (
        ("collector", lambda: _collector(gateway)),
        ("schedd", lambda: _schedd(gateway)),
        ("account", lambda: _account(gateway)),
        ("slots", lambda: _slots(config, gateway)),
        ("worker", lambda: _worker(config, executable, gateway, patience)),
    )
    failed: str | None = None
    for name, step in steps:
        if failed is not None:
            yield Finding(name, None, f"not tried, since the step {failed} failed")
            continue
        async for finding in step():
            yield finding
            if finding.ok is False and finding.step != "limits":
                failed = finding.step


async def _collector(gateway: Gateway) -> AsyncIterator[Finding]:
    try:
        found = await gateway.call("find", _CALL)
    except SiteUnreachableError as error:
        yield Finding(
            "collector",
            False,
            error.message,
            "see `collector` or COLLECTOR_HOST, and the token: `token_directory`, its mode, and the token's domain",
        )
        return
    yield Finding("collector", True, f"{found['collector']} answers and knows {', '.join(found['schedds']) or 'none'}")


async def _schedd(gateway: Gateway) -> AsyncIterator[Finding]:
    try:
        found = await gateway.call("ping", _CALL)
    except SiteUnreachableError as error:
        yield Finding("schedd", False, error.message, "see `schedd`, and whether the schedd lets this account READ")
        return
    yield Finding("schedd", True, f"{found['schedd']} answers, {' '.join(str(found['version']).split()[1:2])}")


async def _account(gateway: Gateway) -> AsyncIterator[Finding]:
    try:
        found = await gateway.call("identity", _CALL)
    except SiteUnreachableError as error:
        yield Finding(
            "account", False, error.message, "the schedd must let the account of the token WRITE: see its ALLOW_WRITE"
        )
        return
    yield Finding("account", True, f"jobs are submitted as {found['user']}")


async def _slots(config: HTCondorSiteConfig, gateway: Gateway) -> AsyncIterator[Finding]:
    wanted = client_group_requirement(config)
    constraint = " && ".join(["DynamicSlot =!= true", *([wanted.replace("TARGET.", "")] if wanted else [])])
    try:
        slots = await gateway.call("machines", _CALL, constraint=constraint, attributes=[*_MACHINE, _TRANSFERS])
    except SiteUnreachableError as error:
        yield Finding("slots", False, error.message, "the collector must let this account READ")
        return
    if not slots:
        why = f"no machine's CLIENTGROUP matches {config.client_group}" if wanted else "the pool has no machines"
        yield Finding("slots", False, why, "see `client_group`, and CLIENTGROUP of the machines" if wanted else None)
        return
    cpus, memory, gpus = (max(_size(slot, name) for slot in slots) for name in ("Cpus", "Memory", "GPUs"))
    machines = len({slot.get("Machine") for slot in slots})
    yield Finding(
        "slots", True, f"{len(slots)} on {machines} machines; the largest have {cpus} CPUs, {memory} MiB, {gpus} GPUs"
    )
    info = config.info
    asked = math.ceil((info.memory_per_node + config.executor_memory) / 2**20)
    for setting, most, unit, have in (
        ("cpus_per_node", info.cpus_per_node, "CPUs", cpus),
        ("memory_per_node", asked, "MiB with executor_memory", memory),
        ("gpus_per_node", info.gpus_per_node, "GPUs", gpus),
    ):
        if most > have:
            # Smaller containers run all the same.
            mend = f"lower `{setting}`: a container that asks for all of it would wait for ever"
            yield Finding("limits", False, f"{setting} promises {most} {unit}, and no slot has more than {have}", mend)
    scheme = config.worker.executable_url.partition(":")[0]
    if not any(scheme in str(slot.get(_TRANSFERS) or "").split(",") for slot in slots):
        yield Finding("slots", False, f"no machine can transfer files by {scheme}", "enable HTCondor's curl_plugin")


def _size(slot: Mapping[str, Any], name: str) -> int:
    return int(slot.get(f"TotalSlot{name}") or slot.get(name) or 0)


async def _worker(
    config: HTCondorSiteConfig, executable: Callable[[], Awaitable[str]], gateway: Gateway, patience: float
) -> AsyncIterator[Finding]:
    """Run the executor's own check as a job that asks for next to nothing."""
    job = f"check-{uuid.uuid4()}"
    request = RunRequest(Run(job, 0, 1), "check", 1, 1, 60.0)
    told = replace(config, extra_environment={**config.extra_environment, "CTS_EXECUTOR_S3_URL": config.worker.s3_url})
    description = describe(told, [request], await executable(), command=["check"])
    try:
        taken = await gateway.call("submit", config.submit_timeout, description=description, items=items([request]))
    except SiteUnreachableError as error:
        yield Finding("submit", False, error.message, "the account must exist on the schedd's machine and may submit")
        return
    yield Finding("submit", True, f"the schedd takes jobs: {taken['cluster']}.0")
    constraint = f'CTSJobID == "{job}"'
    name = f"{taken['cluster']}.0"
    try:
        yield await _outcome(config, gateway, constraint, name, patience)
    except SiteUnreachableError as error:
        yield Finding("worker", False, error.message, "the schedd took the job, and does not answer since")
    finally:
        # Shielded, since an interruption must not leave it behind.
        gone = await asyncio.shield(_removed(gateway, constraint))
    if not gone:
        yield Finding("worker", False, f"the job {name} may still be in the queue", f"remove it: condor_rm {name}")


async def _removed(gateway: Gateway, constraint: str) -> bool:
    for _ in range(2):  # the first call after one that hung is a ping
        with suppress(SiteUnreachableError):
            await gateway.call("ping", _CALL)
            await gateway.call("act", _CALL, action="Remove", jobs=constraint, reason=f"{OURS}the check is over")
            return True
    return False


async def _outcome(
    config: HTCondorSiteConfig, gateway: Gateway, constraint: str, name: str, patience: float
) -> Finding:
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    begun = time.time()
    idle = True
    while loop.time() < end:
        queued = await gateway.call("query", _CALL, constraint=constraint, attributes=ATTRIBUTES)
        if not queued:
            past = await gateway.call(
                "history",
                3 * _CALL,
                vital=False,
                constraint=constraint,
                attributes=ATTRIBUTES,
                since=f"CTSJobID isnt undefined && EnteredCurrentStatus < {int(begun) - _CLOCKS_APART}",
                most=1,
            )
            if past:
                return judge(past[0])
        elif queued[0].get("JobStatus") == JobStatus.HELD:
            return judge_hold(queued[0], config)
        else:
            idle = queued[0].get("JobStatus") == JobStatus.IDLE
        await asyncio.sleep(_POLL)
    if idle:
        analysis = await Analyses(gateway, _CALL).of(name, name)
        why = f": {analysis.told_to_admins()}" if analysis is not None else ""
        return Finding("worker", False, f"no worker took the job in {patience:g} seconds{why}", "wait, or see the pool")
    return Finding("worker", False, f"the job did not end in {patience:g} seconds", "see the worker's StarterLog")


def judge(ad: Mapping[str, Any]) -> Finding:
    """What the exit code of the executor's check says."""
    code = ad.get("ExitCode")
    if code == 0:
        return Finding("worker", True, "a worker has all that it needs, and reaches the service and the object store")
    if isinstance(code, int) and CODE_BASE < code < CODE_BASE + 2 * max(WORKER_FINDINGS):
        wrong = [WORKER_FINDINGS[bit] for bit in WORKER_FINDINGS if (code - CODE_BASE) & bit]
        return Finding("worker", False, "; ".join(w for w, _ in wrong), "; ".join(m for _, m in wrong))
    return Finding("worker", False, str(ended(ad).detail), "docs/sites/htcondor.md lists the exit codes")


def judge_hold(ad: Mapping[str, Any], config: HTCondorSiteConfig) -> Finding:
    """What a hold says."""
    code = ad.get("HoldReasonCode")
    hold = HOLDS.get(code, UNKNOWN) if isinstance(code, int) else UNKNOWN
    said = f"HTCondor holds the job, code {code} ({hold.name}): {ad.get('HoldReason')}"
    if hold.name == "TransferInputError":
        url = config.worker.executable_url
        return Finding("worker", False, said, f"{url} must be reachable from the workers: is the service running?")
    if hold.name == "FailedToCreateProcess":
        return Finding("worker", False, said, f"`shell` is {config.worker.shell}: is that bash, on every worker?")
    return Finding("worker", False, said, "docs/sites/htcondor.md lists the holds")
