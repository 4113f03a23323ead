"""A site of JAWS: where NERSC's machines stage the data, and JAWS runs the containers.

What is done here is safe to repeat. Nothing is kept that could not be asked again: a task's result lies at NERSC, and
a run is found by its tag.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import posixpath
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog

from cdmtaskservice.domain.errors import ChecksumMismatchError, NoSuchS3PathError
from cdmtaskservice.domain.records import InputFiles, JobRecord
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import PartSpec, S3Object
from cdmtaskservice.sites.base import Run, SiteHealth, SiteInfo, SiteUnreachableError
from cdmtaskservice.sites.jaws import plans
from cdmtaskservice.sites.jaws.central import JawsRun, NoSuchRunError, RunLog
from cdmtaskservice.sites.jaws.config import JawsSiteConfig
from cdmtaskservice.sites.jaws.platform import JawsPlatform
from cdmtaskservice.sites.tasks import Plan, TaskFailure, TaskStatus

_log = structlog.get_logger(__name__)

_GOOD_FOR, _BAD_FOR = 10.0, 1.0
"""Seconds for which it is believed that NERSC and JAWS can be used, and that they cannot."""

_SILENCE = 900.0
"""Seconds without a sign of life after which a task is lost, whatever NERSC says."""

_HEADS_AT_ONCE = 64
_SIGN_AT_ONCE = 200
"""Requests that are signed before other tasks have their turn."""

_ALREADY_BEGUN = 3
"""Exit code of remote code that may not be run again."""

_CLEANING = 120.0
"""Seconds within which a job's files are removed."""

_SHOWN = (
    "id",
    "tag",
    "status",
    "result",
    "site_id",
    "submitted",
    "updated",
    "cpu_hours",
    "output_dir",
    "workflow_name",
)
"""What administrators see of a run."""


