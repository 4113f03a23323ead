"""What the service does outside of itself is counted and timed, whether it works, is refused or fails."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

import pytest
from pydantic import SecretStr

from cdmtaskservice.auth.kbase import KBaseAuthenticator, KBaseAuthOptions
from cdmtaskservice.domain.errors import (
    CTSError,
    DependencyUnavailableError,
    ImageFetchError,
    InvalidTokenError,
    NoSuchS3PathError,
)
from cdmtaskservice.domain.records import Transition
from cdmtaskservice.domain.refdata import StagingRecord, StagingTransition
from cdmtaskservice.domain.states import JobState, RefdataState
from cdmtaskservice.embedded.image import Pushed
from cdmtaskservice.embedded.part import free_ports
from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.events.kafka import KafkaConfig, KafkaPublisher
from cdmtaskservice.registry.crane import Crane
from cdmtaskservice.registry.names import ImageName
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Config
from cdmtaskservice.services.numbers import LookLag, Numbers
from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.htcondor.gateway import Gateway, PoolRefusedError
from cdmtaskservice.sites.jaws.central import JawsCentral, NoSuchRunError
from cdmtaskservice.sites.jaws.config import JawsConfig, NerscConfig
from cdmtaskservice.sites.jaws.nersc import Nersc
from cdmtaskservice.store.database import Database
from cdmtaskservice.store.stagings import StagingStore
from test.integration.workers_room import Room, update
from test.stand_ins.clockwork import START
from test.stand_ins.job_house import GOOD, JobHouse, R
from test.stand_ins.kbase_auth import KBaseAuthStandIn
from test.stand_ins.nersc.part import NerscSite
from test.stand_ins.noted_meter import NotedMeter

S = JobState

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def meter() -> NotedMeter:
    return NotedMeter()


@pytest.fixture
def nowhere() -> str:
    """An address at which nobody listens."""
    [port] = free_ports(1)
    return f"127.0.0.1:{port}"


# Other systems


async def test_s3(stack: EmbeddedStack, meter: NotedMeter, nowhere: str) -> None:
    account = stack.s3
    config = S3Config(account.url, account.access_key, SecretStr(account.secret_key))
    async with S3Client.create(config, meter=meter) as s3:
        bucket = f"metered-{uuid.uuid4().hex[:8]}"
        await s3.create_bucket(bucket)
        await s3.put(f"{bucket}/a", b"a")
        assert {("create_bucket", "ok"), ("put_object", "ok")} <= meter.outcomes("s3")
        await s3.head(f"{bucket}/a")
        with pytest.raises(NoSuchS3PathError):
            await s3.head(f"{bucket}/b")
        assert {("head_object", "ok"), ("head_object", "refused")} <= meter.outcomes("s3")
        assert "error" not in {outcome for _, outcome in meter.outcomes("s3")}
    away = S3Config(f"http://{nowhere}", "a", SecretStr("b"))
    async with S3Client.create(away, meter=meter) as s3:
        with pytest.raises(DependencyUnavailableError):
            await s3.head(f"{bucket}/a")
        with pytest.raises(DependencyUnavailableError):
            await s3.check()
    assert meter.calls["s3", "head_object", "error"] == meter.calls["s3", "list_buckets", "error"] == 1


async def test_the_database(stack: EmbeddedStack, meter: NotedMeter, nowhere: str) -> None:
    database = Database.connect(stack.mongo_uri, f"test-{uuid.uuid4().hex}", 5, meter)
    await database.check()
    await database.create_indexes()
    database.close()
    assert {("ping", "ok"), ("createIndexes", "ok")} <= meter.outcomes("database")
    away = Database.connect(f"mongodb://{nowhere}/?directConnection=true", "x", 0.2, meter)
    with pytest.raises(DependencyUnavailableError):
        await away.check()
    away.close()
    assert ("heartbeat", "error") in meter.outcomes("database")


async def test_kafka(stack: EmbeddedStack, meter: NotedMeter, nowhere: str) -> None:
    transition = Transition(S.CREATED, START, "t")
    publisher = KafkaPublisher(KafkaConfig(stack.kafka_bootstrap, f"metered-{uuid.uuid4().hex}"), meter)
    await publisher.publish("j", transition)
    await publisher.check()
    await publisher.close()
    away = KafkaPublisher(KafkaConfig(nowhere, "t", timeout=1), meter)
    with pytest.raises(DependencyUnavailableError):
        await away.publish("j", transition)
    assert meter.calls == {
        ("kafka", "publish", "ok"): 1,
        ("kafka", "metadata", "ok"): 1,
        ("kafka", "publish", "error"): 1,
    }


async def test_the_auth_service(meter: NotedMeter, nowhere: str) -> None:
    good, bad = "A" * 32, "B" * 32
    with KBaseAuthStandIn() as stand_in:
        stand_in.add_user("ann", good, [])
        async with KBaseAuthenticator(stand_in.url, meter=meter) as auth:
            await auth.check()
            for _ in range(3):
                await auth.authenticate(good)
            await auth.user_exists("ann", good)
            with pytest.raises(InvalidTokenError):
                await auth.authenticate(bad)
    options = KBaseAuthOptions(attempts=2, backoff=0.001)
    async with KBaseAuthenticator(f"http://{nowhere}", options, meter=meter) as away:
        with pytest.raises(DependencyUnavailableError):
            await away.authenticate(good)
    assert meter.calls == {
        ("auth", "root", "ok"): 1,
        ("auth", "me", "ok"): 1,  # what is remembered is not asked
        ("auth", "users", "ok"): 1,
        ("auth", "me", "refused"): 1,
        ("auth", "me", "error"): 1,  # with all its tries
    }


async def test_registries(stack: EmbeddedStack, seqtool_image: Pushed, meter: NotedMeter, nowhere: str) -> None:
    crane = Crane(stack.crane, timeout=20, meter=meter)
    await crane.resolve(ImageName.parse(seqtool_image.by_tag))
    assert meter.calls == {("registry", "digest", "ok"): 1, ("registry", "config", "ok"): 1}
    for name in (f"{seqtool_image.name}:none", f"{nowhere}/a/b:1"):
        with pytest.raises(ImageFetchError):
            await crane.resolve(ImageName.parse(name))
    assert meter.calls["registry", "digest", "refused"] == meter.calls["registry", "digest", "error"] == 1


ANSWERS = """\
import json, sys
for line in sys.stdin.buffer:
    asked = json.loads(sys.stdin.buffer.read(int(line)))
    if asked["call"] == "die":
        break
    told = {"value": 1} if asked["call"] == "ping" else {"error": "no", "refused": asked["call"] == "submit"}
    data = json.dumps(told).encode()
    sys.stdout.buffer.write(b"%d\\n" % len(data) + data)
    sys.stdout.buffer.flush()
