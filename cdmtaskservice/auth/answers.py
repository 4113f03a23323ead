"""Remembering answers for a short time, and asking only once for all who wait for the same one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from cdmtaskservice.domain.errors import DependencyUnavailableError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Answers(Generic[K, V]):
    """Answers by question. Failures to answer are not remembered, but all who waited for that answer are
    told.

    Args:
        lifetime: seconds, counted from the asking.
        size: how many answers of each sort are kept; the least recently used go first.
        sort: parts the answers into sorts, so that a flood of one cannot push out the others.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        lifetime: float,
        size: int,
        sort: Callable[[V], Hashable],
        clock: Callable[[], float],
    ) -> None:
        self._lifetime = lifetime
        self._size = size
        self._sort = sort
        self._clock = clock
        self._kept: dict[Hashable, OrderedDict[K, tuple[float, V]]] = {}
        self._being_asked: dict[K, asyncio.Task[V]] = {}

    async def get(self, question: K, ask: Callable[[], Awaitable[V]]) -> V:
        """The answer to `question`, from memory or by `ask()`.

        Raises:
            DependencyUnavailableError: `ask` raised it.
        """
        for answers in self._kept.values():
            if question in answers:
                until, answer = answers[question]
                if self._clock() < until:
                    answers.move_to_end(question)
                    return answer
                del answers[question]
        task = self._being_asked.get(question)
        if task is None:
            task = asyncio.create_task(self._ask(question, ask))
            self._being_asked[question] = task
            task.add_done_callback(lambda done: self._asked(question, done))
        try:
            # Shielded: one who gives up must not take the answer from the others.
            return await asyncio.shield(task)
        except DependencyUnavailableError as e:
            # One exception each: one that several raise would gather the traces of all.
            raise DependencyUnavailableError(e.message) from e
        except asyncio.CancelledError:
            if task.cancelled():
                raise DependencyUnavailableError("The service is shutting down") from None
            raise

    async def close(self) -> None:
        """Stop asking."""
        tasks = tuple(self._being_asked.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, question: K, ask: Callable[[], Awaitable[V]]) -> V:
        asked = self._clock()
        answer = await ask()
        answers = self._kept.setdefault(self._sort(answer), OrderedDict())
        answers[question] = (asked + self._lifetime, answer)
        while len(answers) > self._size:
            answers.popitem(last=False)
        return answer

    def _asked(self, question: K, task: asyncio.Task[V]) -> None:
        del self._being_asked[question]
        if not task.cancelled():
            # Where nobody waits any more, nobody else would look at the exception.
            task.exception()
