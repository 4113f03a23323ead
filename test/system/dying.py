"""Processes that kill themselves, as kill -9 would, right after one chosen call has taken effect.

`CTS_DIE_AFTER` names the call, perhaps with `:` and an argument that it must have, such as a state. It happens once:
the file `CTS_DIE_MARKER` records it.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def die_as_told(calls: Mapping[str, tuple[type, str]]) -> None:
    """Arm the trap, if the environment says so. calls: class and method by the name of a call."""
    if call := os.environ.get("CTS_DIE_AFTER"):
        _die_after(call, Path(os.environ["CTS_DIE_MARKER"]), calls)


def _die_after(call: str, marker: Path, calls: Mapping[str, tuple[type, str]]) -> None:
    """A call with a state fires for that state alone, and for any without."""
    name, _, state = call.partition(":")
    owner, method = calls[name]
    original: Callable[..., Any] = getattr(owner, method)

    @functools.wraps(original)
    async def dying(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        told = [getattr(a, "state", a) for a in args[1:]]
        if (not state or any(state in (t, getattr(t, "value", None)) for t in told)) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, dying)
