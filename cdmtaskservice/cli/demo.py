"""`cts demo`: the whole service with real parts on this machine, and two jobs through one of its sites."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from cdmtaskservice.cli.demo_guide import Guide
from cdmtaskservice.cli.demo_story import Story
from cdmtaskservice.embedded.image import push_seqtool
from cdmtaskservice.embedded.part import PartFailed
from cdmtaskservice.embedded.pool import CondorPool
from cdmtaskservice.embedded.service import EmbeddedService
from cdmtaskservice.embedded.stack import EmbeddedStack, PartsMissing, RootBusy

_STAND_INS = "test/stand_ins/nersc"

_CLUSTERS = {"local": "local", "htcondor": "kbase", "jaws": "perlmutter-jaws"}
"""By kind the site of the demo's jobs, as an embedded service calls it."""

_LONGEST_ROOT = 60
"""Characters of a directory's path; unix sockets of the parts lie below it, and their paths are bounded."""

_OVERRIDES = {
    # Nobody is left to report to once the demo is over.
    "KBCTS_LOCAL_KEEP_TRYING": "PT1M",
    "KBCTS_LOCAL_STOP_WITH_SERVICE": "true",
    "KBCTS_HTCONDOR_KEEP_TRYING": "PT1M",
    "KBCTS_HTCONDOR_VACATE_TIME": "15",
    "KBCTS_RECONCILER__LOOK_DELAY": "1",
    "KBCTS_SERVICE_NOTES": "A demo on one machine",
}


def run(*, keep: bool, directory: Path | None, site: str) -> None:
    """Run the demo; exits 1 where something is missing or a job does not do what it should.

    site: which kind of site runs its jobs, `local`, `htcondor` or `jaws`.
    """
    console = Console(highlight=False, soft_wrap=True)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background jobs are born without the second one
        signal.signal(number, _interrupt)
    try:
        with _root(directory, keep=keep) as root:
            _demo(console, root, keep=keep, stays=directory is not None, site=site)
    except (PartsMissing, PartFailed, RootBusy) as e:
        console.print(f"[red]demo: {e}[/red]")
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("\ndemo: stopped; all that it had started has ended")
        sys.exit(130)
    console.print("demo: complete")


def _demo(console: Console, root: Path, *, keep: bool, stays: bool, site: str) -> None:
    with (
        EmbeddedStack(root) as stack,
        _pool(root, stack, wanted=site == "htcondor") as pool,
        _jaws(stack, wanted=site == "jaws") as jaws,
    ):
        console.print(f"[bold]1. Real parts, started on free loopback ports; data and logs below {root}[/bold]")
        for what, where in (
            ("S3 store (SeaweedFS)", stack.s3.url),
            ("database (MongoDB wire protocol)", stack.mongo_uri),
            ("broker (Kafka protocol)", stack.kafka_bootstrap),
            ("container registry", stack.registry),
            ("container runtime", "podman"),
        ):
            console.print(f"   {what:34} {where}")
        if pool is not None:
            console.print(
                f"   {'HTCondor pool':34} {pool.collector}   a real one: collector, negotiator, schedd, and a startd "
                f"that offers {pool.cpus} CPUs"
            )
        if jaws:
            console.print(
                f"   {'stand-ins for NERSC and JAWS':34} {jaws['KBCTS_JAWS_URL']}   the submitted WDL is really run, "
                "by miniwdl and podman"
            )
        image = push_seqtool(stack.registry, stack.parts)
        service = EmbeddedService(stack, root / "cts", {**_OVERRIDES, **jaws}, pool=pool)
        asyncio.run(Story.prepare(stack))
        service.start()
        try:
            console.print(
                f"   {'CDM Task Service':34} {service.url}   pages: {service.url}/ui   Swagger UI: {service.url}/docs\n"
            )
            asyncio.run(Story(console, stack, service, image, _CLUSTERS[site]).tell())
            if keep:
                guide = Guide(console, root, stack, service, image, _CLUSTERS[site], stays=stays)
                guide.tell()
                if pool is not None:
                    guide.tell_pool(pool)
                signal.pause()
        finally:
            service.stop()


@contextmanager
def _pool(root: Path, stack: EmbeddedStack, *, wanted: bool) -> Iterator[CondorPool | None]:
    if not wanted:
        yield None
        return
    with CondorPool(root / "pool", stack.parts, stack.registry) as pool:
        yield pool


@contextmanager
def _jaws(stack: EmbeddedStack, *, wanted: bool) -> Iterator[Mapping[str, str]]:
    """The settings by which a service finds NERSC and JAWS, played by the stand-ins of the tests; else nothing."""
    if not wanted:
        yield {}
        return
    repository = Path(__file__).parents[2]
    if not (repository / _STAND_INS / "part.py").is_file():
        raise PartsMissing(f"The stand-ins for NERSC and JAWS are in {_STAND_INS} of a checkout, and this is none.")
    sys.path.insert(0, str(repository))
    sys.modules.pop("test", None)  # Python has a package of that name, too
    part: Any = importlib.import_module(f"{_STAND_INS.replace('/', '.')}.part")
    site = part.NerscSite(stack.root / "nersc", stack.logs / "nersc.log", stack.launcher, stack.podman)
    site.start()
    try:
        yield site.settings()
    finally:
        site.stop()


@contextmanager
def _root(directory: Path | None, *, keep: bool) -> Iterator[Path]:
    """The demo's directory: the one given, which stays; else one of our own, which is removed at the end."""
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory.absolute()
        return
    own = Path(".run").absolute()
    own.mkdir(exist_ok=True)
    base = own if len(str(own)) < _LONGEST_ROOT else None
    root = Path(tempfile.mkdtemp(prefix="demo-", dir=base))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
