"""What both clients are made of."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from cdmtaskservice.client.calls import Calls
from cdmtaskservice.client.retrying import Backoff, Retrying

C = TypeVar("C", bound=type)


def new_calls(retries: int) -> Calls:
    """All calls, with a real clock and real randomness."""
    jitter = random.Random()  # noqa: S311 - it spreads retries, and guards nothing
    return Calls(Retrying(retries, Backoff(jitter.random)), time.monotonic)


def described_by(other: type) -> Callable[[C], C]:
    """Decorates a class: its methods get the docstrings of the other's, so that they are written once."""

    def describe(kind: C) -> C:
        for name, method in vars(kind).items():
            if callable(method) and method.__doc__ is None:
                method.__doc__ = getattr(getattr(other, name, None), "__doc__", None)
        return kind

    return describe
