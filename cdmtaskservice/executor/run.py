"""The flow of one container: claim, inputs and image, run, outputs and logs, the report of how it ended."""

from __future__ import annotations

import os
import secrets
import threading
import traceback
from collections.abc import Sequence
from typing import Callable, Generic, TypeVar

from .cgroups import meter_for
from .container import Container, Ran
from .download import Downloads
from .engines import LEAST_MEMORY
from .failures import ContainerFailure, Ended, NotStarted, failure_of
from .images import ensure_image
from .jsonlog import Log
from .live_logs import LiveLogs
from .logs import STREAMS, tail
from .memory import Memory
from .mounts import mounts_of
from .options import RunOptions
from .order import WorkOrder
from .outputs import Output, OutputRefused, walk
from .protocol import Rejected, Service
from .reporting import Heartbeat, Progress, Reporter
from .running import RunningNote
from .runtimes import ContainerSpec, Mount, Runtime, find_runtime
from .stopping import Stop
from .upload import Source, Uploaded, Uploads
from .verdict import judged
from .workdir import WorkDir, disk_full

T = TypeVar("T")

_BELT_SECONDS = 300
"""What the engine gives a container beyond its runtime before it ends it by itself, if this process could not."""
_LONGEST_TEXT = 20_000


class Run:
    """One container of one job, from the claim to the last report."""

    def __init__(self, options: RunOptions, token: str, work: WorkDir, stop: Stop, log: Log) -> None:
        self._options = options
        self._work = work
        self._stop = stop
        self._log = log
        self._service = Service(options.url, options.job, options.container, token, options.keep_trying, stop, log)
        self._progress = Progress()
        self._memory = Memory(options.cache_dir)
        self._heartbeat: Heartbeat | None = None

    def go(self) -> None:
        """Run the container and report how it ended, well or not.

        Raises Ended where the container is not ours to finish, and Rejected where the service will not even be told.
        """
        reporter = Reporter(self._service, self._stop, self._log)
        try:
            self._run(reporter)
            reporter.flush()
        except Ended:
            raise
        except Exception as error:
            self._stop.check()
            self._report_failure(reporter, error)
        finally:
            # Not before the last report is answered: the service may be away for long, and we are still at it.
            if self._heartbeat is not None:
                self._heartbeat.close()
            reporter.close()

    def say_ending(self, why: str) -> None:
        """Tell the service that this attempt ends without a result."""
        if self._heartbeat is not None:
            self._service.say_ending(self._progress.body(why))

    def _report_failure(self, reporter: Reporter, error: Exception) -> None:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self._log.event("container_failed", error=str(error), traceback=trace)
        if isinstance(error, Rejected):
            error = ContainerFailure(f"The service refused this container: {error}", f"the service answered: {error}")
        failure = failure_of(error)
        expected = isinstance(error, ContainerFailure)
        try:
            # A report that was refused before this one is why we are here, or no news.
            reporter.flush()
        except Rejected as rejected:
            self._log.event("report_rejected_before", error=str(rejected))
        reporter.send(
            "error",
            error=failure.error[:_LONGEST_TEXT],
            admin_error=(failure.admin_error or failure.error)[-_LONGEST_TEXT:],
            traceback=None if expected else trace[-_LONGEST_TEXT:],
        )
        reporter.flush()

    def _run(self, reporter: Reporter) -> None:
        # The runtime is looked for while the service answers, and the image pulled while the inputs come.
        scope = Stop(self._stop)
        options = self._options
        found = _Background(
            lambda: find_runtime(options.runtime, options.runtime_path, options.cache_dir, self._memory, scope)
        )
        order = self._service.claim(secrets.token_hex(16), options.attempt, options.run)
        self._heartbeat = Heartbeat(
            self._service,
            self._progress,
            LiveLogs(self._work.log),
            order.heartbeat_interval,
            self._stop,
            self._log,
        )
        self._log.bind(attempt=order.attempt)
        self._log.event("claimed", image=order.image, inputs=len(order.inputs))
        try:
            image = _Background(lambda: self._prepared(found, order.image, scope))
            reporter.send("download_submitted")
            mounts = mounts_of(order, self._work, options.refdata_dir, options.mount_prefix)
            self._fetch(order)
            reporter.send("job_submitting")
            self._progress.start("pulling")
            runtime = image.result()
        finally:
            # Where anything has failed, the pull does not go on without us.
            scope.set(RuntimeError("the container is over"))
        ran = self._ran(runtime, order, mounts, lambda: self._started(reporter))
        runtime.own_outputs(self._work.output)
        self._finish(order, ran, reporter)

    def _prepared(self, found: _Background[Runtime], image: str, scope: Stop) -> Runtime:
        runtime = found.result()
        self._log.event("runtime_found", runtime=runtime.name, path=runtime.path)
        ensure_image(runtime, image, self._memory, scope, self._log)
        return runtime

    def _started(self, reporter: Reporter) -> None:
        self._log.event("container_started")
        self._progress.start("running")
        reporter.send("job_submitted")

    def _fetch(self, order: WorkOrder) -> None:
        self._progress.start("downloading", sum(i.size for i in order.inputs))
        downloads = Downloads(
            self._service.fresh_inputs,
            self._progress,
            self._options.keep_trying,
            self._options.connections,
            self._log,
        )
        downloads.fetch(order.inputs, self._work.input, self._work.aside, self._stop)
        self._log.event("inputs_verified", files=len(order.inputs), bytes=sum(i.size for i in order.inputs))
        if order.manifest:
            path = os.path.join(self._work.input, order.manifest.path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as manifest:
                manifest.write(order.manifest.content.encode())

    def _ran(self, runtime: Runtime, order: WorkOrder, mounts: Sequence[Mount], on_start: Callable[[], None]) -> Ran:
        """Run the container; where its image was only believed to be here, get it and run the container then."""
        try:
            return self._container(runtime, order, mounts, on_start)
        except NotStarted as failure:
            believed = self._memory.has_image(runtime.path, order.image)
            self._memory.forget(order.image)
            if not (believed and failure.image_missing):
                raise
            self._log.event("image_is_gone", image=order.image)
        ensure_image(runtime, order.image, self._memory, self._stop, self._log)
        return self._container(runtime, order, mounts, on_start)

    def _container(
        self, runtime: Runtime, order: WorkOrder, mounts: Sequence[Mount], on_start: Callable[[], None]
    ) -> Ran:
        limits = order.limits
        memory = max(limits.memory, LEAST_MEMORY)
        meter = meter_for(order.name, memory, runtime.cgroup_parents)
        try:
            spec = ContainerSpec(
                name=order.name,
                image=order.image,
                args=order.args,
                environment=order.environment,
                mounts=mounts,
                cpus=limits.cpus,
                memory=memory + meter.slack,
                pids=limits.pids,
                gpus=limits.gpus,
                network=order.network,
                belt=int(limits.runtime + self._options.grace) + _BELT_SECONDS,
                cgroup_parent=meter.parent,
                # An engine that sees other directories than this process sees other processes, too.
                pid_file=None if self._options.mount_prefix else self._work.pid_file,
            )
            container = Container(
                runtime,
                spec,
                limits,
                meter,
                self._work,
                RunningNote.hold(self._options.cache_dir, order.name, self._log) if self._options.cache_dir else None,
                self._options.grace,
                self._options.log_limit,
                self._log,
            )
            return container.run(self._stop, on_start)
        finally:
            meter.close()

    def _finish(self, order: WorkOrder, ran: Ran, reporter: Reporter) -> None:
        """Report how the container ended, and bring its outputs and logs to S3. Raises what it failed for."""
        uploads = Uploads(
            self._service,
            self._progress,
            order.part_size,
            order.batch,
            self._options.keep_trying,
            self._options.connections,
            self._log,
        )
        outputs: Sequence[Output] = ()
        problem = judged(ran, order.limits, tail(os.path.join(self._work.log, "stderr")), disk_full(self._work.path))
        if problem is None:
            try:
                outputs = walk(self._work.output)
            except OutputRefused as refused:
                problem = refused
        usage = {
            "cpu_seconds": ran.usage.cpu_seconds,
            "wall_seconds": ran.usage.wall_seconds,
            "max_memory": ran.usage.max_memory,
        }
        logs = self._logs()
        self._progress.start("uploading", sum(o.size for o in outputs) + sum(s.output.size for s in logs))
        if problem is not None:
            reporter.send("error_processing_submitting", exit_code=ran.exit_code, usage=usage, error=problem.error)
            self._send_logs_of_failure(uploads, logs, problem)
            reporter.send("error_processing_submitted")
            raise problem
        reporter.send("upload_submitting", exit_code=ran.exit_code, usage=usage)
        try:
            done = uploads.send([Source(self._work.output, o) for o in outputs], self._stop)
        except Ended:
            raise
        except Exception as error:
            self._stop.check()
            failure = failure_of(error)
            self._send_logs_of_failure(uploads, logs, failure)
            raise
        uploads.send(logs, self._stop)
        self._log.event("uploaded", files=len(done), bytes=sum(o.size for o in outputs))
        reporter.send("upload_submitted")
        reporter.send("complete", outputs=[_as_json(u) for u in done])

    def _logs(self) -> Sequence[Source]:
        sources = []
        for stream in STREAMS:
            info = os.lstat(os.path.join(self._work.log, stream))
            sources.append(Source(self._work.log, Output(stream, info.st_size, info.st_dev, info.st_ino), stream))
        return sources

    def _send_logs_of_failure(self, uploads: Uploads, logs: Sequence[Source], problem: ContainerFailure) -> None:
        """Upload the logs; where that fails too, what the container failed for stays the error."""
        try:
            uploads.send(logs, self._stop)
        except Ended:
            raise
        except Exception as error:
            self._stop.check()
            more = failure_of(error)
            self._log.event("logs_not_uploaded", error=more.error)
            problem.admin_error = (
                f"{problem.admin_error or problem.error}\nand the logs could not be uploaded: "
                f"{more.admin_error or more.error}"
            )


def _as_json(uploaded: Uploaded) -> dict[str, str]:
    return {"file": uploaded.file, "crc64nvme": uploaded.crc64nvme}


class _Background(Generic[T]):
    """A call in a thread of its own, whose result is waited for later."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._outcome: tuple[T | None, BaseException | None] | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, name="preparing", daemon=True)
        self._thread.start()

    def result(self) -> T:
        """What the call returned; raises what it raised."""
        self._thread.join()
        assert self._outcome is not None
        value, error = self._outcome
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def _run(self) -> None:
        outcome: tuple[T, None] | tuple[None, BaseException]
        try:
            outcome = self._call(), None
        except BaseException as error:
            outcome = None, error
        self._outcome = outcome
