"""`cts demo`: the whole service with real parts on this machine, and two jobs through it."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from cdmtaskservice.cli.demo_story import Story
from cdmtaskservice.embedded.image import Pushed, push_seqtool
from cdmtaskservice.embedded.part import PartFailed
from cdmtaskservice.embedded.service import BUCKET, EmbeddedService
from cdmtaskservice.embedded.stack import EmbeddedStack, PartsMissing, RootBusy

_LONGEST_ROOT = 60
"""Characters of a directory's path; unix sockets of the parts lie below it, and their paths are bounded."""

_OVERRIDES = {
    # Nobody is left to report to once the demo is over.
    "KBCTS_LOCAL_KEEP_TRYING": "PT1M",
    "KBCTS_LOCAL_STOP_WITH_SERVICE": "true",
    "KBCTS_RECONCILER__LOOK_DELAY": "1",
    "KBCTS_SERVICE_NOTES": "A demo on one machine",
}


def run(*, keep: bool, directory: Path | None) -> None:
    """Run the demo; exits 1 where something is missing or a job does not do what it should."""
    console = Console(highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _root(directory, keep=keep) as root:
            _demo(console, root, keep=keep)
    except (PartsMissing, PartFailed, RootBusy) as e:
        console.print(f"[red]demo: {e}[/red]")
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("\ndemo: stopped; all that it had started has ended")
        sys.exit(130)
    console.print("demo: complete")


def _demo(console: Console, root: Path, *, keep: bool) -> None:
    with EmbeddedStack(root) as stack:
        console.print(f"[bold]1. Real parts, started on free loopback ports; data and logs below {root}[/bold]")
        for what, where in (
            ("S3 store (SeaweedFS)", stack.s3.url),
            ("database (MongoDB wire protocol)", stack.mongo_uri),
            ("broker (Kafka protocol)", stack.kafka_bootstrap),
            ("container registry", stack.registry),
            ("container runtime", "podman"),
        ):
            console.print(f"   {what:34} {where}")
        image = push_seqtool(stack.registry, stack.parts)
        service = EmbeddedService(stack, root / "cts", _OVERRIDES)
        asyncio.run(Story.prepare(stack))
        service.start()
        try:
            console.print(f"   {'CDM Task Service':34} {service.url}   Swagger UI: {service.url}/docs\n")
            asyncio.run(Story(console, stack, service, image).tell())
            if keep:
                _explain(console, stack, service, image)
                signal.pause()
        finally:
            service.stop()


def _explain(console: Console, stack: EmbeddedStack, service: EmbeddedService, image: Pushed) -> None:
    s3 = stack.s3
    job = {
        "cluster": "local",
        "image": image.by_tag,
        "params": {"args": ["stats", {"type": "input_files", "input_files_format": "space_separated_list"}]},
        "input_files": [f"{BUCKET}/ann/reads/sample1.fasta"],
        "output_dir": f"{BUCKET}/ann/results/mine",
    }
    console.print(f"\n[bold]Everything stays up until Ctrl-C.[/bold] Swagger UI: {service.url}/docs\n")
    console.print(
        f"  export URL={service.url} TOKEN=$(cat {service.home.parent}/ann.token)   # admin.token beside it: an "
        "administrator\n"
        f"  curl -H \"Authorization: Bearer $TOKEN\" $URL/jobs -H 'Content-Type: application/json' -d '"
        f"{json.dumps(job)}'\n"
        '  curl -H "Authorization: Bearer $TOKEN" $URL/jobs/JOB_ID          # the job and its outputs\n'
        '  curl -H "Authorization: Bearer $TOKEN" $URL/jobs/JOB_ID/log/0/stdout\n'
        '  curl -H "Authorization: Bearer $TOKEN" $URL/jobs                 # all of your jobs\n\n'
        f"  S3 at {s3.url}: your files go to {BUCKET}/ann/, with a CRC64NVME checksum each (see docs/user-guide.md)\n"
        f"  export AWS_ACCESS_KEY_ID={s3.access_key} AWS_SECRET_ACCESS_KEY={s3.secret_key}\n",
        markup=False,
    )


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
