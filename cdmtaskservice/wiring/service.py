"""The one place where the parts of the service are put together, and where settings are read."""

from __future__ import annotations

import asyncio
import datetime
import os
import secrets
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version

import structlog

from cdmtaskservice.api.metrics import PrometheusMetrics
from cdmtaskservice.auth.base import Authenticator
from cdmtaskservice.auth.container_token import ContainerTokens
from cdmtaskservice.auth.kbase import KBaseAuthenticator, KBaseAuthOptions
from cdmtaskservice.auth.local import LocalAuthenticator
from cdmtaskservice.auth.principal import Permissions, RoleNames
from cdmtaskservice.auth.session_seal import SessionSeal
from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.events.kafka import KafkaConfig, KafkaPublisher
from cdmtaskservice.meter import Meter
from cdmtaskservice.reconciler.cleaner import Cleaner
from cdmtaskservice.reconciler.container_jobs import ContainerJobConfig, ContainerJobs
from cdmtaskservice.reconciler.jaws_cleaner import JawsCleaner
from cdmtaskservice.reconciler.jaws_jobs import JawsJobs
from cdmtaskservice.reconciler.jaws_tasks import JawsJobConfig
from cdmtaskservice.reconciler.loop import LoopConfig, Reconciler
from cdmtaskservice.reconciler.refdata_keeper import RefdataKeeper
from cdmtaskservice.reconciler.relay import Relay
from cdmtaskservice.reconciler.stagings import Stagings
from cdmtaskservice.reconciler.steps import StepsBySite
from cdmtaskservice.registry.crane import Crane
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Config
from cdmtaskservice.services.admin_jobs import AdminJobs
from cdmtaskservice.services.authentication import Authentication
from cdmtaskservice.services.callbacks import Callbacks
from cdmtaskservice.services.events import JobEvents
from cdmtaskservice.services.feeds import Feeds
from cdmtaskservice.services.health import Health, ServiceInfo
from cdmtaskservice.services.images import Images
from cdmtaskservice.services.jobs import Jobs
from cdmtaskservice.services.live_logs import LiveLogs
from cdmtaskservice.services.nersc_client import NerscClient
from cdmtaskservice.services.numbers import Numbers
from cdmtaskservice.services.refdata import Refdata
from cdmtaskservice.services.refdata_desk import RefdataDesk
from cdmtaskservice.services.sessions import Sessions
from cdmtaskservice.services.sites import Sites
from cdmtaskservice.services.submission import Submission, SubmissionConfig
from cdmtaskservice.services.use_cases import Services
from cdmtaskservice.services.worker_files import WorkerFiles
from cdmtaskservice.services.workers import WorkerConfig, Workers
from cdmtaskservice.settings import AuthSettings, KafkaSettings, S3Settings, Settings
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.database import Database
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.images import ImageStore
from cdmtaskservice.store.jobs import JobStore
from cdmtaskservice.store.live_logs import LiveLogStore
from cdmtaskservice.store.refdata import RefdataStore
from cdmtaskservice.store.sites import SiteStore
from cdmtaskservice.store.stagings import StagingStore
from cdmtaskservice.wiring.loops import Loops
from cdmtaskservice.wiring.refdata import own_stager, staging_config
from cdmtaskservice.wiring.revision import git_hash
from cdmtaskservice.wiring.sites import site_parts

_log = structlog.get_logger(__name__)

_START_RETRY = 1.0
"""Seconds between tries to reach a dependency that the service cannot start without."""


