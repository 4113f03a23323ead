"""Puts the sites together, each from its table of the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from cdmtaskservice.services.worker_files import WorkerFiles
from cdmtaskservice.settings import HTCondorSite as HTCondorSiteSettings
from cdmtaskservice.settings import LocalSite as LocalSiteSettings
from cdmtaskservice.settings import Settings, SiteBase
from cdmtaskservice.sites.base import Site, SiteInfo
from cdmtaskservice.sites.htcondor.check import Finding, check
from cdmtaskservice.sites.htcondor.config import HTCondorSiteConfig, WorkerSetup
from cdmtaskservice.sites.htcondor.gateway import Gateway
from cdmtaskservice.sites.htcondor.site import HTCondorSite
from cdmtaskservice.sites.local.config import LocalSiteConfig
from cdmtaskservice.sites.local.site import LocalSite

_EXECUTABLE = "/external_exec/files/condor/executable.sh"


def site_parts(settings: Settings, files: WorkerFiles, changed: Callable[[str], None]) -> Mapping[str, Site]:
    """The sites by name.

    changed: told the ID of a job whose engine has news.
    """

    async def executable() -> str:
        return (await files.build()).executable_sha256

    sites: dict[str, Site] = {}
    for site in settings.sites:
        if isinstance(site, LocalSiteSettings):
            sites[site.name] = LocalSite(_local(site, settings), changed)
        else:
            sites[site.name] = HTCondorSite(htcondor_config(site, settings), executable)
    return sites


async def check_site(settings: Settings, name: str, patience: float) -> AsyncIterator[Finding]:
    """Everything that can be wrong with the site of that name. patience: seconds for a job on one of its workers."""
    [found] = [site for site in settings.sites if site.name == name]
    files = WorkerFiles()

    async def executable() -> str:
        return (await files.build()).executable_sha256

    if isinstance(found, LocalSiteSettings):
        site = LocalSite(_local(found, settings))
        await site.start()
        try:
            health = await site.health()
        finally:
            await site.stop()
        yield Finding("site", health.available, health.reason or "containers can be run on this machine")
        return
    config = htcondor_config(found, settings)
    gateway = Gateway.of(config)
    try:
        async for finding in check(config, executable, gateway, patience):
            yield finding
    finally:
        await gateway.close()


def htcondor_config(site: HTCondorSiteSettings, settings: Settings) -> HTCondorSiteConfig:
    """What an HTCondor site is told."""
    url = site.executor_url or settings.service.url
    internal = site.s3_address == "internal"
    vacate_time = site.vacate_time.total_seconds()
    prefix = site.mount_prefix.split(":") if site.mount_prefix else None
    worker = WorkerSetup(
        service_url=url,
        token_file=site.token_file,
        executable_url=site.executable_url or url + _EXECUTABLE,
        archive_url=site.archive_url,
        s3_url=settings.s3.endpoint if internal else settings.s3.presign_endpoint,
        shell=site.shell,
        python=site.python,
        path=site.extra_path,
        cache_dir=site.cache_dir,
        refdata_dir=site.refdata_dir,
        mount_prefix=(prefix[0], prefix[1]) if prefix else None,
        container_runtime=site.container_runtime,
        container_runtime_path=site.container_runtime_path,
        keep_trying=site.keep_trying.total_seconds(),
        # The executor cleans up in what is left.
        stop_grace=vacate_time / 3,
    )
    return HTCondorSiteConfig(
        info=_info(site, network=site.network, internal_s3=internal),
        worker=worker,
        condor_config=site.condor_config,
        collector=site.collector,
        schedd=site.schedd,
        token_directory=site.token_directory,
        initial_dir=site.initial_dir,
        client_group=site.client_group,
        accounting_group=site.accounting_group,
        executor_memory=site.executor_memory,
        scratch=site.scratch,
        transfer_time=site.transfer_time.total_seconds(),
        vacate_time=vacate_time,
        max_starts=settings.jobs.max_attempts,
        max_releases=site.max_releases,
        idle_at_once=site.idle_at_once,
        timeout=site.timeout.total_seconds(),
        submit_timeout=site.submit_timeout.total_seconds(),
    )


def _local(site: LocalSiteSettings, settings: Settings) -> LocalSiteConfig:
    return LocalSiteConfig(
        info=_info(site, network=site.network, internal_s3=False),
        work_dir=site.work_dir,
        cpus=site.cpus_at_once,
        memory=site.memory_per_node,
        service_url=site.executor_url or settings.service.url,
        token_file=site.token_file,
        container_runtime=site.container_runtime,
        container_runtime_path=site.container_runtime_path,
        keep_trying=site.keep_trying.total_seconds(),
        python=str(site.python),
        stop_with_service=site.stop_with_service,
    )


def _info(site: SiteBase, *, network: bool, internal_s3: bool) -> SiteInfo:
    return SiteInfo(
        name=site.name,
        kind=site.kind,
        nodes=site.nodes,
        cpus_per_node=site.cpus_per_node,
        memory_per_node=site.memory_per_node,
        max_runtime=site.max_runtime.total_seconds(),
        gpus_per_node=site.gpus_per_node,
        notes=site.notes,
        network=network,
        internal_s3=internal_s3,
    )
