"""The port through which the rooms count what they do: no room but the API knows who keeps the numbers.

A `Meter` is passed in where parts are put together; `UNMETERED` stands where nobody counts. What names a call, a report
or an outcome is a word of the code, never of a user, so that there are few of them.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias

from cdmtaskservice.domain.errors import CTSError, DependencyUnavailableError

Outcome: TypeAlias = Literal["ok", "refused", "error", "canceled"]
"""refused: it has answered, and the answer is no. error: it did not answer, or not as it should. canceled: whoever
asked did not wait for the answer."""


class Meter(Protocol):
    """Takes in numbers; safe to call from any thread, and never raises."""

    def called(self, system: str, call: str, outcome: Outcome, seconds: float) -> None:
        """Something outside was called, all tries taken together."""
        ...

    def left_state(self, site: str, state: str, seconds: float) -> None:
        """A job has left a state in which it was for so long."""
        ...

    def looked(self, of: str, outcome: str, seconds: float, late: float | None) -> None:
        """A look is over. of: job or staging. late: by how many seconds it began after it was due, where it was."""
        ...

    def reported(self, site: str, report: str) -> None:
        """An executor has called."""
        ...


class _Unmetered:
    def called(self, system: str, call: str, outcome: Outcome, seconds: float) -> None:
        pass

    def left_state(self, site: str, state: str, seconds: float) -> None:
        pass

    def looked(self, of: str, outcome: str, seconds: float, late: float | None) -> None:
        pass

    def reported(self, site: str, report: str) -> None:
        pass


UNMETERED: Meter = _Unmetered()


class Metered:
    """Times one call, as a context manager: how it ended is told by what it raised, unless `outcome` is set."""

    __slots__ = ("_begun", "_call", "_meter", "_refusals", "_system", "outcome")

    def __init__(self, meter: Meter, system: str, call: str, refusals: tuple[type[BaseException], ...] = ()) -> None:
        """refusals: raised where the system has answered with a no, beside the errors that are a client's fault."""
        self._meter = meter
        self._system = system
        self._call = call
        self._refusals = refusals
        self._begun = 0.0
        self.outcome: Outcome | None = None

    def __enter__(self) -> Self:
        self._begun = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcome = self.outcome or outcome_of(error, self._refusals)
        self._meter.called(self._system, self._call, outcome, time.perf_counter() - self._begun)


def outcome_of(error: BaseException | None, refusals: tuple[type[BaseException], ...] = ()) -> Outcome:
    """What an error says of the call that raised it."""
    if error is None:
        return "ok"
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return "canceled"
    if isinstance(error, refusals):
        return "refused"
    if isinstance(error, CTSError) and not isinstance(error, DependencyUnavailableError):
        return "refused"
    return "error"
