"""The outbox: every transition reaches the broker at least once, a job's in order, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable

import pytest
import structlog.testing
from aiokafka import AIOKafkaConsumer, TopicPartition

from cdmtaskservice.domain.records import Transition
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.embedded.stack import create_topic
from cdmtaskservice.events.kafka import BrokerUnavailableError, KafkaConfig, KafkaPublisher, message
from cdmtaskservice.reconciler.relay import Relay
from cdmtaskservice.store.database import Database, StoreUnavailableError
from cdmtaskservice.store.jobs import JobStore, OwedJob
from test.stand_ins.clockwork import START, FakeClock, eventually
from test.stand_ins.job_house import GOOD, a_job

S = JobState


@pytest.fixture(autouse=True)
def quiet():
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database)


class FakePublisher:
    """A broker that takes what it is given, and fails where it is told.

    before, after: called with the number of the call; raising from `after` means that the message was taken.
    """

    def __init__(
        self, before: Callable[[int], None] = lambda n: None, after: Callable[[int], None] = lambda n: None
    ) -> None:
        self.taken: list[tuple[str, Transition]] = []
        self._calls = 0
        self._before = before
        self._after = after

    async def publish(self, job_id: str, transition: Transition) -> None:
        self._calls += 1
        number = self._calls
        self._before(number)
        await asyncio.sleep(0)
        self.taken.append((job_id, transition))
        self._after(number)


def relay(jobs: JobStore, publisher: FakePublisher, clock: FakeClock | None = None, **kwargs) -> Relay:
    values = {"interval": 0.01, "concurrency": 3} | kwargs
    return Relay(jobs, publisher, clock or FakeClock(), **values)


@contextlib.asynccontextmanager
async def running(*relays: Relay) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(r.run()) for r in relays]
    try:
        yield
    finally:
        for r in relays:
            await r.stop()
        done, _ = await asyncio.wait(tasks, timeout=15)
        for task in tasks:
            task.cancel()
        assert len(done) == len(tasks)


async def make(jobs: JobStore, job_id: str, count: int = len(GOOD)) -> None:
    await jobs.insert(a_job(job_id))
    for i, state in enumerate(GOOD[:count]):
        await jobs.transition(job_id, Transition(state, START, f"{job_id}-{i}"))


async def published(jobs: JobStore, clock: FakeClock | None = None) -> None:
    async def nothing_owed() -> bool:
        return (await jobs.owing()).jobs == 0

    await eventually(nothing_owed, tick=(lambda: clock.advance(1)) if clock else None)


async def check_complete(jobs: JobStore, publisher: FakePublisher, job_ids: list[str]) -> None:
    """At least once, first occurrences in order, and what is published is what the job says."""
    for job_id in job_ids:
        job = await jobs.get(job_id)
        firsts = list(dict.fromkeys(t for j, t in publisher.taken if j == job_id))
        assert firsts == list(job.transitions)
        assert job.published == len(job.transitions)


async def test_everything_is_published_in_order_and_once_where_nothing_breaks(jobs):
    publisher = FakePublisher()
    ids = [f"j{i}" for i in range(6)]
    one = relay(jobs, publisher)
    jobs.on_transition = lambda job_id: one.wake()
    async with running(one):
        await asyncio.gather(*(make(jobs, j) for j in ids))
        await published(jobs)
    await check_complete(jobs, publisher, ids)
    assert len(publisher.taken) == 7 * len(ids)


def raising(*numbers: int, error: Exception | None = None) -> Callable[[int], None]:
    def act(number: int) -> None:
        if number in numbers:
            raise error or BrokerUnavailableError("away")

    return act


@pytest.mark.parametrize("error", [None, RuntimeError("a bug")])
@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_publisher_that_fails_at_any_point_loses_nothing(jobs, where, error):
    publisher = FakePublisher(**{where: raising(1, 2, 5, 9, 10, 13, error=error)})
    ids = ["a", "b", "c"]
    for j in ids:
        await make(jobs, j)
    async with running(relay(jobs, publisher)):
        await published(jobs)
    await check_complete(jobs, publisher, ids)


async def test_a_crash_between_acknowledgement_and_record_repeats_messages_under_their_ids(jobs):
    clock = FakeClock()
    publisher = FakePublisher()
    await make(jobs, "j")
    record, lost = jobs.published, []

    async def crashing(job_id, count):
        if len(lost) < 2:
            lost.append(count)
            raise StoreUnavailableError("killed here")
        await record(job_id, count)

    jobs.published = crashing
    async with running(relay(jobs, publisher, clock, lease=60.0)):
        await published(jobs, clock)
    await check_complete(jobs, publisher, ["j"])
    assert lost == [7, 7]
    assert len(publisher.taken) == 21
    assert len({t.trans_id for _, t in publisher.taken}) == 7


async def test_a_relay_that_died_is_taken_over_when_its_lease_is_over(jobs):
    clock = FakeClock()
    publisher = FakePublisher()
    await make(jobs, "j")
    owed = await jobs.lease_owed(clock(), clock() + datetime.timedelta(seconds=60))
    assert owed is not None
    async with running(relay(jobs, publisher, clock)):
        await published(jobs, clock)
    await check_complete(jobs, publisher, ["j"])


async def test_two_relays_at_once_keep_the_order(jobs):
    one, two = FakePublisher(after=raising(4, 11)), FakePublisher(before=raising(3, 8))
    shared: list[tuple[str, Transition]] = []
    one.taken = two.taken = shared
    ids = [f"j{i}" for i in range(8)]
    async with running(relay(jobs, one), relay(jobs, two)):
        await asyncio.gather(*(make(jobs, j) for j in ids))
        await published(jobs)
    await check_complete(jobs, one, ids)


async def test_a_relay_whose_lease_ran_out_while_it_published_takes_nothing_back(jobs):
    """Both publish the same job; the slower one records less, later."""
    publisher = FakePublisher()
    one = relay(jobs, publisher)
    await make(jobs, "j", 3)
    stale = OwedJob("j", (await jobs.get("j")).transitions, 0)
    await jobs.transition("j", Transition(GOOD[3], START, "late"))
    fresh = OwedJob("j", (await jobs.get("j")).transitions, 0)
    assert await one.publish(fresh) == 5
    assert await one.publish(stale) == 4
    job = await jobs.get("j")
    assert (job.published, (await jobs.owing()).jobs) == (5, 0)
    await check_complete(jobs, publisher, ["j"])


async def test_a_transition_that_is_made_while_its_job_is_published_is_owed(jobs):
    publisher = FakePublisher()
    one = relay(jobs, publisher)
    await make(jobs, "j", 1)
    owed = OwedJob("j", (await jobs.get("j")).transitions, 0)
    await jobs.transition("j", Transition(GOOD[1], START, "new"))
    await one.publish(owed)
    assert (await jobs.owing()).jobs == 1
    async with running(one):
        await published(jobs)
    await check_complete(jobs, publisher, ["j"])
    assert len(publisher.taken) == 3


# The broker


@pytest.fixture
async def kafka(stack):
    topic = f"relay-{uuid.uuid4().hex}"
    await create_topic(stack.kafka_bootstrap, topic)
    publisher = KafkaPublisher(KafkaConfig(stack.kafka_bootstrap, topic, timeout=2.0))
    yield publisher
    async with asyncio.timeout(10):
        await publisher.close()


async def read(stack, publisher: KafkaPublisher, at_least: int) -> list[tuple[str, dict]]:
    """Everything on the publisher's topic."""
    topic = publisher._config.topic
    consumer = AIOKafkaConsumer(bootstrap_servers=stack.kafka_bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        found: list[tuple[str, dict]] = []

        async def enough() -> bool:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found.extend((r.key.decode(), json.loads(r.value)) for r in records)
            return len(found) >= at_least

        await eventually(enough)
        return found
    finally:
        await consumer.stop()


def test_a_message_is_what_the_contract_says():
    body = json.loads(message("j", Transition(S.CREATED, START.replace(microsecond=5000), "t-1")))
    time_ = body.pop("time")
    assert body == {"job_id": "j", "state": "created", "trans_id": "t-1"}
    assert time_.endswith("Z")
    assert datetime.datetime.fromisoformat(time_) == START.replace(microsecond=5000)


async def test_a_publication_that_is_cut_off_sends_nothing_afterwards():
    """Else its message could come after those of whoever goes on with the job."""
    happened = []

    class Producer:
        async def send_and_wait(self, *_: object, **__: object) -> None:
            happened.append("sending")
            await asyncio.Event().wait()

        async def stop(self) -> None:
            await asyncio.sleep(0)
            happened.append("stopped")

    publisher = KafkaPublisher(KafkaConfig("127.0.0.1:1", "t", timeout=60.0))
    publisher._producer = Producer()
    task = asyncio.create_task(publisher.publish("j", Transition(S.CREATED, START, "t-1")))
    while not happened:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert happened == ["sending", "stopped"]
    assert publisher._producer is None


async def test_a_topic_that_is_missing_is_made(stack):
    publisher = KafkaPublisher(KafkaConfig(stack.kafka_bootstrap, f"relay-{uuid.uuid4().hex}", timeout=5.0))
    try:
        await publisher.check()
        await publisher.publish("j", Transition(S.CREATED, START, "t-1"))
        assert len(await read(stack, publisher, 1)) == 1
    finally:
        await publisher.close()


@pytest.mark.parametrize("jobs", ["mongomock"], indirect=True)
async def test_the_broker_is_told_all_in_order_with_the_job_as_key(jobs, stack, kafka):
    ids = ["a", "b", "c"]
    async with running(relay(jobs, kafka)):
        await asyncio.gather(*(make(jobs, j) for j in ids))
        await published(jobs)
    found = await read(stack, kafka, 21)
    assert len(found) == 21
    for job_id in ids:
        job = await jobs.get(job_id)
        told = [json.dumps(body).encode() for key, body in found if key == job_id]
        assert told == [message(job_id, t) for t in job.transitions]


@pytest.mark.parametrize("jobs", ["mongomock"], indirect=True)
async def test_an_outage_of_the_broker_loses_nothing(jobs, stack, kafka):
    async with running(relay(jobs, kafka)):
        await make(jobs, "before")
        await published(jobs)
        await asyncio.to_thread(stack.broker.stop)
        await make(jobs, "during")
        start = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            await kafka.publish("x", Transition(S.CREATED, START, "x"))
        assert time.monotonic() - start < 2 + 2 + 2 + 2  # a timeout, and what it takes to let go of the old producer
        assert (await jobs.owing()).jobs == 1
        await asyncio.to_thread(stack.broker.start)
        await make(jobs, "after")
        await eventually(lambda: _none_owed(jobs), within=30)
    found = await read(stack, kafka, 21)
    for job_id in ("before", "during", "after"):
        job = await jobs.get(job_id)
        firsts = list(dict.fromkeys(body["trans_id"] for key, body in found if key == job_id))
        assert firsts == [t.trans_id for t in job.transitions]


async def _none_owed(jobs: JobStore) -> bool:
    return (await jobs.owing()).jobs == 0


async def test_a_broker_that_hangs_is_not_waited_for(stack, kafka):
    await kafka.publish("j", Transition(S.CREATED, START, "t-1"))
    tasks = len(asyncio.all_tasks())
    stack.broker.suspend()
    for number in (2, 3):
        start = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            await kafka.publish("j", Transition(S.CREATED, START, f"t-{number}"))
        assert time.monotonic() - start < 8
    start = time.monotonic()
    await kafka.close()
    assert time.monotonic() - start < 5

    async def nothing_is_left_running() -> bool:
        return len(asyncio.all_tasks()) <= tasks

    await eventually(nothing_is_left_running)
    stack.broker.resume()
    await kafka.publish("j", Transition(S.DOWNLOAD_SUBMITTED, START, "t-4"))
    found = await read(stack, kafka, 2)
    assert {"t-1", "t-4"} <= {body["trans_id"] for _, body in found}


async def test_closing_while_the_broker_hangs_ends(stack, kafka):
    await kafka.publish("j", Transition(S.CREATED, START, "t-1"))
    stack.broker.suspend()
    sending = asyncio.create_task(kafka.publish("j", Transition(S.CREATED, START, "t-2")))
    await asyncio.sleep(0)
    start = time.monotonic()
    await kafka.close()
    assert time.monotonic() - start < 5
    with contextlib.suppress(BrokerUnavailableError):
        await sending
    stack.broker.resume()


async def test_a_relay_that_is_cut_off_leaves_nothing_leased(jobs):
    """Neither what it is publishing, nor what the database was giving it just then."""
    await jobs.insert(a_job("j"))
    await jobs.insert(a_job("k"))
    publishing, taking = asyncio.Event(), asyncio.Event()
    real = jobs.lease_owed

    class Hanging:
        async def publish(self, job_id, transition):
            publishing.set()
            await asyncio.Event().wait()

    async def slowly_at_last(*arguments):
        if publishing.is_set():
            taking.set()
            await asyncio.sleep(0)
        return await real(*arguments)

    jobs.lease_owed = slowly_at_last
    clock = FakeClock()
    relay = Relay(jobs, Hanging(), clock, lease=1000.0)
    running = asyncio.create_task(relay.run())
    await publishing.wait()
    await taking.wait()
    await relay.stop()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    jobs.lease_owed = real
    until = clock() + datetime.timedelta(seconds=9)
    found = [await jobs.lease_owed(clock(), until) for _ in range(2)]
    assert {owed.id for owed in found} == {"j", "k"}
    assert [owed.published for owed in found] == [0, 0]
