"""What a benchmark finds out: figures, and on what kind of load they were measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Better = Literal["less", "more"]


@dataclass(frozen=True)
class Figure:
    """One number.

    key: names it for programs, and for good. better: which way is good. reference: the same of the CTS that exists, on
    a machine of this kind; None where it is not known. note: what a reader must know to read it.
    """

    key: str
    what: str
    value: float
    unit: str
    better: Better = "less"
    reference: float | None = None
    note: str = ""

    @property
    def gain(self) -> float | None:
        """How many times better than the reference; None where there is none."""
        if self.reference is None or not self.value or not self.reference:
            return None
        return self.reference / self.value if self.better == "less" else self.value / self.reference

    def as_json(self) -> dict[str, Any]:
        """Everything, without what is not known."""
        told = {**asdict(self), "gain": self.gain}
        return {key: value for key, value in told.items() if value is not None and (key, value) != ("note", "")}


@dataclass(frozen=True)
class Section:
    """The figures of one benchmark.

    cpu: CPUs in use by whom while it ran, such as {"service": 0.9, "database": 0.7}; "others" is all that runs on this
    machine and is not part of the benchmark. load: the load average at its end, over one minute.
    """

    name: str
    title: str
    figures: Sequence[Figure]
    seconds: float
    load: float
    cpu: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "name": self.name,
            "title": self.title,
            "seconds": round(self.seconds, 1),
            "load_average": round(self.load, 2),
            "cpus_used": {who: round(cpus, 3) for who, cpus in self.cpu.items()},
            "figures": [f.as_json() for f in self.figures],
        }


@dataclass(frozen=True)
class Effort:
    """How much is measured. quick: for a first look, within 90 seconds altogether."""

    quick: bool = False

    @property
    def most_files(self) -> int:
        """Files of the largest jobs."""
        return self.times(10_000, 2000)

    def times(self, full: int, quick: int) -> int:
        """How often to do something."""
        return quick if self.quick else full


def files_of(count: int) -> str:
    """So many files, in words."""
    return "one file" if count == 1 else f"{count:,} files"


def median(samples: Sequence[float]) -> float:
    """The sample in the middle."""
    return statistics.median(samples)


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that so large a share (0 to 1) of all is not above."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
