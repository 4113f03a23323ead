"""A reference data service: it asks what is to be done at its sites, has it done, and tells what came of it.

Each task is a process of the remote code, `cdmtaskservice.executor.remote`, which leaves what came of it in a file.
So nothing is lost whoever is killed: the process ends with this one, as the pipe to it closes, and what it has brought
so far stays; this one comes back by the name that it had, gets the same tasks, and does them with what is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cdmtaskservice.stager.desk import Desk, DeskRefusedError, DeskUnreachableError
from cdmtaskservice.stager.stores import Store, StoreUnusableError

_log = structlog.get_logger(__name__)

_FIRST_SIGN = 1.0
"""Seconds after which is told for the first time how far a task is."""
_GRACE = 10.0
"""Seconds that a task has to end by itself."""
_LONGEST_PAUSE = 30.0
"""Seconds between two tries to reach the service."""
_MOST_WORDS = 10_000


@dataclass(frozen=True)
class StagerConfig:
    """poll_interval: seconds between questions for work. at_once: tasks at once at one site."""

    poll_interval: float = 5.0
    at_once: int = 2
    python: str = sys.executable


class Stager:
    """Works for any number of stores until it is cancelled."""

    def __init__(self, desk: Desk, stores: Sequence[Store], config: StagerConfig) -> None:
        self._desk = desk
        self._stores = stores
        self._config = config

    async def run(self) -> None:
        """Ask and work. When this is cancelled, so is what goes on; what has come by then stays for the next time."""
        for store in self._stores:
            _log.info("serving_refdata", site=store.site, directory=str(store.root))
        async with asyncio.TaskGroup() as group:
            for store in self._stores:
                group.create_task(self._serve(store), name=f"stager-{store.site}")

    async def _serve(self, store: Store) -> None:
        going: dict[str, asyncio.Task[None]] = {}
        pause = self._config.poll_interval
        try:
            while True:
                try:
                    await self._take_work(store, going)
                except (DeskUnreachableError, DeskRefusedError, StoreUnusableError) as e:
                    pause = min(_LONGEST_PAUSE, 2 * pause)
                    _log.warning("no_work_found", site=store.site, error=str(e), again_in=pause)
                except Exception:
                    pause = min(_LONGEST_PAUSE, 2 * pause)
                    _log.exception("looking_for_work_failed", site=store.site)
                else:
                    pause = self._config.poll_interval
                if going:
                    await asyncio.wait(going.values(), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                    continue
                await asyncio.sleep(pause)
        finally:
            for task in going.values():
                task.cancel()
            await asyncio.gather(*going.values(), return_exceptions=True)
            store.close()

    async def _take_work(self, store: Store, going: dict[str, asyncio.Task[None]]) -> None:
        """Ask what is to be done, and begin what does not go on yet. going: by what names a task here."""
        for name in [name for name, task in going.items() if task.done()]:
            del going[name]
        await asyncio.to_thread(store.open)
        room = max(0, self._config.at_once - len(going))
        told = await self._desk.work(store.site, store.claim, str(store.root), room)
        if not going:
            await asyncio.to_thread(store.forget_tasks, ())
        for order in told["work"]:
            name = f"{order['refdata_id']}/{order['task']}"
            if name not in going:
                work = self._work(store, order, told["report_interval"])
                going[name] = asyncio.create_task(work, name=f"task-{name}")

    async def _work(self, store: Store, order: Mapping[str, Any], report_interval: float) -> None:
        """Do one task to its end, and tell of it."""
        refdata_id, task = order["refdata_id"], order["task"]
        log = _log.bind(site=store.site, refdata=refdata_id, task=task)
        try:
            directory = await asyncio.to_thread(store.new_task_dir)
            process = await self._begin(order, directory)
            log.info("task_begun", kind=order["kind"], pid=process.pid)
            told = {"task": task, "claim": store.claim}
            await self._follow(process, store.site, refdata_id, directory, told, report_interval)
            ending = await asyncio.to_thread(_ending, directory, process.returncode)
            await self._tell(store.site, refdata_id, {**told, **ending})
            if "error" in ending:
                log.warning("task_failed", error=ending["error"], admin_error=ending.get("admin_error"))
            else:
                log.info("task_over")
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        except OSError as e:
            log.warning("task_not_begun", error=str(e))
            await asyncio.sleep(report_interval)  # it is asked for again
        except Exception:
            log.exception("task_not_followed")
            await asyncio.sleep(report_interval)

    async def _begin(self, order: Mapping[str, Any], directory: Path) -> asyncio.subprocess.Process:
        plan = directory / "new-plan.json"
        await asyncio.to_thread(_write_private, plan, json.dumps(order["plan"]))  # it has presigned URLs
        return await asyncio.create_subprocess_exec(
            *(self._config.python, "-s", "-X", "utf8", "-m", "cdmtaskservice.executor.remote", order["kind"]),
            *("--plan", plan, "--task", directory, "--watch-stdin"),
            stdin=asyncio.subprocess.PIPE,
        )

    async def _follow(
        self,
        process: asyncio.subprocess.Process,
        site: str,
        refdata_id: str,
        directory: Path,
        told: Mapping[str, Any],
        interval: float,
    ) -> None:
        """Wait for the end of the process, and tell how far it is meanwhile. It is ended where nobody wants it."""
        ended = asyncio.create_task(process.wait())
        pause = min(_FIRST_SIGN, interval)
        try:
            while True:
                await asyncio.wait([ended], timeout=pause)
                pause = interval
                if ended.done():
                    return
                progress = await asyncio.to_thread(_read, directory / "progress.json")
                with suppress(DeskUnreachableError, DeskRefusedError):
                    if await self._desk.progress(
                        refdata_id, site, {**told, **({"progress": progress} if progress else {})}
                    ):
                        return
        finally:
            if not ended.done():
                if process.stdin is not None:
                    process.stdin.close()  # which tells a task to end
                done, _ = await asyncio.wait([ended], timeout=_GRACE)
                if not done:
                    process.kill()
                    await ended

    async def _tell(self, site: str, refdata_id: str, told: Mapping[str, Any]) -> None:
        """Tell how a task ended, for as long as it takes."""
        state = "error" if "error" in told else "complete"
        pause = self._config.poll_interval
        while True:
            try:
                await self._desk.update(refdata_id, site, state, told)
            except DeskUnreachableError as e:
                _log.warning("end_not_told", site=site, refdata=refdata_id, error=str(e), again_in=pause)
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, 2 * pause)
            except DeskRefusedError as e:
                _log.warning("end_refused", site=site, refdata=refdata_id, error=str(e))
                return
            else:
                return


def _ending(directory: Path, exit_code: int | None) -> Mapping[str, Any]:
    """What is told of a task that is over."""
    result = _read(directory / "result.json")
    if result is None:
        return {"error": f"its process ended with exit code {exit_code} and left no result", "crashed": True}
    if result["ok"]:
        return {name: result[name] for name in ("files", "bytes") if name in result}
    told = {"error": str(result["error"])[:_MOST_WORDS]}
    for name in ("admin_error", "again"):
        if result.get(name) is not None:
            told[name] = str(result[name])[:_MOST_WORDS]
    return told


def _write_private(file: Path, text: str) -> None:
    fd = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as opened:
        opened.write(text)


def _read(file: Path) -> Mapping[str, Any] | None:
    try:
        told: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told
