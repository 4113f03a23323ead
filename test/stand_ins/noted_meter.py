"""A meter that notes what it was told, and what counts as the same."""

from __future__ import annotations

from collections import Counter

from cdmtaskservice.meter import Outcome


class NotedMeter:
    """Keeps everything by its labels; how long things took is checked to be no nonsense, and forgotten."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str, Outcome]] = Counter()
        self.left: list[tuple[str, str, float]] = []
        self.looks: Counter[tuple[str, str]] = Counter()
        self.late: list[float] = []
        self.reports: Counter[tuple[str, str]] = Counter()

    def called(self, system: str, call: str, outcome: Outcome, seconds: float) -> None:
        assert seconds >= 0
        self.calls[system, call, outcome] += 1

    def left_state(self, site: str, state: str, seconds: float) -> None:
        self.left.append((site, state, seconds))

    def looked(self, of: str, outcome: str, seconds: float, late: float | None) -> None:
        assert seconds >= 0
        self.looks[of, outcome] += 1
        if late is not None:
            self.late.append(late)

    def reported(self, site: str, report: str) -> None:
        self.reports[site, report] += 1

    def outcomes(self, system: str) -> set[tuple[str, Outcome]]:
        """What was called of a system, and what came of it."""
        return {(call, outcome) for of, call, outcome in self.calls if of == system}