class JawsSite:
    """One site of JAWS."""

    def __init__(self, config: JawsSiteConfig, platform: JawsPlatform, s3: S3Client) -> None:
        self.config = config
        self._places = config.places
        self._platform = platform
        self._s3 = s3
        self._health: tuple[float, SiteHealth] | None = None
        self._asking = asyncio.Lock()

    @property
    def info(self) -> SiteInfo:
        """Name, kind and limits, from the settings."""
        return self.config.info

    async def start(self) -> None:
        """Begin to set up, in the background."""
        await self._platform.start()

    async def stop(self) -> None:
        """End. Tasks and runs go on."""
        await self._platform.stop()

    async def health(self) -> SiteHealth:
        """Whether NERSC and JAWS can take work now."""
        async with self._asking:
            if self._health is None or time.monotonic() > self._health[0]:
                health = await self._ask_health()
                self._health = time.monotonic() + (_GOOD_FOR if health.available else _BAD_FOR), health
            return self._health[1]

    async def require_up(self) -> None:
        """Raises: SiteUnreachableError, with the reason why nothing can be begun now."""
        health = await self.health()
        if not health.available:
            raise SiteUnreachableError(health.reason or f"The site {self.info.name} is not available")

    async def require_nersc_up(self) -> None:
        """Raises: SiteUnreachableError, with the reason why nothing can be begun at NERSC now, whatever JAWS is."""
        if (why := await self._platform.nersc.why_down()) is not None:
            raise SiteUnreachableError(why)

    async def check_s3(self) -> None:
        """Raises: DependencyUnavailableError where S3 does not take the service's own keys, or does not answer."""
        await self._s3.check()

    async def _ask_health(self) -> SiteHealth:
        try:
            why = await self._platform.nersc.why_down() or self._platform.why_not_ready
            if why is None and (down := await self._platform.central.site_down(self.config.jaws_site)) is not None:
                why = f"JAWS cannot run anything at {self.config.jaws_site}: {down}"
        except SiteUnreachableError as e:
            why = e.message
        return SiteHealth(why is None, why)

    # Tasks of remote code

    async def begin_task(self, job_id: str, name: str, kind: str, plan: Plan) -> str:
        """Have a task done at NERSC; returns its ID there. `name` tells the tasks of a job apart."""
        if kind == "submit":
            self._platform.require_ready()
        self._platform.require_code()
        nersc, config = self._platform.nersc, self._platform.nersc_config
        plan = {**plan, "callback": self._callback(kind, job_id)}
        file = self._plan_file(job_id, name)
        await nersc.upload(config.transfer_machine, file, json.dumps(plan).encode())
        if kind == "submit":
            await self._platform.install_token()
        machine = config.submit_machine if kind == "submit" else config.transfer_machine
        return await nersc.begin(machine, self._command(kind, file, self._places.task_dir(job_id, name)))

    async def progress(self, job_id: str, name: str) -> Mapping[str, Any] | None:
        """What a task that runs says of how far it is; None where it says nothing. Raises: SiteUnreachableError."""
        text = await self._read(f"{self._places.task_dir(job_id, name)}/progress.json")
        told: Mapping[str, Any] | None = json.loads(text) if text is not None else None
        return told

    async def task_status(self, job_id: str, name: str, handle: str | None, age: float = 0.0) -> TaskStatus:
        """What became of a task. handle: its ID at NERSC, None where that was never stored. age: seconds since it was
        begun."""
        if (told := await self._told(job_id, name)) is not None:
            return told
        state = await self._platform.nersc.state(handle) if handle is not None else None
        if state is not None and state.running:
            if age > _SILENCE and not await self._is_alive(job_id, name):
                self._platform.doubt()
                return TaskStatus(lost=f"NERSC says that it runs, but it has shown no life for {_SILENCE:.0f} seconds")
            return TaskStatus(running=True)
        # It may have ended between the two questions.
        if (told := await self._told(job_id, name)) is not None:
            return told
        if state is None:
            self._platform.doubt()
            return TaskStatus(lost="NERSC does not know its task any more")
        if state.exit_code == _ALREADY_BEGUN:
            return TaskStatus(lost="it has been begun before")
        self._platform.doubt()
        said = (state.error or state.output)[-1000:]
        return TaskStatus(lost=f"it ended with exit code {state.exit_code}: {said}", crashed=True)

    async def stop_task(self, job_id: str, name: str, handle: str | None, age: float) -> bool:
        """Stop a task, or keep it from beginning. False while it goes on: ask again. age: seconds since it began."""
        status = await self.task_status(job_id, name, handle, age)
        if status.result is not None or status.failure is not None:
            return True
        machine = self._platform.nersc_config.transfer_machine
        await self._platform.nersc.upload(machine, f"{self._plan_file(job_id, name)}.stop", b"stop\n")
        # Without an ID it is not known whether it ever began: then it ends by itself as soon as it does.
        return not status.running

    async def _is_alive(self, job_id: str, name: str) -> bool:
        shown = await self._read(f"{self._places.task_dir(job_id, name)}/alive")
        return shown is not None and shown.strip().isdigit() and time.time() - int(shown) < _SILENCE

    async def plan_of(self, job_id: str, name: str) -> Plan | None:
        """The plan of a task that was begun; None where it is gone. Raises: SiteUnreachableError."""
        text = await self._read(f"{self._places.task_dir(job_id, name)}/plan.json")
        plan: Plan | None = json.loads(text) if text is not None else None
        return plan

    async def _told(self, job_id: str, name: str) -> TaskStatus | None:
        text = await self._read(f"{self._places.task_dir(job_id, name)}/result.json")
        if text is None:
            return None
        told = json.loads(text)
        if told["ok"]:
            return TaskStatus(result=told)
        return TaskStatus(failure=TaskFailure(told["error"], told["admin_error"], told["again"]))

    async def _read(self, path: str) -> str | None:
        return await self._platform.nersc.download(self._platform.nersc_config.transfer_machine, path)

    def _plan_file(self, job_id: str, name: str) -> str:
        return f"{self._platform.plans}/{job_id}-{name}.json"

    def _command(self, kind: str, plan_file: str, directory: str) -> Sequence[str]:
        """Run remote code. No secret and nothing of a user's is in it."""
        return (
            *("env", f"--chdir={self._platform.code}", self._platform.nersc_config.python, "-s", "-X", "utf8"),
            *("-m", "cdmtaskservice.executor.remote", kind, "--plan", plan_file, "--task", directory),
        )

    def _callback(self, kind: str, job_id: str) -> str | None:
        if kind == "refdata":
            return f"{self.config.callback_url}/callback/refdata_download/{job_id.replace('@', '/')}"
        step = {"stage": "download", "submit": "job", "collect": "upload", "send": "upload"}.get(kind)
        return f"{self.config.callback_url}/callback/{step}/{job_id}" if step else None

    # Plans

    async def stage_plan(self, inputs: InputFiles) -> Plan:
        """How a job's inputs come to NERSC."""
        urls = await self._s3.presign_gets(inputs.files, self.config.presign_expiry)
        return plans.stage(self.config, inputs, urls)

    def submit_plan(self, job: JobRecord, attempt: int, inputs: InputFiles, not_after: float) -> Plan:
        """How a run is submitted. not_after: seconds since the epoch by which that must have begun."""
        return plans.submit(self.config, job, attempt, inputs, self._platform.jaws_settings, not_after)

    def collect_plan(self, job: JobRecord, run_id: str, output_dir: str, *, failed: bool) -> Plan:
        """How it is seen what a run has left. output_dir: as JAWS told it.

        Raises: SiteUnreachableError where that is not where the settings say.
        """
        here = self._places.outputs_here(output_dir)
        if here is None:
            raise SiteUnreachableError(
                f"JAWS says that the results of run {run_id} are in {output_dir}, which is not below "
                f"{self._places.output_paths[0]}: see jaws.submit_outputs_dir"
            )
        return plans.collect(self.config, job, here, failed=failed)

    async def send_plan(self, files: Sequence[tuple[Mapping[str, Any], str]]) -> Plan:
        """How files that were collected come to their places in S3."""
        planned = []
        for number, (file, target) in enumerate(files):
            if number % _SIGN_AT_ONCE == 0:
                await asyncio.sleep(0)
            planned.append({**file, "target": target, "upload": await self._upload(file, target)})
        return plans.send(self.config, planned)

    async def _upload(self, file: Mapping[str, Any], target: str) -> Mapping[str, Any]:
        expiry = self.config.presign_expiry
        if file["parts"] is None:
            put = self._s3.presign_put(target, file["size"], file["crc64nvme"], expiry)
            return {"url": put.url, "headers": dict(put.headers), "upload_id": None, "parts": None}
        parts = [PartSpec(p["size"], p["crc64nvme"]) for p in file["parts"]]
        upload_id, puts = await self._s3.start_multipart(target, parts, expiry)
        return {"upload_id": upload_id, "parts": [{"url": p.url, "headers": dict(p.headers)} for p in puts]}

    async def finish_sending(self, plan: Plan, etags: Sequence[Sequence[str] | None]) -> None:
        """Make objects of what was sent in parts. Whether they are what they should be says `not_there`."""
        for file, parts in zip(plan["files"], etags, strict=True):
            if parts is not None and not await self._is_there(file, file["target"]):
                # The upload was finished by a look before, or given up by the store.
                with suppress(NoSuchS3PathError, ChecksumMismatchError):
                    await self._s3.complete_multipart(
                        file["target"], file["upload"]["upload_id"], parts, file["crc64nvme"]
                    )

    async def not_there(self, files: Sequence[tuple[Mapping[str, Any], str]]) -> Sequence[str]:
        """The S3 paths at which there is not what there should be."""
        try:
            found = await self._s3.head_many([target for _, target in files])
        except NoSuchS3PathError:
            return [target for _, target in await self.missing(files)]
        return [target for (file, target), there in zip(files, found, strict=True) if not _same(file, there)]

    async def missing(self, files: Sequence[tuple[Mapping[str, Any], str]]) -> Sequence[tuple[Mapping[str, Any], str]]:
        """Those of the files that are not in S3 as they should be."""
        slots = asyncio.Semaphore(_HEADS_AT_ONCE)

        async def there(file: Mapping[str, Any], target: str) -> bool:
            async with slots:
                return await self._is_there(file, target)

        found = await asyncio.gather(*(there(*file) for file in files))
        return [file for file, is_there in zip(files, found, strict=True) if not is_there]

    async def _is_there(self, file: Mapping[str, Any], target: str) -> bool:
        try:
            return _same(file, await self._s3.head(target))
        except NoSuchS3PathError:
            return False

    # Runs

    async def run(self, run_id: str) -> JawsRun:
        """A run. Raises: NoSuchRunError, SiteUnreachableError."""
        return await self._platform.central.run(run_id)

    async def run_log(self, run_id: str) -> RunLog:
        """What JAWS has noted of a run; nothing where it has no log. Raises: SiteUnreachableError."""
        try:
            return await self._platform.central.log(run_id)
        except NoSuchRunError as e:
            return RunLog(str(e), False)

    async def runs_of(self, job_id: str, attempt: int | None = None) -> Sequence[JawsRun]:
        """The runs that were submitted for an attempt, or for any of them, found by their tags.

        Raises: SiteUnreachableError.
        """
        runs = await self._platform.central.recent_runs()
        tag = plans.tag(job_id, attempt) if attempt is not None else None
        return [r for r in runs if r.tag is not None and (r.tag == tag if tag else r.tag.startswith(plans.tag(job_id)))]

    async def cancel_run(self, run_id: str) -> None:
        """Ask JAWS to cancel a run. Raises: NoSuchRunError, SiteUnreachableError."""
        await self._platform.central.cancel(run_id)

    async def runner_status(
        self, run: Run, since: datetime.datetime | None = None, handles: Sequence[str] = ()
    ) -> Mapping[str, object]:
        """What JAWS says of the job's last run. All containers are one run."""
        if not handles:
            return {}
        try:
            found = await self.run(handles[-1])
        except NoSuchRunError:
            return {}
        return {name: found.raw[name] for name in _SHOWN if found.raw.get(name) is not None}

    # Cleaning

    async def clean(self, job_id: str, handles: Sequence[str] = ()) -> None:
        """Remove the job's directory at NERSC, and the results of its runs. Raises: SiteUnreachableError."""
        trees = [(self._places.jobs, job_id), (self._places.tasks, job_id)]
        for run_id in handles:
            try:
                run = await self.run(run_id)
            except NoSuchRunError:
                continue
            if run.tag is None or not run.tag.startswith(plans.tag(job_id)):
                continue
            here = self._places.outputs_here(run.output_dir or "")
            if here is not None and here != self._places.output_paths[1]:
                trees.append((posixpath.dirname(here), posixpath.basename(here)))
        await self._remove(job_id, plans.remove(trees))

    async def expire_inputs(self, needed: float) -> None:
        """Remove inputs from the cache that no job has used for long. Raises: SiteUnreachableError.

        needed: seconds for which nothing may be removed that was in use then.
        """
        age = max(self.config.keep_inputs, needed)
        expired = [(self._places.cache, age), (self._places.tasks, age), (self._platform.plans, age)]
        await self._remove(f"expire-{self.config.jaws_site}", plans.remove([], expired))

    async def _remove(self, what: str, plan: Plan) -> None:
        self._platform.require_ready()
        nersc, config = self._platform.nersc, self._platform.nersc_config
        name = f"{what}-{time.time_ns():x}"
        file, directory = f"{self._platform.plans}/{name}.json", f"{self._places.tasks}/{name}"
        await nersc.upload(config.transfer_machine, file, json.dumps(plan).encode())
        ran = await nersc.run(config.transfer_machine, self._command("remove", file, directory), within=_CLEANING)
        text = await self._read(f"{directory}/result.json")
        told = json.loads(text) if text is not None else {"ok": False, "admin_error": ran.error}
        if not told["ok"]:
            raise SiteUnreachableError(f"NERSC did not remove the files of {what}: {told['admin_error']}")
        _log.info("removed_at_nersc", what=what, removed=told["removed"])


def _same(file: Mapping[str, Any], there: S3Object) -> bool:
    return bool(there.crc64nvme == file["crc64nvme"] and there.size == file["size"])
