"""All use cases together: what the API is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cdmtaskservice.services.admin_jobs import AdminJobs
from cdmtaskservice.services.authentication import Authentication
from cdmtaskservice.services.callbacks import Callbacks
from cdmtaskservice.services.events import JobEvents
from cdmtaskservice.services.health import Health, ServiceInfo
from cdmtaskservice.services.images import Images
from cdmtaskservice.services.jobs import Jobs
from cdmtaskservice.services.live_logs import LiveLogs
from cdmtaskservice.services.nersc_client import NerscClient
from cdmtaskservice.services.numbers import Metrics
from cdmtaskservice.services.refdata import Refdata
from cdmtaskservice.services.refdata_desk import RefdataDesk
from cdmtaskservice.services.sessions import Sessions
from cdmtaskservice.services.sites import Sites
from cdmtaskservice.services.submission import Submission
from cdmtaskservice.services.worker_files import WorkerFiles
from cdmtaskservice.services.workers import Workers


@dataclass(frozen=True)
class Services:
    """One of each.

    metrics: keeps the numbers. stopping: to be called when the process is told to end: no more looks begin from then
    on, what is under way has `service.shutdown_timeout` left, and readers who stay are sent away.
    """

    info: ServiceInfo
    authentication: Authentication
    sessions: Sessions
    submission: Submission
    jobs: Jobs
    events: JobEvents
    live_logs: LiveLogs
    admin_jobs: AdminJobs
    images: Images
    refdata: Refdata
    refdata_desk: RefdataDesk
    sites: Sites
    workers: Workers
    callbacks: Callbacks
    nersc_client: NerscClient
    worker_files: WorkerFiles
    health: Health
    metrics: Metrics
    stopping: Callable[[], None]
