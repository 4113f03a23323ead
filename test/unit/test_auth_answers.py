import asyncio

import pytest

from cdmtaskservice.auth.answers import Answers


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_the_lifetime_counts_from_the_asking() -> None:
    clock, asked = Clock(), 0
    answers: Answers[str, int] = Answers(10.0, 5, lambda _: None, clock)

    async def slow() -> int:
        nonlocal asked
        asked += 1
        clock.now += 6
        return asked

    assert await answers.get("q", slow) == 1
    clock.now += 3.9
    assert await answers.get("q", slow) == 1
    clock.now += 0.2
    assert await answers.get("q", slow) == 2


async def test_the_least_recently_used_answer_goes_first() -> None:
    answers: Answers[int, int] = Answers(10.0, 2, lambda _: None, Clock())
    asked: list[int] = []

    async def ask(question: int) -> int:
        async def answer() -> int:
            asked.append(question)
            return question

        return await answers.get(question, answer)

    for question in (1, 2, 1, 3, 1, 2):
        await ask(question)
    assert asked == [1, 2, 3, 2]


async def test_a_failure_is_told_and_not_remembered() -> None:
    answers: Answers[str, int] = Answers(10.0, 2, lambda _: None, Clock())

    async def fail() -> int:
        raise ZeroDivisionError

    async def work() -> int:
        return 1

    with pytest.raises(ZeroDivisionError):
        await answers.get("q", fail)
    assert await answers.get("q", work) == 1


async def test_a_failure_that_nobody_waits_for_any_more_makes_no_noise() -> None:
    answers: Answers[str, int] = Answers(10.0, 2, lambda _: None, Clock())
    go = asyncio.Event()

    async def fail() -> int:
        await go.wait()
        raise ZeroDivisionError

    noise: list[object] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: noise.append(context))
    try:
        waiting = asyncio.create_task(answers.get("q", fail))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not answers._being_asked
    finally:
        loop.set_exception_handler(before)
    assert noise == []
