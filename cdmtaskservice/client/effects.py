"""What a flow may ask of the world.

A flow is a generator that holds all of the client's thinking and touches nothing: it yields what it wants done, and
gets back what came of it. `blocking_driver` and `aio_driver` carry that out, so that what a flow knows is written once.

| effect | gives |
|---|---|
| `Send` | the whole reply |
| `Open` | the reply without its body, which is then to be read; with the body where it is an error's. One at a time |
| `Read` | the next bytes of what was opened, None at its end |
| `Pause` | nothing, after that many seconds |
| `Do` | what the function returns, which may block |
| `Spread` | nothing, when all flows are through, of which so many went on at once. The first error ends all |
| `Emit` | nothing; the item goes to whoever iterates |

`Send`, `Open` and `Read` raise `NetworkFault`. A flow must not yield when it is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from cdmtaskservice.client.requests import Reply, Request

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class NetworkFault(Exception):
    """No reply, or a broken one.

    arrived: whether the request may have reached the other side. silent: whether nothing came in time. hopeless:
    whether trying again is of no use. unknown: whether nobody knows the host's name.
    """

    def __init__(
        self, text: str, *, arrived: bool, silent: bool = False, hopeless: bool = False, unknown: bool = False
    ) -> None:
        super().__init__(text)
        self.arrived = arrived
        self.silent = silent
        self.hopeless = hopeless
        self.unknown = unknown


@dataclass(frozen=True)
class Send:
    """See the module."""

    request: Request


@dataclass(frozen=True)
class Open:
    """See the module."""

    request: Request


@dataclass(frozen=True)
class Read:
    """See the module."""


@dataclass(frozen=True)
class Pause:
    """See the module."""

    seconds: float


@dataclass(frozen=True)
class Do:
    """See the module."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Spread:
    """See the module."""

    flows: Iterator[Flow[Any]]
    at_once: int


@dataclass(frozen=True)
class Emit(Generic[T_co]):
    """See the module."""

    item: T_co


Effect: TypeAlias = Send | Open | Read | Pause | Do | Spread
Flow: TypeAlias = Generator[Effect, Any, T]
"""A flow that comes to a result."""
Items: TypeAlias = Generator[Effect | Emit[T], Any, None]
"""A flow that gives items, one after the other."""


def send(request: Request) -> Flow[Reply]:
    """The whole reply."""
    reply: Reply = yield Send(request)
    return reply


def open_(request: Request) -> Flow[Reply]:
    """The reply, its body to be read."""
    reply: Reply = yield Open(request)
    return reply


def read() -> Flow[bytes | None]:
    """The next bytes of the open body, None at its end."""
    chunk: bytes | None = yield Read()
    return chunk


def pause(seconds: float) -> Flow[None]:
    """Nothing, after that time."""
    yield Pause(seconds)


def do(function: Callable[[], T]) -> Flow[T]:
    """What the function returns, which may block."""
    result: T = yield Do(function)
    return result


def spread(flows: Iterator[Flow[Any]], at_once: int) -> Flow[None]:
    """All of them, so many at once."""
    yield Spread(flows, at_once)


def consuming(items: Items[T], deal: Callable[[T], None]) -> Flow[None]:
    """The flow with its items given to `deal` instead of to whoever iterates."""
    answer: Any = None
    fault: BaseException | None = None
    try:
        while True:
            try:
                effect = items.send(answer) if fault is None else items.throw(fault)
            except StopIteration:
                return
            answer = fault = None
            if isinstance(effect, Emit):
                deal(effect.item)
                continue
            try:
                answer = yield effect
            except Exception as e:  # whatever went wrong is for the flow to know
                fault = e
    finally:
        items.close()
