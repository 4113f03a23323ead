"""Puts the sites together, each from its table of the settings."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cdmtaskservice.meter import UNMETERED, Meter
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.services.worker_files import WorkerFiles
from cdmtaskservice.settings import HTCondorSite as HTCondorSiteSettings
from cdmtaskservice.settings import JawsSite as JawsSiteSettings
from cdmtaskservice.settings import LocalSite as LocalSiteSettings
from cdmtaskservice.settings import Settings, SiteBase
from cdmtaskservice.sites.base import ContainerSite, Finding, Site, SiteInfo
from cdmtaskservice.sites.htcondor.check import check
from cdmtaskservice.sites.htcondor.config import HTCondorSiteConfig, WorkerSetup
from cdmtaskservice.sites.htcondor.gateway import Gateway
from cdmtaskservice.sites.htcondor.site import HTCondorSite
from cdmtaskservice.sites.jaws.check import check as check_jaws_site
from cdmtaskservice.sites.jaws.config import JawsConfig, JawsSiteConfig, NerscConfig
from cdmtaskservice.sites.jaws.platform import JawsPlatform
from cdmtaskservice.sites.jaws.refdata import JawsRefdata
from cdmtaskservice.sites.jaws.site import JawsSite
from cdmtaskservice.sites.local.config import LocalSiteConfig
from cdmtaskservice.sites.local.site import LocalSite
from cdmtaskservice.sites.refdata import RefdataPlace

T = TypeVar("T")

_EXECUTABLE = "/external_exec/files/condor/executable.sh"


@dataclass(frozen=True)
class SiteParts:
    """The sites by name, in the order of the settings, and by what runs there.

    nersc_client: gives the ID of the client at NERSC and when it expires; None where no site needs it.
    refdata_places: sites whose reference data comes by NERSC. refdata_served: those to which reference data services
    bring it; where that is this service itself, `refdata_stores` has the directory. refdata_internal: those at which
    S3 is reached as the service does.
    """

    all: Mapping[str, Site]
    with_executors: Mapping[str, ContainerSite]
    of_jaws: Mapping[str, JawsSite]
    nersc_client: Callable[[], Awaitable[tuple[str, datetime.datetime]]] | None
    refdata_places: Mapping[str, RefdataPlace]
    refdata_served: Collection[str]
    refdata_stores: Mapping[str, Path]
    refdata_internal: Collection[str]

    @property
    def keeping_refdata(self) -> Sequence[str]:
        """The sites that have room for reference data."""
        return [name for name in self.all if name in self.refdata_places or name in self.refdata_served]


def site_parts(
    settings: Settings, files: WorkerFiles, s3: S3Client, meter: Meter, changed: Callable[[str], None]
) -> SiteParts:
    """The sites. changed: told the ID of a job whose engine has news."""

    async def executable() -> str:
        return (await files.build()).executable_sha256

    platform = jaws_platform(settings, files, meter)
    with_executors: dict[str, ContainerSite] = {}
    of_jaws: dict[str, JawsSite] = {}
    for site in settings.sites:
        if isinstance(site, LocalSiteSettings):
            with_executors[site.name] = LocalSite(_local(site, settings), changed)
        elif isinstance(site, HTCondorSiteSettings):
            with_executors[site.name] = HTCondorSite(htcondor_config(site, settings), executable, meter=meter)
        else:
            assert platform is not None
            of_jaws[site.name] = JawsSite(jaws_config(site, settings, platform), platform, s3)
    both: Mapping[str, Site] = {**with_executors, **of_jaws}
    ordered = {site.name: both[site.name] for site in settings.sites}
    places: dict[str, RefdataPlace] = {}
    if platform is not None and platform.jaws_config.refdata_dir is not None:
        places = {name: JawsRefdata(jaws_site, platform) for name, jaws_site in of_jaws.items()}
    served = [s for s in settings.sites if not isinstance(s, JawsSiteSettings) and s.refdata_dir is not None]
    return SiteParts(
        ordered,
        with_executors,
        of_jaws,
        _client_of(platform) if platform is not None else None,
        places,
        [s.name for s in served],
        {s.name: Path(str(s.refdata_dir)) for s in served if s.refdata_by == "service"},
        [s.name for s in served if s.refdata_by == "service" or with_executors[s.name].info.internal_s3],
    )


def jaws_platform(settings: Settings, files: WorkerFiles, meter: Meter = UNMETERED) -> JawsPlatform | None:
    """What the JAWS sites share; None where there is none."""
    if not any(isinstance(site, JawsSiteSettings) for site in settings.sites):
        return None

    async def archive() -> bytes:
        return (await files.build()).archive

    nersc, jaws = settings.nersc, settings.jaws
    return JawsPlatform(
        NerscConfig(
            api_url=nersc.api_url,
            token_url=nersc.token_url,
            user=_needed(nersc.user),
            credentials=_needed(nersc.credentials_file),
            code_dir=_needed(nersc.code_dir),
            transfer_machine=nersc.transfer_machine,
            submit_machine=nersc.submit_machine,
            python=nersc.python,
            timeout=nersc.timeout.total_seconds(),
            concurrency=nersc.concurrency,
        ),
        JawsConfig(
            url=jaws.url,
            user=_needed(jaws.user),
            token=_needed(jaws.token_file),
            team=_needed(jaws.team),
            executable=jaws.executable,
            staging_dir=_needed(jaws.staging_dir),
            submit_staging_dir=_needed(jaws.submit_staging_dir),
            outputs_dir=_needed(jaws.outputs_dir),
            submit_outputs_dir=_needed(jaws.submit_outputs_dir),
            scratch_dir=_needed(jaws.scratch_dir),
            timeout=jaws.timeout.total_seconds(),
            submit_timeout=jaws.submit_timeout.total_seconds(),
            refdata_dir=jaws.refdata_dir,
        ),
        archive,
        meter,
    )


def jaws_config(site: JawsSiteSettings, settings: Settings, platform: JawsPlatform) -> JawsSiteConfig:
    """What a JAWS site is told."""
    jaws = settings.jaws
    return JawsSiteConfig(
        info=_info(site, network=False, internal_s3=False),
        jaws_site=site.jaws_site,
        nersc=platform.nersc_config,
        jaws=platform.jaws_config,
        callback_url=settings.service.url,
        part_size=settings.s3.part_size,
        patience=jaws.transfer_patience.total_seconds(),
        presign_expiry=int(settings.s3.presign_expiry.total_seconds()),
        connections=jaws.connections,
        start_time=jaws.start_time.total_seconds(),
        keep_inputs=jaws.keep_inputs.total_seconds(),
        copy_refdata=site.copy_refdata,
    )


def _client_of(platform: JawsPlatform) -> Callable[[], Awaitable[tuple[str, datetime.datetime]]]:
    async def ask() -> tuple[str, datetime.datetime]:
        found = await platform.nersc.client_info()
        return found.id, found.expires_at

    return ask


def _needed(value: T | None) -> T:
    """A setting that the settings' own check has found to be there."""
    assert value is not None
    return value


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
    if isinstance(found, JawsSiteSettings):
        platform = _needed(jaws_platform(settings, files))
        async for finding in check_jaws_site(jaws_config(found, settings, platform), platform, patience):
            yield finding
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
        refdata_dir=site.refdata_dir,
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
