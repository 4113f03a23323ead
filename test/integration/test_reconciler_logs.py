"""What is logged during a look says of which job, and at which site, whoever writes it."""

from __future__ import annotations

import datetime

import structlog
from structlog.testing import capture_logs

from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.reconciler.loop import Next
from cdmtaskservice.reconciler.relay import Relay
from test.stand_ins.job_house import JobHouse, R

MERGED = [structlog.contextvars.merge_contextvars]
_log = structlog.get_logger("a.site")


class Talking:
    """A step that logs as those below it do, without a word of the job."""

    def __init__(self, step) -> None:
        self._step = step

    async def look(self, job: JobRecord, *, full: bool, reachable_since: datetime.datetime) -> Next:
        _log.info("asked_the_engine")
        return await self._step.look(job, full=full, reachable_since=reachable_since)


async def test_a_look(quick: JobHouse) -> None:
    with capture_logs(processors=MERGED) as logs:
        async with quick.reconciling(step=Talking(quick.step())):
            for job_id in ("j", "k"):
                await quick.submitted(job_id)
            await quick.until_run(R)
            quick.site.unreachable = "it is away"

            async def both_failed() -> bool:
                failed = {line["job"] for line in logs if line["event"] == "look_will_be_repeated"}
                return failed == {"j", "k"}

            await quick.until(both_failed)
            quick.site.unreachable = None
    told = [line for line in logs if line["event"] in {"asked_the_engine", "look_will_be_repeated"}]
    assert {(line["job"], line["site"]) for line in told} == {("j", "here"), ("k", "here")}
    assert "staging" not in {key for line in logs for key in line}


async def test_publishing(quick: JobHouse) -> None:
    await quick.submitted()

    class Talks:
        async def publish(self, job_id, transition):
            _log.info("published")

    relay = Relay(quick.jobs, Talks(), quick.clock)
    owed = await quick.jobs.lease_owed(quick.clock(), quick.clock())
    with capture_logs(processors=MERGED) as logs:
        await relay.publish(owed)
    assert [(line["event"], line["job"]) for line in logs] == [("published", "j")]
