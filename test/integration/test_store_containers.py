"""Containers, files and claims in the store, on every database that can be had."""

import asyncio

import pytest

from cdmtaskservice.domain.records import InputFiles, OutputFiles, Progress, Reached, Usage
from cdmtaskservice.domain.states import JobState, Outcome
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import CHUNK, FileStore
from test.integration.store_room import NOW, after

S = JobState


def reached(at: float) -> Reached:
    return Reached(after(at - 50), after(at))


async def test_reports_in_any_order_and_number_end_alike(database):
    containers = ContainerStore(database)
    await containers.insert("j", 2, NOW)
    path = [
        S.DOWNLOAD_SUBMITTED,
        S.JOB_SUBMITTING,
        S.JOB_SUBMITTED,
        S.UPLOAD_SUBMITTING,
        S.UPLOAD_SUBMITTED,
        S.COMPLETE,
    ]
    for state in path:
        assert await containers.report("j", 0, state, reached(1), exit_code=0) is Outcome.APPLIED
    for state in [*reversed(path), *path]:
        await containers.report("j", 1, state, reached(1), exit_code=0)
    one, two = await containers.list("j")
    assert one.state is two.state is S.COMPLETE
    assert one.reached == two.reached
    assert set(one.reached) == {S.CREATED, *path}
    assert one.reached[S.COMPLETE] == reached(1)
    assert await containers.exit_codes("j") == [0, 0]


async def test_the_first_of_two_ends_stands(database):
    containers = ContainerStore(database)
    await containers.insert("j", 1, NOW)
    await containers.report("j", 0, S.COMPLETE, reached(1), outputs=OutputFiles(["b/k"], ["c"]))
    assert await containers.report("j", 0, S.ERROR, reached(2), error="no") is Outcome.CONFLICT
    assert await containers.report("j", 0, S.ERROR_PROCESSING_SUBMITTING, reached(2)) is Outcome.CONFLICT
    container = await containers.get("j", 0)
    assert (container.state, container.error, container.outputs) == (S.COMPLETE, None, OutputFiles(["b/k"], ["c"]))
    assert await containers.report("j", 7, S.COMPLETE, reached(1)) is Outcome.MISSING


async def test_a_superseded_attempt_is_not_heard(database):
    containers = ContainerStore(database)
    await containers.insert("j", 1, NOW)
    assert (await containers.claim("j", 0, 1, "me", NOW)).claim == "me"
    assert (await containers.claim("j", 0, 1, "me", NOW)).claim == "me"
    assert await containers.claim("j", 0, 1, "you", NOW) is None
    await containers.report("j", 0, S.JOB_SUBMITTED, reached(1), attempt=1, usage=Usage(1.0, 2.0, 3))
    begun = await containers.next_attempt("j", 0, 1, after(5), "gone")
    assert (begun.attempt, begun.state, begun.claim, set(begun.reached)) == (2, S.CREATED, None, {S.CREATED})
    assert await containers.next_attempt("j", 0, 1, after(5), "gone") is None
    assert await containers.report("j", 0, S.COMPLETE, reached(9), attempt=1) is Outcome.CONFLICT
    assert not await containers.heartbeat("j", 0, 1, after(9), Progress("pulling", 0, 0), None)
    assert await containers.heartbeat("j", 0, 2, after(9), Progress("running", 1, 2), "told to end")
    container = await containers.get("j", 0)
    assert (container.seen, container.ending, container.state) == (after(9), "told to end", S.CREATED)
    assert container.progress == Progress("running", 1, 2)
    assert (await containers.next_attempt("j", 0, 2, after(10), "gone")).progress is None
    assert (await containers.claim("j", 0, 3, "you", NOW)).attempt == 3


