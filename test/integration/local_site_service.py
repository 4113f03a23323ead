"""A process of the service with nothing but a local site in it, which can kill itself at any chosen step.

    python local_site_service.py OPTIONS

OPTIONS is JSON: `work_dir`, `control`, `runtime` and `executor` (paths), `cpus`, `submit` ([[job, container], …], each
with one CPU), `end` (the same: what to end when something runs), `kill_at`: before the so-manieth thing that this
process does to its working directory it gets a SIGKILL; 0 for never. Writes the number of steps so far to
CONTROL/steps when all that it submitted is over, and goes on until it is killed.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path

from cdmtaskservice.sites.base import Run, RunRequest, SiteInfo
from cdmtaskservice.sites.local.config import LocalSiteConfig
from cdmtaskservice.sites.local.site import LocalSite

_STEPS = {"open", "os.link", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "subprocess.Popen", "fcntl.flock"}


class Steps:
    """Counts what this process does to the directory, through the interpreter's audit hook."""

    def __init__(self, directory: str, kill_at: int) -> None:
        self.count = 0
        self._directory = directory
        self._kill_at = kill_at
        self._lock = threading.Lock()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in _STEPS:
            return
        ours = event == "fcntl.flock" or any(self._directory in str(a) for a in arguments)
        if not ours or "keep-trying" in str(arguments[0]):
            return
        with self._lock:
            self.count += 1
            if self.count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def config_of(options: dict[str, object]) -> LocalSiteConfig:
    control = Path(str(options["control"]))
    return LocalSiteConfig(
        info=SiteInfo("here", "local", 1, 64, 10**12, 3600.0),
        work_dir=Path(str(options["work_dir"])),
        cpus=int(str(options["cpus"])),
        service_url="http://127.0.0.1:1",
        token_file=control / "token",
        container_runtime_path=Path(str(options["runtime"])),
        executor=(str(options["executor"]),),
        extra_environment={"CTS_TEST_CONTROL": str(control)},
        min_free_disk=0,
        grace=0.5,
    )


async def serve(options: dict[str, object], steps: Steps) -> None:
    site = LocalSite(config_of(options))
    await site.start()
    submit = options["submit"]
    assert isinstance(submit, list)
    runs = [Run(job, n, 1) for job, n in submit]
    await site.submit([RunRequest(r, "ann", 1, 10**6, 60.0) for r in runs])
    end = options.get("end", [])
    assert isinstance(end, list)
    control, directory = Path(str(options["control"])), Path(str(options["work_dir"])) / "runs"
    # Looked at from the outside: asking the site would be steps too, and never the same number of them.
    while end and not (control / "journal").exists():
        await asyncio.sleep(0.005)
    if end:
        await site.end([Run(job, n, 1) for job, n in end], "it was cancelled")
        runs = [r for r in runs if (directory / f"{r.job_id}.{r.container}.1" / "alive").exists()]
    while not all((directory / f"{r.job_id}.{r.container}.1" / "over.json").exists() for r in runs):
        await asyncio.sleep(0.005)
    (control / "steps").write_text(str(steps.count))
    await asyncio.Event().wait()


def main() -> None:
    options = json.loads(sys.argv[1])
    steps = Steps(options["work_dir"], options.get("kill_at", 0))
    asyncio.run(serve(options, steps))


if __name__ == "__main__":
    main()