def utc_now() -> datetime.datetime:
    """The service's clock: aware UTC, in the whole milliseconds that the store keeps."""
    now = datetime.datetime.now(datetime.UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def new_id() -> str:
    """A new job or transition ID."""
    return str(uuid.uuid4())


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Services]:
    """Everything put together, started, and at the end stopped in the opposite order.

    A database that is away delays the start; anything else that is away does not.
    """
    async with AsyncExitStack() as stack:
        info = ServiceInfo(
            version=version("cdmtaskservice"),
            git_hash=await asyncio.to_thread(git_hash),
            notes=settings.service.notes,
            now=utc_now,
        )
        metrics = PrometheusMetrics(info.version, info.git_hash)
        database = Database.connect(
            settings.mongo.uri.get_secret_value(),
            settings.mongo.database,
            settings.mongo.timeout.total_seconds(),
            metrics,
        )
        stack.callback(database.close)
        await _until_reached("database", database.create_indexes)
        jobs, containers, files = JobStore(database, metrics), ContainerStore(database), FileStore(database)
        s3 = await stack.enter_async_context(S3Client.create(_s3_config(settings.s3), meter=metrics))
        publisher = KafkaPublisher(_kafka_config(settings.kafka), metrics)
        stack.push_async_callback(publisher.close)
        authenticator = _authenticator(settings.auth, metrics)
        stack.push_async_callback(authenticator.close)
        crane = Crane(
            settings.images.crane,
            settings.images.timeout.total_seconds(),
            insecure_hosts=settings.images.insecure_hosts,
            concurrency=settings.images.concurrency,
            meter=metrics,
        )

        hints, staging_hints = _Hints(), _Hints()
        look_at_staging = partial(staging_hints.look, full=True)
        worker_files = WorkerFiles()
        sites = site_parts(settings, worker_files, s3, metrics, lambda job_id: hints.look(job_id, full=True))
        lease = settings.reconciler.lease.total_seconds()
        relay = Relay(jobs, publisher, utc_now, lease=lease)
        container_jobs = ContainerJobs(
            jobs,
            containers,
            files,
            sites.with_executors,
            utc_now,
            new_id,
            ContainerJobConfig(
                look_delay=settings.reconciler.look_delay.total_seconds(),
                heartbeat_timeout=settings.jobs.heartbeat_timeout.total_seconds(),
                max_attempts=settings.jobs.max_attempts,
            ),
        )
        jaws_jobs = JawsJobs(
            jobs,
            containers,
            files,
            sites.of_jaws,
            utc_now,
            new_id,
            JawsJobConfig(
                look_delay=settings.reconciler.look_delay.total_seconds(),
                max_attempts=settings.jobs.max_attempts,
                submit_timeout=settings.jaws.submit_timeout.total_seconds(),
            ),
        )
        step = StepsBySite(
            {**dict.fromkeys(sites.with_executors, container_jobs), **dict.fromkeys(sites.of_jaws, jaws_jobs)}
        )
        owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        loop_config = LoopConfig(
            lease=lease,
            poll_interval=settings.reconciler.poll_interval.total_seconds(),
            max_backoff=settings.reconciler.max_backoff.total_seconds(),
            concurrency=settings.reconciler.concurrency,
        )
        reconciler = Reconciler(jobs, step, utc_now, owner, loop_config, meter=metrics)
        hints.target = reconciler.hint
        refdata_store, stagings = RefdataStore(database), StagingStore(database)
        staging_step = Stagings(
            refdata_store,
            stagings,
            jobs,
            lambda site, path, seconds: s3.presign_get(path, seconds, internal=site in sites.refdata_internal),
            sites.refdata_places,
            sites.refdata_served,
            utc_now,
            staging_config(settings),
        )
        staging_reconciler = Reconciler(
            stagings, staging_step, utc_now, owner, loop_config, of="staging", meter=metrics
        )
        staging_hints.target = staging_reconciler.hint
        loops = Loops((reconciler, staging_reconciler), relay, settings.service.shutdown_timeout.total_seconds())

        permissions = _permissions(settings.auth)
        signing = [s.get_secret_value().encode() for s in settings.service.worker_signing_secrets]
        tokens = ContainerTokens(*signing)
        authentication = Authentication(authenticator, tokens, permissions, settings.s3.allowed_paths, utc_now)
        directory = Sites(sites.all, SiteStore(database))
        refdata = Refdata(
            refdata_store,
            stagings,
            ImageStore(database),
            jobs,
            s3,
            directory,
            sites.keeping_refdata,
            utc_now,
            new_id,
            look_at_staging,
        )
        # Nobody else may bring data to where this service does: it would lie somewhere else.
        own_desk, desk = [
            RefdataDesk(
                refdata_store,
                stagings,
                staging_step,
                served,
                utc_now,
                look_at_staging,
                report_interval=settings.refdata.report_interval.total_seconds(),
            )
            for served in (
                sites.refdata_stores.keys(),
                [s for s in sites.refdata_served if s not in sites.refdata_stores],
            )
        ]
        images = Images(ImageStore(database), crane, refdata, utc_now)
        presign_expiry = int(settings.s3.presign_expiry.total_seconds())
        owned = Jobs(
            jobs,
            containers,
            files,
            s3,
            utc_now,
            new_id,
            lambda job_id: hints.look(job_id, full=True),
            presign_expiry,
        )
        feeds = Feeds(settings.service.max_streams, settings.service.max_followed)
        live_log_store = LiveLogStore(database)
        live_logs = LiveLogs(owned, containers, live_log_store, feeds, sites.with_executors.keys(), utc_now)
        events = JobEvents(owned, containers, feeds)

        def came_to_a_state(job_id: str) -> None:
            relay.wake()
            events.wake(job_id)

        def container_changed(job_id: str, full: bool) -> None:
            hints.look(job_id, full=full)
            events.wake(job_id)

        def stopping() -> None:
            loops.stop()
            feeds.close()  # those who only stay to read would never end

        jobs.on_transition = came_to_a_state
        cleaner = Cleaner(
            jobs, containers, files, live_log_store, utc_now, age=settings.reconciler.orphan_age.total_seconds()
        )
        services = Services(
            info=info,
            authentication=authentication,
            sessions=Sessions(authentication, SessionSeal(*signing), utc_now),
            submission=Submission(
                jobs,
                containers,
                files,
                images,
                refdata,
                directory,
                s3,
                authentication,
                permissions,
                utc_now,
                new_id,
                lambda job_id: hints.look(job_id, full=True),
                SubmissionConfig(settings.service.max_cpu_hours, settings.s3.log_path),
            ),
            jobs=owned,
            events=events,
            live_logs=live_logs,
            admin_jobs=AdminJobs(jobs, containers, files, owned, sites.all, authenticator, relay, publisher, utc_now),
            images=images,
            refdata=refdata,
            refdata_desk=desk,
            sites=directory,
            workers=Workers(
                jobs,
                containers,
                files,
                s3,
                sites.all,
                tokens,
                live_logs,
                utc_now,
                container_changed,
                WorkerConfig(
                    heartbeat_interval=settings.jobs.heartbeat_interval.total_seconds(),
                    presign_expiry=presign_expiry,
                    token_lifetime=_token_lifetime(settings),
                    part_size=settings.s3.part_size,
                    upload_batch=settings.jobs.upload_batch,
                    max_attempts=settings.jobs.max_attempts,
                    silence_limit=settings.jobs.heartbeat_timeout.total_seconds(),
                    pids=settings.jobs.pids_limit,
                ),
                metrics,
            ),
            callbacks=Callbacks(
                lambda job_id: hints.look(job_id, full=True),
                look_at_staging,
            ),
            nersc_client=NerscClient(sites.nersc_client, utc_now),
            worker_files=worker_files,
            health=Health(
                {
                    "database": database.check,
                    "s3": s3.check,
                    "auth": authenticator.check,
                },
                # Without these the service still takes jobs and brings them to their end.
                {"kafka": publisher.check, "crane": crane.check},
                Numbers(jobs, stagings, utc_now),
            ),
            metrics=metrics,
            stopping=stopping,
        )

        for name, site in sites.all.items():
            await site.start()
            stack.push_async_callback(site.stop)
            _log.info("site_started", site=name, kind=site.info.kind)
        jaws_cleaner = JawsCleaner(
            jobs,
            sites.of_jaws,
            utc_now,
            keep_jobs=settings.jaws.keep_jobs.total_seconds(),
            interval=settings.jaws.clean_interval.total_seconds(),
        )
        keeper = RefdataKeeper(refdata_store, stagings, utc_now, look_at_staging)
        stager = own_stager(settings, sites.refdata_stores, own_desk)
        for task in (directory.watch(), cleaner.run(), jaws_cleaner.run(), keeper.run(), stager.run()):
            stack.push_async_callback(_cancel, asyncio.create_task(task))
        loops.start()
        stack.push_async_callback(loops.end)
        yield services


