"""The results for people, as a table, and for programs, as JSON."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, Section

_CAVEATS = (
    "CTS: the service that exists, on a machine of this kind with nothing else on it; measured elsewhere, and lower "
    "bounds: a gain of 10 means ten times or more.",
    "The database is a stand-in written in Python, on the same CPUs as the service, the S3 store and the load "
    "generator, and takes a good part of them. Under each title: who used how many CPUs; `others` is all that is not "
    "named. Where it is much, this machine had other work, and what is not CPU time says little.",
)


def show(sections: Sequence[Section], console: Console) -> None:
    """Print one table of all sections."""
    table = Table(title="CDM Task Service: benchmarks", title_justify="left", pad_edge=False)
    table.add_column("what", overflow="fold")
    for name in ("here", "CTS", "gain"):
        table.add_column(name, justify="right")
    table.add_column("note", style="dim")
    for section in sections:
        table.add_section()
        used = ", ".join(f"{who} {cpus:.2f}" for who, cpus in section.cpu.items())
        table.add_row(f"[bold]{section.title}[/bold]", style="cyan")
        table.add_row(f"[dim]  {section.seconds:.0f} s, load average {section.load:.1f}; CPUs: {used}[/dim]")
        for figure in section.figures:
            table.add_row(*_row(figure))
    console.print(table)
    for line in (_machine_line(machine()), *_CAVEATS):
        console.print(line, style="dim", highlight=False)


def as_json(sections: Sequence[Section], *, quick: bool, now: datetime.datetime) -> dict[str, Any]:
    """Everything that was found out, without names of hosts, users or places."""
    return {
        "date": now.astimezone(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "quick": quick,
        "machine": machine(),
        "reference": "measured elsewhere, on a machine of this kind with nothing else on it; lower bounds",
        "sections": [s.as_json() for s in sections],
    }


def machine() -> dict[str, Any]:
    """What kind of machine this is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("fastapi", "uvicorn", "motor", "aiohttp", "nx-27017")},
    }


def shown(value: float, unit: str) -> str:
    """A value with its unit, as exact as it can be read."""
    if unit == "ms" and value >= 10_000:
        value, unit = value / 1000, "s"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}".rstrip()


def _row(figure: Figure) -> tuple[str, str, str, str, str]:
    gain = figure.gain
    return (
        f"  {figure.what}",
        shown(figure.value, figure.unit),
        "" if figure.reference is None else shown(figure.reference, figure.unit),
        "" if gain is None else f"{gain:.1f}×",
        figure.note,
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _machine_line(kind: dict[str, Any]) -> str:
    return (
        f"Machine: {kind['cpus']} CPUs ({kind['cpu']}), {kind['memory_gib']} GiB, {kind['system']}, "
        f"Python {kind['python']}"
    )
