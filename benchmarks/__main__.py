"""`python -m benchmarks`: see --help."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks import (
    executing,
    following,
    heads,
    looking,
    paging,
    pooling,
    reading,
    reporting,
    resting,
    staging,
    submitting,
)
from benchmarks.figures import Effort, Figure, Section
from benchmarks.processes import load_average
from benchmarks.report import as_json, show
from benchmarks.stage import House, Stage, staged
from cdmtaskservice.embedded.part import PartFailed
from cdmtaskservice.embedded.stack import PartsMissing


@dataclass(frozen=True)
class InHouse:
    """A benchmark of the one service that they share."""

    title: str
    measure: Callable[[House, Effort], Awaitable[list[Figure]]]


@dataclass(frozen=True)
class OnStage:
    """A benchmark that starts services of its own, or needs none."""

    title: str
    measure: Callable[[Stage, Effort], Awaitable[list[Figure]]]


BENCHMARKS: dict[str, InHouse | OnStage] = {
    "start": OnStage("Starting", resting.start),
    "idle": OnStage("Idle", resting.idle),
    "submit": InHouse("Submitting, one after the other", submitting.latency),
    "submits": InHouse("Submitting, many at once", submitting.rate),
    "status": InHouse("Polling", reading.states),
    "reports": InHouse("Containers' reports", reporting.rate),
    "followers": InHouse("Following logs", following.followers),
    "jobs": InHouse("Reading jobs", reading.jobs),
    "pages": InHouse("Pages", paging.pages),
    "looks": OnStage("The reconciler", looking.looks),
    "heads": OnStage("S3", heads.heads),
    "executor": OnStage("Workers", executing.executor),
    "pool": OnStage("An HTCondor pool", pooling.pool),
    "staging": OnStage("Reference data", staging.staging),
}


async def run(names: Sequence[str], effort: Effort, progress: Callable[[str], None]) -> list[Section]:
    """The sections of these benchmarks, in the order of `BENCHMARKS`."""
    sections = []
    async with staged() as stage:
        for name, benchmark in BENCHMARKS.items():
            if name in names and isinstance(benchmark, OnStage):
                progress(benchmark.title)
                sections.append((name, await _on_stage(name, benchmark, stage, effort)))
        shared = [n for n in names if isinstance(BENCHMARKS[n], InHouse)]
        if shared:
            async with stage.house() as house:
                for name, benchmark in BENCHMARKS.items():
                    if name in shared and isinstance(benchmark, InHouse):
                        progress(benchmark.title)
                        sections.append((name, await _in_house(name, benchmark, house, effort)))
    order = list(BENCHMARKS)
    return [section for _, section in sorted(sections, key=lambda s: order.index(s[0]))]


async def _in_house(name: str, benchmark: InHouse, house: House, effort: Effort) -> Section:
    begun, watch = time.monotonic(), house.watch()
    figures = await benchmark.measure(house, effort)
    return Section(name, benchmark.title, figures, time.monotonic() - begun, load_average(), watch.cpus())


async def _on_stage(name: str, benchmark: OnStage, stage: Stage, effort: Effort) -> Section:
    begun, watch = time.monotonic(), stage.watch()
    figures = await benchmark.measure(stage, effort)
    return Section(name, benchmark.title, figures, time.monotonic() - begun, load_average(), watch.cpus())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table and write JSON. The exit code: 0, 1 where it cannot start, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the service on the embedded stack, from outside, over HTTP. Takes up to half an hour.",
    )
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: within 90 seconds, less exact")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args(argv)
    names = options.only or list(BENCHMARKS)
    errors = Console(stderr=True)
    try:
        sections = asyncio.run(
            run(names, Effort(options.quick), lambda title: errors.print(f"… {title}", style="dim", highlight=False))
        )
    except (PartsMissing, PartFailed) as error:
        errors.print(str(error), style="red", highlight=False)
        return 1
    show(sections, Console())
    if options.json is not None:
        now = datetime.datetime.now(datetime.UTC)
        options.json.write_text(json.dumps(as_json(sections, quick=options.quick, now=now), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