class _Hints:
    """Stands between those who have hints and the reconciler, which is made after them."""

    def __init__(self) -> None:
        self.target: Callable[..., None] | None = None

    def look(self, job_id: str, *, full: bool) -> None:
        if self.target is not None:
            self.target(job_id, full=full)


async def _until_reached(name: str, call: Callable[[], object]) -> None:
    while True:
        try:
            await call()  # type: ignore[misc]
        except DependencyUnavailableError as e:
            _log.warning("start_waits", dependency=name, error=e.message)
            await asyncio.sleep(_START_RETRY)
        else:
            return


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _s3_config(settings: S3Settings) -> S3Config:
    return S3Config(
        endpoint=settings.endpoint,
        access_key=settings.access_key,
        secret_key=settings.secret_key,
        region=settings.region,
        external_endpoint=settings.external_endpoint,
        concurrency=settings.head_concurrency,
        connect_timeout=settings.connect_timeout.total_seconds(),
        read_timeout=settings.read_timeout.total_seconds(),
        insecure_tls=settings.insecure_tls,
    )


def _kafka_config(settings: KafkaSettings) -> KafkaConfig:
    security: dict[str, object] = {"security_protocol": settings.security_protocol}
    if settings.sasl_user is not None and settings.sasl_password is not None:
        security["sasl_mechanism"] = settings.sasl_mechanism
        security["sasl_plain_username"] = settings.sasl_user
        security["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    if settings.security_protocol in {"SSL", "SASL_SSL"}:
        import ssl

        security["ssl_context"] = ssl.create_default_context(cafile=settings.ca_file)
    return KafkaConfig(
        bootstrap_servers=",".join(settings.bootstrap_servers),
        topic=settings.topic,
        timeout=settings.timeout.total_seconds(),
        security=security,
    )


def _authenticator(settings: AuthSettings, meter: Meter) -> Authenticator:
    if settings.kind == "local":
        assert settings.local_file is not None
        return LocalAuthenticator(settings.local_file)
    assert settings.kbase_url is not None
    return KBaseAuthenticator(
        settings.kbase_url,
        KBaseAuthOptions(
            timeout=settings.timeout.total_seconds(),
            cache_time=settings.cache_time.total_seconds(),
            cache_size=settings.cache_size,
        ),
        meter=meter,
    )


def _permissions(settings: AuthSettings) -> Permissions:
    names = settings.roles
    return Permissions(RoleNames(frozenset(names.admin), names.staff, names.nersc, names.executor, names.refserv))


def _token_lifetime(settings: Settings) -> float:
    """Executors must be able to report for as long as any of them keeps trying, and then some."""
    return 86400 + max(site.executor_time.total_seconds() for site in settings.sites)