async def test_the_tally_counts_states_and_keeps_the_latest_times(database):
    containers = ContainerStore(database)
    await containers.insert("j", 3, NOW)
    await containers.insert("other", 5, NOW)
    await containers.report("j", 0, S.DOWNLOAD_SUBMITTED, reached(1))
    await containers.report("j", 0, S.JOB_SUBMITTED, reached(7))
    await containers.report("j", 1, S.DOWNLOAD_SUBMITTED, reached(5))
    tally = await containers.tally("j")
    assert tally.counts == {S.CREATED: 1, S.DOWNLOAD_SUBMITTED: 1, S.JOB_SUBMITTED: 1}
    assert tally.latest == {S.CREATED: NOW, S.DOWNLOAD_SUBMITTED: after(5), S.JOB_SUBMITTED: after(7)}
    assert [c.number for c in await containers.live("j")] == [0, 1, 2]
    await containers.report("j", 1, S.ERROR, reached(9))
    assert [c.number for c in await containers.live("j")] == [0, 2]


@pytest.mark.parametrize("with_ids", [True, False])
async def test_inputs_come_back_whole_and_in_slices(database, with_ids):
    files = FileStore(database)
    n = 2 * CHUNK + 7
    inputs = InputFiles(
        [f"b/k {i}'\"é" for i in range(n)],
        [f"c{i}" for i in range(n)],
        list(range(n)),
        [f"k{i}" for i in range(n)],
        [f"d{i}" for i in range(n)] if with_ids else None,
    )
    await files.insert_inputs("j", inputs)
    assert await files.inputs("j") == inputs
    for start, stop in [(0, 1), (0, CHUNK), (CHUNK - 1, CHUNK + 1), (CHUNK, 2 * CHUNK), (2 * CHUNK + 6, n), (3, n)]:
        assert await files.inputs("j", start, stop) == inputs.part(start, stop)
    await files.delete("j")
    assert len(await files.inputs("j")) == 0


async def test_outputs_may_be_stored_again(database):
    files = FileStore(database)
    outputs = OutputFiles([f"b/{i}" for i in range(CHUNK + 1)], ["c"] * (CHUNK + 1))
    for _ in range(2):
        await files.put_outputs("j", outputs)
        await files.put_outputs("j", OutputFiles(["b/x"], ["y"]), container=3, attempt=2)
    assert await files.outputs("j") == outputs
    for start, stop in [(0, 1), (CHUNK - 1, CHUNK + 1), (CHUNK, CHUNK + 1), (3, None), (CHUNK, None)]:
        assert (await files.outputs("j", start, stop)).files == outputs.files[start:stop]
    assert await files.outputs("j", container=3, attempt=2) == OutputFiles(["b/x"], ["y"])
    assert len(await files.outputs("j", container=3, attempt=1)) == 0


async def test_an_output_path_has_one_owner(database):
    files = FileStore(database)
    assert await files.claim_outputs("j", 0, ["a", "b"]) is None
    assert await files.claim_outputs("j", 0, ["b", "c"]) is None
    assert await files.claim_outputs("j", 1, ["d", "c"]) == ("c", 0)
    assert await files.claim_outputs("k", 1, ["c"]) is None
    results = await asyncio.gather(*(files.claim_outputs("j", n, ["same"]) for n in range(5)))
    assert sum(r is None for r in results) == 1
    await files.release_claims("j")
    assert await files.claim_outputs("j", 1, ["a", "c"]) is None


async def test_containers_that_are_one_run_come_along_together(database):
    containers = ContainerStore(database)
    await containers.insert("j", 3, NOW)
    await containers.report("j", 1, S.ERROR, Reached(NOW, NOW), error="x")
    await containers.advance("j", S.JOB_SUBMITTED, after(5))
    await containers.advance("j", S.DOWNLOAD_SUBMITTED, after(6))  # never back
    found = await containers.list("j")
    assert [c.state for c in found] == [S.JOB_SUBMITTED, S.ERROR, S.JOB_SUBMITTED]
    assert found[0].reached[S.JOB_SUBMITTED] == Reached(after(5), after(5))


async def test_claims_that_are_released_while_they_are_made_once_more(database):
    """As by a report that comes twice when the job has just ended."""
    files = FileStore(database)
    assert await files.claim_outputs("j", 0, ["x", "y"]) is None
    claims = files._claims

    class Ending:
        async def insert_many(self, *args, **kwargs):
            try:
                await claims.insert_many(*args, **kwargs)
            finally:
                await files.release_claims("j")

        def __getattr__(self, name):
            return getattr(claims, name)

    files._claims = Ending()
    assert await files.claim_outputs("j", 0, ["x", "y"]) is None
