"""Checks of a submission that are made at once fail as if they were made one after the other."""

import asyncio

import pytest

from cdmtaskservice.services.submission import in_order


class Checks:
    """Two checks, the second of which may not be over before the first."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.given_up = False

    async def first(self, fault: Exception | None = None) -> str:
        self.began.append("first")
        await asyncio.sleep(0)
        if fault:
            raise fault
        return "one"

    async def second(self, fault: Exception | None = None) -> str:
        self.began.append("second")
        if fault:
            raise fault
        return "two"

    async def endless(self) -> str:
        self.began.append("second")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        return "never"


async def test_both_are_under_way_at_once():
    met = asyncio.Barrier(2)

    async def check(result: str) -> str:
        async with asyncio.timeout(5):
            await met.wait()
        return result

    assert await in_order(check("one"), check("two")) == ("one", "two")


async def test_the_fault_of_the_first_is_told_where_both_have_one():
    checks = Checks()
    with pytest.raises(KeyError):
        await in_order(checks.first(KeyError()), checks.second(ValueError()))


async def test_the_fault_of_the_second_is_told_once_the_first_is_well():
    checks = Checks()
    with pytest.raises(ValueError, match="second"):
        await in_order(checks.first(), checks.second(ValueError("second")))
    assert sorted(checks.began) == ["first", "second"]


async def test_the_second_is_given_up_where_the_first_fails():
    checks = Checks()

    async def first() -> str:
        while not checks.began:
            await asyncio.sleep(0)
        raise KeyError

    async with asyncio.timeout(5):
        with pytest.raises(KeyError):
            await in_order(first(), checks.endless())
    assert checks.given_up


async def test_the_second_is_given_up_with_the_caller():
    checks = Checks()
    waiting = asyncio.create_task(in_order(checks.first(), checks.endless()))
    while len(checks.began) < 2:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert checks.given_up
