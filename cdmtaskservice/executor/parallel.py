"""A bounded number of threads over many pieces of work; the first failure ends them all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Callable, TypeVar

from .stopping import Stop

T = TypeVar("T")


def for_each(items: Sequence[T], work: Callable[[T], None], threads: int, scope: Stop) -> None:
    """Call `work(item)` for every item, begun in order, in at most `threads` threads.

    The first failure sets `scope`, which should be the caller's own: whatever the other threads wait on ends with it.
    Raises that failure, or the reason why `scope` was set from outside, after all threads have ended.
    """
    lock = threading.Lock()
    left = iter(items)

    def run() -> None:
        try:
            while True:
                scope.check()
                with lock:
                    item = next(left, None)
                if item is None:
                    return
                work(item)
        except BaseException as error:
            scope.set(error)

    crew = [threading.Thread(target=run, name=f"transfer-{i}", daemon=True) for i in range(min(threads, len(items)))]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    scope.check()
