"""The runs of JAWS: kept on disk, queued, executed in child processes, cancelled."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .layout import Layout
from .processes import dying_with_us, kill_group, remove_containers
from .switches import Switches

_REPOSITORY = Path(__file__).parents[3]
_BEFORE_QUEUE = ("upload queued", "upload complete", "ready", "submitted", "queued")
_AFTER_RUN = ("complete", "download queued", "download complete", "done")
_FIRST_ID = 10001


class TooLateError(Exception):
    """The run is over."""


@dataclass
class Run:
    """A run, as it is kept. log: transitions."""

    id: int
    tag: str | None
    site: str
    user: str
    team: str
    output_dir: str
    submitted: str
    updated: str
    status: str = "created"
    result: str | None = None
    cpu_hours: float | None = None
    log: list[dict[str, str]] = field(default_factory=list)

    def brief(self) -> dict[str, Any]:
        """Without the log."""
        return {key: value for key, value in asdict(self).items() if key != "log"}


class Runs:
    """All runs. Everything is called in the event loop's thread, which must be the main one."""

    def __init__(self, layout: Layout, switches: Switches, podman: Path) -> None:
        self._layout = layout
        self._switches = switches
        self._podman = podman
        self._runs: dict[int, Run] = {}
        self._queue: list[Run] = []
        self._processes: dict[int, asyncio.subprocess.Process | None] = {}
        self._cancelled: set[int] = set()
        self._executing: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self) -> None:
        """Take up what is on disk: the queue goes on; what ran when this was killed has failed, through JAWS."""
        for file in sorted(self._layout.runs.glob("*/run.json")):
            run = Run(**json.loads(file.read_text()))
            self._runs[run.id] = run
        broken = [r for r in self._runs.values() if r.status not in {"done", "queued"}]
        if broken:
            await asyncio.to_thread(remove_containers, self._podman, self._label())
        for run in broken:
            self._end(run, None, "JAWS was restarted, and has lost this run")
        self._queue = [r for r in self._runs.values() if r.status == "queued"]
        self.look_again()

    async def stop(self) -> None:
        """Kill what runs; it stays as it is on disk."""
        self._stopping = True
        for process in self._processes.values():
            kill_group(process)
        if self._executing:
            await asyncio.wait(self._executing)
            await asyncio.to_thread(remove_containers, self._podman, self._label())

    def all(self) -> Sequence[Run]:
        """In the order of their submission."""
        return list(self._runs.values())

    def find(self, run_id: str) -> Run | None:
        """A run, by what a client calls it."""
        return self._runs.get(int(run_id)) if run_id.isdigit() else None

    def directory(self, run: Run) -> Path:
        """What belongs to a run, apart from its results."""
        return self._layout.runs / str(run.id)

    def submit(self, wdl: str, inputs: str, site: str, tag: str | None, user: str, team: str) -> Run:
        """Register a run."""
        run_id = max(self._runs, default=_FIRST_ID - 1) + 1
        output_dir = self._layout.submit_outputs_dir / team / str(run_id)
        now = _now()
        run = Run(run_id, tag, site, user, team, str(output_dir), submitted=now, updated=now)
        self.directory(run).mkdir()
        (self.directory(run) / "workflow.wdl").write_text(wdl, encoding="utf-8", newline="")
        (self.directory(run) / "inputs.json").write_text(inputs, encoding="utf-8")
        self._runs[run.id] = run
        for status in _BEFORE_QUEUE:
            self._move(run, status)
        self._queue.append(run)
        self.look_again()
        return run

    def cancel(self, run: Run) -> None:
        """Kill what runs of it. It is over a moment later. Raises: TooLateError."""
        if run.status == "done":
            raise TooLateError(f"Run {run.id} is done, it is too late to cancel it")
        if run in self._queue:
            self._queue.remove(run)
            self._end(run, "cancelled", f"cancelled by {run.user}")
            return
        self._cancelled.add(run.id)
        kill_group(self._processes.get(run.id))

    def look_again(self) -> None:
        """Begin the runs that may begin."""
        while self._queue and not self._switches["hold_runs"] and len(self._executing) < self._switches["run_slots"]:
            run = self._queue.pop(0)
            self._move(run, "running")
            executing = asyncio.create_task(self._execute(run, self._switches.take("next_run")))
            self._executing.add(executing)
            executing.add_done_callback(self._executed)

    def _executed(self, executing: asyncio.Task[None]) -> None:
        self._executing.discard(executing)
        self._processes = {k: p for k, p in self._processes.items() if p is None or p.returncode is None}
        if not self._stopping:
            self.look_again()

    async def _execute(self, run: Run, fate: str | None) -> None:
        if fate == "system_error":
            self._end(run, None, "Cromwell could not be reached; the run has failed")
            return
        if fate == "cancelled_null":
            self._end(run, None, "cancelled by an administrator")
            return
        directory = self.directory(run)
        order = {
            "podman": str(self._podman),
            "labels": [self._label(), f"nersc-run={run.id}"],
            "name": f"nersc-{self._layout.root.stat().st_ino}-{run.id}",
            "output_dir": run.output_dir,
            "refdata_dir": str(self._layout.refdata_at(run.site)),
            "never_start": fate == "never_started",
            "relative": self._switches["relative_outputs"],
        }
        (directory / "order.json").write_text(json.dumps(order))
        with (directory / "runner.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *dying_with_us([sys.executable, "-m", f"{__package__}.runner", str(directory)]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "HOME": str(directory),
                    "TMPDIR": str(directory),
                    "PYTHONPATH": str(_REPOSITORY),
                },
                cwd=directory,
                start_new_session=True,
            )
        self._processes[run.id] = process
        if run.id in self._cancelled:
            kill_group(process)
        await process.wait()
        if self._stopping:
            return
        if run.id in self._cancelled:
            with suppress(OSError):
                await asyncio.to_thread(remove_containers, self._podman, f"nersc-run={run.id}")
            self._end(run, "cancelled", f"cancelled by {run.user}")
            return
        await self._finish(run)

    async def _finish(self, run: Run) -> None:
        try:
            told: dict[str, Any] = json.loads((self.directory(run) / "ended.json").read_text())
        except FileNotFoundError:
            self._end(run, None, "the engine of the run ended without a word, see runner.log")
            return
        if late := self._switches["results_late"]:
            asyncio.get_running_loop().call_later(late, _bring(Path(run.output_dir)))
        run.cpu_hours = told["cpu_hours"]
        self._end(run, told["result"], "")

    def _end(self, run: Run, result: str | None, comment: str) -> None:
        run.result = result
        statuses = _AFTER_RUN if result in {"succeeded", "failed"} else ("done",)
        for status in statuses:
            self._move(run, status, comment)

    def _move(self, run: Run, status: str, comment: str = "") -> None:
        now = _now()
        run.log.append({"status_from": run.status, "status_to": status, "timestamp": now, "comment": comment})
        run.status, run.updated = status, now
        file = self.directory(run) / "run.json"
        aside = file.with_suffix(".aside")
        aside.write_text(json.dumps(asdict(run)))
        aside.replace(file)

    def _label(self) -> str:
        return f"nersc-root={self._layout.root}"


def _bring(output_dir: Path) -> Any:
    """Hide the results; returns what brings them back."""
    hidden = [
        (f, f.with_name(f".{f.name}.late")) for name in ("outputs", "errors") for f in output_dir.glob(f"{name}.json")
    ]
    for shown, aside in hidden:
        shown.rename(aside)
    return lambda: [aside.rename(shown) for shown, aside in hidden]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
