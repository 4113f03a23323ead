"""The loops end in good order and in time, and the relay after those that make messages."""

from __future__ import annotations

import asyncio

from cdmtaskservice.wiring.loops import Loops


class FakeLoop:
    """A loop that notes what becomes of it. busy: it has something under way that never ends."""

    def __init__(self, name: str, log: list[str], *, busy: bool = False) -> None:
        self._name = name
        self._log = log
        self._busy = busy
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        try:
            await self._stopped.wait()
            if self._busy:
                await asyncio.Event().wait()
            self._log.append(f"{self._name} over")
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # as one that gives back what it holds
            self._log.append(f"{self._name} cut off")
            raise

    async def pass_on(self) -> None:
        self._log.append(f"{self._name} passed on")

    async def stop(self) -> None:
        self._log.append(f"{self._name} stops")
        self._stopped.set()


async def test_the_relay_outlives_the_looks() -> None:
    log: list[str] = []
    loops = Loops([FakeLoop("jobs", log), FakeLoop("stagings", log)], FakeLoop("relay", log), 10.0)
    loops.start()
    await loops.end()
    assert log == [
        *("jobs stops", "stagings stops", "jobs over", "stagings over"),
        *("jobs passed on", "stagings passed on", "relay stops", "relay over"),
    ]


async def test_no_looks_begin_once_the_process_is_told_to_end() -> None:
    log: list[str] = []
    loops = Loops([FakeLoop("jobs", log)], FakeLoop("relay", log), 10.0)
    loops.start()
    loops.stop()
    loops.stop()  # a second signal
    await asyncio.sleep(0.01)
    assert log == ["jobs stops", "jobs over"]
    await loops.end()
    # What executors report while the server ends is passed on too.
    assert log == ["jobs stops", "jobs over", "jobs passed on", "relay stops", "relay over"]


async def test_what_does_not_end_in_time_is_cut_off_and_waited_for() -> None:
    log: list[str] = []
    slow = [FakeLoop("jobs", log, busy=True), FakeLoop("stagings", log, busy=True)]
    loops = Loops(slow, FakeLoop("relay", log, busy=True), 0.05)
    loops.start()
    async with asyncio.timeout(10):
        await loops.end()
    assert log == [
        *("jobs stops", "stagings stops"),
        *("jobs cut off", "stagings cut off", "jobs passed on", "stagings passed on"),
        *("relay stops", "relay cut off"),
    ]


async def test_the_time_is_counted_from_the_signal() -> None:
    """What requests took at the end is not added to what looks may take."""
    log: list[str] = []
    loops = Loops([FakeLoop("jobs", log, busy=True)], FakeLoop("relay", log), 0.05)
    loops.start()
    loops.stop()
    await asyncio.sleep(0.1)  # the server answers what it has
    begun = asyncio.get_running_loop().time()
    await loops.end()
    assert "jobs cut off" in log
    assert asyncio.get_running_loop().time() - begun < 5


async def test_loops_that_never_began_end_too() -> None:
    log: list[str] = []
    await Loops([FakeLoop("jobs", log)], FakeLoop("relay", log), 10.0).end()
    assert log == ["jobs stops", "jobs passed on", "relay stops"]
