"""The client for programs that wait for each answer, scripts and notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from cdmtaskservice.client.admin_calls import AdminCalls
from cdmtaskservice.client.blocking_admin import Admin
from cdmtaskservice.client.blocking_driver import Driver
from cdmtaskservice.client.calls import AnyJob, LogStream, Time, job_filters
from cdmtaskservice.client.core import new_calls
from cdmtaskservice.client.downloading import Download
from cdmtaskservice.client.events import Event
from cdmtaskservice.client.following import LogChunk, follow
from cdmtaskservice.client.http import new_wire
from cdmtaskservice.client.models import (
    Container,
    DryRun,
    Image,
    Job,
    JobPreview,
    JobStatus,
    OutputFile,
    ReferenceData,
    Site,
    WhoAmI,
)
from cdmtaskservice.client.profile import resolve
from cdmtaskservice.client.progress import new_bar
from cdmtaskservice.client.requests import id_of, path_of
from cdmtaskservice.client.watching import Wait, events


class Client:
    """A client of the CDM Task Service.

    url, token: those of the service; where they are left out, the environment (`CTS_URL`, `CTS_TOKEN`,
        `CTS_TOKEN_FILE`) or else what `cts login` has kept says them. Without a token, what needs none can be called.
    timeout: seconds without a byte after which a request is given up.
    retries: how often a request that may be repeated is tried again; each submission has an idempotency key, so that it
        may. Between tries the client waits for up to 10 seconds, or as long as the service asks for.
    transport: one of httpx's instead of the network, for tests.

    Every method raises `CTSError`: `ServiceUnreachable` where the service does not answer, `ServiceError` where it
    refuses, by its subclasses. One client may be used by several threads. Close it, or use it in a `with`.

    Raises: NotConfigured where no service is named, ValueError for a URL or token that cannot be one.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        profile = resolve(url, token)
        self._url = profile.url
        self._calls = new_calls(retries)
        self._driver = Driver(new_wire(profile, timeout), transport)
        self.admin = Admin(self._driver, AdminCalls(self._calls))
        """What administrators may call."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The service's URL, without a slash at its end."""
        return self._url

    def close(self) -> None:
        """Close all connections."""
        self._driver.close()

    def service(self) -> dict[str, Any]:
        """What the service says of itself: `service_name`, `version`, `git_hash`, `server_time`, `notes`."""
        return self._driver.run(self._calls.service())

    def whoami(self) -> WhoAmI:
        """The user of the token, and the places in S3 that the user's jobs may read and write."""
        return self._driver.run(self._calls.whoami())

    def submit(self, job: AnyJob, *, idempotency_key: str | None = None) -> str:
        """Submit a job; returns its ID. From then on it is the service's to finish.

        idempotency_key: 1 to 64 visible characters, made by the client where it is left out. The same key with the same
            job gives the same ID, however often it is submitted; give one of your own to be able to repeat a submission
            after this process has died.

        Raises: InvalidRequest, Unauthorized, NotFound and SiteUnavailable where the job cannot be; Conflict where the
        key came with another job before.
        """
        return self._driver.run(self._calls.submit(job, idempotency_key))

    def check(self, job: AnyJob) -> DryRun:
        """Have a job checked as by `submit`, without submitting it; shows what a container would get.

        Raises as `submit` does.
        """
        return self._driver.run(self._calls.check(job))

    def status(self, job_id: str) -> JobStatus:
        """How far a job is. Cheap enough to poll; `wait` does better. Raises NoSuchJob, Unauthorized."""
        return self._driver.run(self._calls.status(job_id))

    def job(self, job_id: str) -> Job:
        """A job with all its files. Raises NoSuchJob, Unauthorized."""
        return self._driver.run(self._calls.job(job_id))

    def jobs(
        self,
        *,
        cluster: str | None = None,
        state: str | None = None,
        tag: str | None = None,
        q: str | None = None,
        after: Time | None = None,
        before: Time | None = None,
        limit: int | None = None,
    ) -> Iterator[JobPreview]:
        """Your jobs, the newest state change first, fetched page by page as they are iterated over.

        q: text that the job's name, tags, image or ID has. after (inclusive), before (exclusive): times of the last
        state change, aware datetimes or ISO 8601. limit: at most so many in all.
        """
        filters = job_filters(cluster, state, tag, q, after, before)
        return self._driver.iterate(self._calls.jobs("/jobs", filters, limit))

    def containers(self, job_id: str) -> list[Container]:
        """A job's containers by number. Raises NoSuchJob, Unauthorized."""
        return self._driver.run(self._calls.containers(job_id))

    def exit_codes(self, job_id: str) -> list[int | None]:
        """Exit codes by container number, None where there is none (yet). Raises NoSuchJob, Unauthorized."""
        return self._driver.run(self._calls.exit_codes(path_of("jobs", id_of(job_id), "exit_codes")))

    def events(self, job_id: str) -> Iterator[Event]:
        """What happens to a job, from its first state to its end: `StateEvent`, `ContainersEvent`, `WaitingEvent`, and
        at last `EndEvent`. Broken connections are made anew, and nothing is told twice.

        Raises: NoSuchJob, Unauthorized; NotFound where the service has no events.
        """
        return self._driver.iterate(events(self._calls, job_id))

    def wait(self, job_id: str, *, timeout: float | None = None, progress: bool | None = None) -> Job:
        """Wait until a job is over, however it ends; look at its `state`.

        timeout: seconds. Without one it is waited for as long as it takes, also while the service does not answer.
        progress: whether to show a bar; where it is left out, in terminals (on standard error) and notebooks.

        Raises: WaitTimeout, NoSuchJob, Unauthorized.
        """
        bar = new_bar(progress, f"Job {job_id[:8]}")
        return self._driver.run(Wait(self._calls, job_id, timeout, bar).flow())

    def log(
        self,
        job_id: str,
        container: int = 0,
        stream: LogStream = "stdout",
        *,
        seek: int = 0,
        length: int | None = None,
    ) -> bytes:
        """What a container has written, from byte `seek` on, at most `length` bytes.

        Raises: NoSuchJob, NoSuchContainer, Unauthorized, and NoLogs where there is none (yet).
        """
        return self._driver.run(self._calls.log(job_id, container, stream, seek, length))

    def follow_log(
        self, job_id: str, container: int = 0, stream: LogStream = "stdout", *, seek: int = 0
    ) -> Iterator[LogChunk]:
        """What a container writes, from byte `seek` on, while it runs, until its program has ended.

        Waits for a container that has not begun. Broken connections are made anew without losing or repeating bytes.
        Where the container is lost and starts again, its new log follows, from its beginning: the chunks, which are
        bytes, have the `attempt` that they are of, and how many bytes are `missing` before them.

        Raises: NoSuchJob, NoSuchContainer, Unauthorized, NoLogs; Unsupported at JAWS sites, where a log is there only
        when its container is over; ResourceUnavailable where too many logs are followed at once.
        """
        return self._driver.iterate(follow(self._calls, job_id, container, stream, seek))

    def outputs(self, job_id: str) -> Iterator[OutputFile]:
        """The outputs of a job that is over, each with a URL that gives its bytes for some minutes, to anybody.

        Raises: NoSuchJob, Unauthorized.
        """
        return self._driver.iterate(self._calls.files(job_id, "outputs"))

    def inputs(self, job_id: str) -> Iterator[OutputFile]:
        """The inputs of a job, with their sizes, and URLs as those of outputs. Raises NoSuchJob, Unauthorized."""
        return self._driver.iterate(self._calls.files(job_id, "inputs"))

    def download(
        self, job_id: str, directory: str | Path, *, progress: bool | None = None, overwrite: bool = False
    ) -> list[Path]:
        """Download all outputs of a job that is over; returns their paths here, in the order of the job's outputs.

        A file lies below `directory` as it does below the job's `output_dir`. Several come at once, and each gets its
        name only when its CRC64NVME is right. What is there already with the right bytes is left as it is. If one
        fails, the others are given up, and those that are whole stay: call it again to go on.

        progress: as with `wait`. overwrite: whether files with other bytes are replaced.

        Raises: JobNotOver, ChecksumMismatch, FileExists (before anything is fetched), DownloadError, OSError,
        NoSuchJob, Unauthorized.
        """
        bar = new_bar(progress, f"Job {job_id[:8]}")
        return self._driver.run(Download(self._calls, job_id, Path(directory), overwrite, bar).flow())

    def cancel(self, job_id: str) -> None:
        """Have a job end as soon as can be; `wait` for it to be `canceled`. Once more does no harm.

        Raises: InvalidState where it is over, NoSuchJob, Unauthorized.
        """
        self._driver.run(self._calls.cancel(job_id))

    def images(self) -> list[Image]:
        """Approved images, at most 1000."""
        return self._driver.run(self._calls.images())

    def image(self, name: str) -> Image:
        """An approved image by `host/path[:tag][@digest]`. Raises NoSuchImage, InvalidRequest."""
        return self._driver.run(self._calls.image(name))

    def refdata(self) -> list[ReferenceData]:
        """Reference data, the newest first, at most 1000."""
        return self._driver.run(self._calls.refdata())

    def refdata_by_id(self, refdata_id: str) -> ReferenceData:
        """One piece of reference data. Raises NoSuchReferenceData."""
        return self._driver.run(self._calls.refdata_by_id(refdata_id))

    def refdata_by_path(self, path: str) -> list[ReferenceData]:
        """All that was registered of a file in S3, `bucket/key`. Raises InvalidRequest."""
        return self._driver.run(self._calls.refdata_by_path(path))

    def sites(self) -> list[Site]:
        """All sites, with their limits for one container, and whether they take jobs now."""
        return self._driver.run(self._calls.sites())