"""


async def test_htcondor(meter: NotedMeter) -> None:
    gateway = Gateway("pool", command=(sys.executable, "-c", ANSWERS), meter=meter)
    await gateway.call("ping", 10)
    with pytest.raises(PoolRefusedError):
        await gateway.call("submit", 10)
    for call in ("query", "die"):
        with pytest.raises(SiteUnreachableError):
            await gateway.call(call, 10)
    await gateway.close()
    assert meter.calls == {
        ("htcondor", "ping", "ok"): 1,
        ("htcondor", "submit", "refused"): 1,
        ("htcondor", "query", "error"): 1,
        ("htcondor", "die", "error"): 1,
    }


async def test_jaws_and_nersc(stack: EmbeddedStack, meter: NotedMeter, tmp_path: Path) -> None:
    site = NerscSite(stack.root / "metered-nersc", stack.logs / "metered-nersc.log", stack.launcher, stack.podman)
    site.start()
    nersc = Nersc(
        NerscConfig(
            site.sfapi_url, site.token_url, site.nersc_user, site.credentials_file, str(site.code_dir), timeout=2.0
        ),
        meter,
    )
    jaws = JawsConfig(
        site.jaws_url, site.jaws_user, site.jaws_token_file, site.jaws_team, "jaws", "/s", "/S", "/o", "/O", "/x"
    )
    central = JawsCentral(jaws, meter)
    try:
        await nersc.check()
        assert await nersc.download("dtns", f"{site.code_dir}/none") is None
        await central.site_down("kbase")
        with pytest.raises(NoSuchRunError):
            await central.run("4711")
        assert meter.calls == {
            ("nersc", "account", "ok"): 1,
            ("nersc", "download", "ok"): 1,
            ("jaws", "user", "ok"): 1,
            ("jaws", "status", "ok"): 1,
            ("jaws", "run", "refused"): 1,
        }
        site.kill()
        with pytest.raises(SiteUnreachableError):
            await central.site_down("kbase")
        site.start()
        site.switch(sfapi_error=500)
        with pytest.raises(SiteUnreachableError):
            await nersc.begin("dtns", ["true"])
        assert meter.calls["jaws", "status", "error"] == meter.calls["nersc", "command", "error"] == 1
    finally:
        await nersc.close()
        await central.close()
        site.stop()


# The service's own work


async def test_how_long_jobs_are_in_each_state(house: JobHouse) -> None:
    async with house.reconciling():
        await house.submitted()
        await house.finish(R)
        job = await house.until_state(S.COMPLETE)
        job = await house.until_settled()
    stayed = [
        ("here", before.state.value, (after.time - before.time).total_seconds())
        for before, after in zip(job.transitions, job.transitions[1:], strict=False)
    ]
    assert house.meter.left == stayed
    assert [state for _, state, _ in stayed] == ["created", *(s.value for s in GOOD[:-1])]


async def test_looks_by_what_came_of_them(quick: JobHouse) -> None:
    async with quick.reconciling():
        await quick.submitted()
        await quick.until_run(R)
        quick.site.unreachable = "it is away"
        await quick.until(lambda: _seen(quick, ("job", "unavailable")))
        quick.site.unreachable = None
        await quick.finish(R)
        await quick.until_settled()
    assert {("job", "waits"), ("job", "unavailable"), ("job", "done")} <= set(quick.meter.looks)
    assert quick.meter.late
    assert min(quick.meter.late) >= 0


async def _seen(house: JobHouse, look: tuple[str, str]) -> bool:
    return house.meter.looks[look] > 0


async def test_a_look_that_begins_late_says_by_how_much(quick: JobHouse) -> None:
    await quick.submitted()
    quick.clock.advance(90)
    async with quick.reconciling():
        await quick.until(lambda: _seen(quick, ("job", "waits")), ticking=False)
    assert quick.meter.late[0] == 90.0


async def test_what_executors_report(room: Room) -> None:
    await room.accept()
    _, claim = await room.claim()
    for _ in range(2):  # one that comes again is no news
        await room.workers.update(claim, "j", 0, S.DOWNLOAD_SUBMITTED, update(room))
    with pytest.raises(CTSError):
        await room.workers.update(claim, "j", 0, S.CANCELED, update(room))
    assert room.meter.reports == {("here", "claim"): 1, ("here", "download_submitted"): 1}


async def test_what_the_store_says(house: JobHouse) -> None:
    stagings = StagingStore(house.database)
    numbers = Numbers(house.jobs, stagings, house.clock)
    empty = await numbers.gauges()
    assert (empty.jobs, empty.owed, empty.messages, empty.owed_seconds) == ({}, 0, 0, 0.0)
    assert empty.lag == {"job": LookLag(0, 0.0), "staging": LookLag(0, 0.0)}
    for number in range(3):
        await house.submitted(f"j{number}")
    house.clock.advance(10)
    await house.jobs.transition("j1", Transition(S.DOWNLOAD_SUBMITTED, house.clock(), "t1"))
    await house.jobs.set_fields("j2", {"waiting": "for good weather"})
    await house.jobs.transition("j0", Transition(S.CANCELING, house.clock(), "t0"))
    await house.jobs.transition("j0", Transition(S.CANCELED, house.clock(), "t00"))
    await house.jobs.published("j2", 1)
    await stagings.insert(
        StagingRecord("r", "here", RefdataState.CREATED, (StagingTransition(RefdataState.CREATED, START),))
    )
    house.clock.advance(4)
    assert await numbers.gauges() is not empty
    house.clock.advance(1)
    assert (await numbers.gauges()).owed_seconds == 14.0, "numbers are good for some seconds"
    house.clock.advance(4)
    found = await numbers.gauges()
    assert found.jobs == {("here", "created"): 1, ("here", "download_submitted"): 1, ("here", "canceled"): 1}
    assert found.waiting == {("here", "created"): 1, ("here", "download_submitted"): 0}
    assert found.oldest == {("here", "created"): 19.0, ("here", "download_submitted"): 9.0}
    # j0 owes three and j1 two, the first of which was made at the start.
    assert (found.owed, found.messages, found.owed_seconds) == (2, 5, 19.0)
    # Nobody has looked at any of them.
    assert found.lag["job"] == LookLag(3, 19.0)
    assert found.lag["staging"].due == 1
    assert found.stagings == {("here", "created"): 1}


async def test_a_store_that_is_silent_does_not_hold_up_the_numbers(house: JobHouse, monkeypatch) -> None:
    monkeypatch.setattr("cdmtaskservice.services.numbers.PATIENCE", 0.01)

    async def silent() -> None:
        await asyncio.Event().wait()

    house.jobs.counts = silent
    numbers = Numbers(house.jobs, StagingStore(house.database), house.clock)
    for _ in range(2):
        with pytest.raises(DependencyUnavailableError, match="does not tell its numbers"):
            await numbers.gauges()
