"""The store, on every database that can be had: the same tests must pass on all of them."""

import asyncio
import dataclasses
import datetime
import os
import uuid

import pytest
from mongomock_motor import AsyncMongoMockClient

from cdmtaskservice.domain.errors import DependencyUnavailableError, ImageDigestExistsError, ImageTagExistsError
from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.records import (
    ImageRecord,
    InputFiles,
    JobRecord,
    OutputFiles,
    Progress,
    Reached,
    Transition,
    Usage,
)
from cdmtaskservice.domain.states import JobState, Outcome
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.database import INDEXES, Database
from cdmtaskservice.store.files import CHUNK, FileStore
from cdmtaskservice.store.images import ImageStore
from cdmtaskservice.store.jobs import JobStore
from cdmtaskservice.store.looks import Lease
from cdmtaskservice.store.sites import SiteStore

S = JobState
NOW = datetime.datetime(2030, 1, 1, 12, 0, 0, 123000, tzinfo=datetime.UTC)


def after(seconds: float) -> datetime.datetime:
    return NOW + datetime.timedelta(seconds=seconds)


# No MongoDB server can be set up from package registries; where there is one, its URL may be given.
MONGODB = os.environ.get("CTS_TEST_MONGO_URL")


@pytest.fixture(params=["mongomock", "wire", *(["mongodb"] if MONGODB else [])])
async def database(request):
    name = f"test-{uuid.uuid4().hex}"
    if request.param == "mongomock":
        database = Database(AsyncMongoMockClient(), name)
    elif request.param == "wire":
        database = Database.connect(request.getfixturevalue("stack").mongo_uri, name, 5)
    else:
        database = Database.connect(MONGODB, name, 5)
    await database.create_indexes()
    yield database
    database.close()


IMAGE = ImageRecord("docker.io/a/b", "sha256:" + "0" * 64, ("/run",), "admin", NOW, tag="1.0")


def a_job(job_id: str, *, user: str = "ann", at: datetime.datetime = NOW, site: str = "here", **kwargs) -> JobRecord:
    return JobRecord(
        id=job_id,
        user=user,
        site=site,
        input={"cpus": 1, "memory": 10, "params": {"args": ["it's", 'a "q"', "ü"]}, "tags": kwargs.pop("tags", [])},
        image=IMAGE,
        input_file_count=3,
        containers=2,
        runtime=60.0,
        state=S.CREATED,
        transitions=(Transition(S.CREATED, at, f"t-{job_id}"),),
        **kwargs,
    )


def to(state: JobState, at: datetime.datetime = NOW) -> Transition:
    return Transition(state, at, f"t-{uuid.uuid4()}")


async def test_a_job_comes_back_as_it_was_stored(database):
    jobs = JobStore(database)
    job = a_job("j", logpath="logs/j/")
    assert await jobs.insert(job)
    assert await jobs.get("j") == JobRecord(
        **{**fields(job), "next_look": datetime.datetime.fromtimestamp(0, datetime.UTC)}
    )
    assert await jobs.get("other") is None


def fields(job: JobRecord) -> dict:
    return {name: getattr(job, name) for name in JobRecord.__dataclass_fields__}


async def test_transitions_have_four_outcomes(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("j"))
    outcome, job = await jobs.transition("j", to(S.DOWNLOAD_SUBMITTED, after(1)), {"error": "why"})
    assert (outcome, job.state, job.error) == (Outcome.APPLIED, S.DOWNLOAD_SUBMITTED, "why")
    assert [t.state for t in job.transitions] == [S.CREATED, S.DOWNLOAD_SUBMITTED]
    assert job.transitions[1].time == after(1)
    outcome, job = await jobs.transition("j", to(S.DOWNLOAD_SUBMITTED, after(2)))
    assert (outcome, len(job.transitions)) == (Outcome.REPLAYED, 2)
    outcome, job = await jobs.transition("j", to(S.COMPLETE))
    assert (outcome, job.state) == (Outcome.CONFLICT, S.DOWNLOAD_SUBMITTED)
    assert (await jobs.transition("none", to(S.ERROR)))[0] is Outcome.MISSING


async def test_times_of_transitions_never_go_backwards(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("j"))
    _, job = await jobs.transition("j", to(S.DOWNLOAD_SUBMITTED, after(-100)))
    assert job.transitions[1].time == NOW


async def test_of_two_transitions_in_one_instant_one_wins(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("j"))
    results = await asyncio.gather(*(jobs.transition("j", to(S.DOWNLOAD_SUBMITTED)) for _ in range(10)))
    assert sorted(o.value for o, _ in results) == ["applied"] + ["replayed"] * 9
    assert len((await jobs.get("j")).transitions) == 2


async def test_an_idempotency_key_makes_one_job(database):
    jobs = JobStore(database)
    assert await jobs.insert(a_job("a"), ("ann/key", "hash"))
    assert not await jobs.insert(a_job("b"), ("ann/key", "hash"))
    assert await jobs.get("b") is None
    assert await jobs.find_idempotent("ann/key") == ("a", "hash")
    assert await jobs.find_idempotent("bob/key") is None
    assert await jobs.insert(a_job("c"))
    assert await jobs.insert(a_job("d"))


async def test_a_lease_is_held_by_one(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("j"))
    taken = await asyncio.gather(*(jobs.lease("j", Lease(f"p{i}", after(30)), NOW) for i in range(8)))
    assert len([t for t in taken if t]) == 1
    assert await jobs.due(after(1), 10) == []
    assert await jobs.lease("j", Lease("late", after(60)), after(31)) is not None


async def test_release_says_when_to_look_again(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("j"))
    assert await jobs.due(NOW, 10) == ["j"]
    job = await jobs.lease("j", Lease("me", after(30)), NOW)
    assert await jobs.release(job, "me", next_look=after(5), failures=2, waiting="why")
    assert await jobs.due(after(4), 10) == []
    assert await jobs.due(after(5), 10) == ["j"]
    job = await jobs.get("j")
    assert (job.failures, job.waiting, job.next_look) == (2, "why", after(5))
    await jobs.look_soon("j", after(1))
    assert await jobs.due(after(1), 10) == ["j"]
    await jobs.look_soon("j", after(3))
    assert (await jobs.get("j")).next_look == after(1)
    job = await jobs.lease("j", Lease("me", after(30)), NOW)
    assert await jobs.release(job, "me", next_look=None)
    assert await jobs.due(after(1000), 10) == []
    await jobs.look_soon("j", NOW)
    assert await jobs.due(after(1000), 10) == []


async def test_what_others_did_during_a_look_is_not_overwritten(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("j"))
    job = await jobs.lease("j", Lease("me", after(30)), NOW)
    await jobs.transition("j", to(S.CANCELING))
    assert not await jobs.release(job, "me", next_look=None)
    assert await jobs.due(NOW, 10) == ["j"]


async def test_a_lost_lease_changes_nothing(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("j"))
    job = await jobs.lease("j", Lease("me", after(1)), NOW)
    await jobs.lease("j", Lease("you", after(60)), after(2))
    assert not await jobs.extend("j", Lease("me", after(60)))
    assert await jobs.extend("j", Lease("you", after(90)))
    await jobs.release(job, "me", next_look=None)
    assert await jobs.lease("j", Lease("third", after(99)), after(80)) is None


async def test_the_outbox_publishes_in_order_and_forgets_nothing(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("j"))
    owed = await jobs.lease_owed(NOW, after(10))
    assert (owed.id, owed.published, [t.state for t in owed.transitions]) == ("j", 0, [S.CREATED])
    assert await jobs.lease_owed(after(1), after(10)) is None
    await jobs.transition("j", to(S.DOWNLOAD_SUBMITTED))
    await jobs.published("j", 1)
    owed = await jobs.lease_owed(NOW, after(10))
    assert (owed.published, len(owed.transitions)) == (1, 2)
    assert (await jobs.owing()).jobs == 1
    await jobs.published("j", 2)
    assert await jobs.lease_owed(NOW, after(10)) is None
    assert (await jobs.owing()).jobs == 0
    await jobs.published("j", 1)  # a late record by a slower process takes nothing back
    assert (await jobs.get("j")).published == 2


async def test_overdue_messages_are_those_of_old_changes(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("old"))
    await jobs.insert(a_job("new", at=after(100)))
    assert [o.id for o in await jobs.overdue(after(50), 10)] == ["old"]


async def test_listing_filters_and_pages(database):
    jobs = JobStore(database)
    for i in range(5):
        await jobs.insert(a_job(f"j{i}", at=after(i // 2), tags=[f"t{i % 2}", "all"]))
    await jobs.insert(a_job("other", user="bob", site="there", at=after(9)))
    await jobs.transition("j0", to(S.ERROR, after(20)))

    async def ids(**kwargs):
        return [j.id for j in await jobs.list(JobFilter(**kwargs))]

    assert await ids(user="ann") == ["j0", "j4", "j3", "j2", "j1"]
    assert await ids(user="ann", limit=2) == ["j0", "j4"]
    assert await ids(user="ann", limit=3, cursor=(after(1), "j3")) == ["j2", "j1"]
    assert await ids(user="ann", cursor=(after(20), "j0"), limit=1) == ["j4"]
    assert await ids(site="there") == ["other"]
    assert await ids(state=S.ERROR) == ["j0"]
    assert await ids(tag="t1") == ["j3", "j1"]
    assert await ids(user="ann", after=after(1), before=after(2)) == ["j3", "j2"]


async def test_searching_for_text(database):
    store = JobStore(database)
    said = [
        {"name": "Genomes of 100% (ann.)", "image": "ghcr.io/kbase/checkm2:1"},
        {"image": "docker.io/tools/seq:2"},
        {"image": "Seq"},
    ]
    for n, fields in enumerate(said):
        tags = ["Paper 2", "a.b"] if n == 1 else []
        job = a_job(f"job-{n}", at=after(n), user="ben" if n == 2 else "ann", tags=tags)
        await store.insert(dataclasses.replace(job, input={**job.input, **fields}))

    async def ids(text: str, **wanted) -> list[str]:
        return [j.id for j in await store.list(JobFilter(text=text, **wanted))]

    assert await ids("genomes of 100% (ANN.)") == ["job-0"]
    assert await ids("paper") == ["job-1"]
    assert await ids("a.b") == ["job-1"]  # no pattern: "docker.io/a/b", the image of all of them, has no "a.b"
    assert await ids("KBASE/check") == ["job-0"]
    assert await ids("seq") == ["job-2", "job-1"]
    assert await ids("seq", user="ann") == ["job-1"]
    assert await ids("JOB-") == ["job-2", "job-1", "job-0"]
    assert await ids("job-", cursor=(after(1), "job-1")) == ["job-0"]
    assert await ids("docker.io/a/b", limit=2) == ["job-2", "job-1"]
    assert await ids("(") == ["job-0"]
    for nothing in ("^job", ".*", "job-[0-9]", "\\", "$", "nowhere"):
        assert await ids(nothing) == []


async def test_listing_what_waits(database):
    store = JobStore(database)
    for n in range(4):
        await store.insert(a_job(f"j{n}", at=after(n)))
    for n, waiting in ((0, "held by the pool"), (1, None), (2, "the site does not answer")):
        assert await store.set_fields(f"j{n}", {"waiting": waiting})
    await store.transition("j2", to(S.CANCELING, after(9)))
    assert [j.id for j in await store.list(JobFilter(waiting=True))] == ["j2", "j0"]
    assert [j.id for j in await store.list(JobFilter(waiting=True, state=S.CREATED))] == ["j0"]
    await store.transition("j2", to(S.CANCELED, after(10)))
    assert [j.id for j in await store.list(JobFilter(waiting=True))] == ["j0"]
    assert len(await store.list(JobFilter())) == 4


async def test_counts_by_site_and_state(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("a"))
    await jobs.insert(a_job("b"))
    await jobs.insert(a_job("c", site="there"))
    assert dict(await jobs.counts()) == {("here", "created"): 2, ("there", "created"): 1}


async def test_admin_metadata_survives_changes_in_one_instant(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("j"))
    await asyncio.gather(*(jobs.update_meta("j", {f"k.{i}": i}, []) for i in range(6)))
    assert dict((await jobs.get("j")).admin_meta) == {f"k.{i}": i for i in range(6)}
    await jobs.update_meta("j", {"x": 1.5}, [f"k.{i}" for i in range(6)])
    assert dict((await jobs.get("j")).admin_meta) == {"x": 1.5}
    assert not await jobs.update_meta("none", {"x": 1}, [])


async def test_announced_submissions_are_found_until_settled(database):
    jobs = JobStore(database)
    await jobs.announce("j", NOW)
    assert await jobs.announced_before(NOW, 10) == []
    assert await jobs.announced_before(after(1), 10) == ["j"]
    assert await jobs.existing(["j"]) == set()
    await jobs.settle("j")
    assert await jobs.announced_before(after(1), 10) == []


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


async def test_images_are_unique_by_digest_and_by_tag(database):
    images = ImageStore(database)
    await images.insert(IMAGE)
    other = "sha256:" + "1" * 64
    with pytest.raises(ImageDigestExistsError):
        await images.insert(ImageRecord(IMAGE.name, IMAGE.digest, ("/x",), "admin", NOW))
    with pytest.raises(ImageTagExistsError):
        await images.insert(ImageRecord(IMAGE.name, other, ("/x",), "admin", NOW, tag="1.0"))
    await images.insert(ImageRecord(IMAGE.name, other, ("/x",), "admin", after(1)))
    assert await images.find(IMAGE.name, tag="1.0") == IMAGE
    assert await images.find(IMAGE.name, digest=IMAGE.digest) == IMAGE
    assert await images.find(IMAGE.name, tag="2.0") is None
    assert [i.digest for i in await images.list(10)] == [other, IMAGE.digest]
    assert await images.delete(IMAGE.name, IMAGE.digest)
    assert not await images.delete(IMAGE.name, IMAGE.digest)


async def test_of_two_who_note_how_far_a_job_has_come_one_does(database):
    jobs = JobStore(database)
    await jobs.insert(a_job("j"))
    job = await jobs.get("j")
    assert await jobs.note_flow(job, {"version": 1, "task": "stage"})
    assert not await jobs.note_flow(job, {"version": 1, "task": "other"})
    again = await jobs.get("j")
    assert again.flow == {"version": 1, "task": "stage"}
    await jobs.transition("j", Transition(S.CANCELING, after(1), "t1"))
    assert not await jobs.note_flow(again, {"version": 2, "task": "submit"})
    assert await jobs.note_flow(await jobs.get("j"), {"version": 2})
    assert (await jobs.get("j")).flow == {"version": 2}


async def test_what_may_be_cleaned_at_a_site(database):
    jobs = JobStore(database)
    for n, (site, state) in enumerate([("a", S.ERROR), ("a", S.ERROR), ("a", None), ("b", S.ERROR), ("a", S.ERROR)]):
        await jobs.insert(a_job(f"j{n}", at=after(n), site=site))
        if state is not None:
            await jobs.transition(f"j{n}", Transition(state, after(10 + n), f"t{n}"))
    await jobs.set_fields("j1", {"cleaned": 1})

    async def over(*sites, before=100, **more):
        return [job.id for job in await jobs.over_before(sites, after(before), 10, **more)]

    assert await over("a") == ["j0", "j4"]
    assert await over("a", "b") == ["j0", "j3", "j4"]
    assert await over("a", before=14) == ["j0"]
    assert await over("a", since=after(11)) == ["j4"]
    assert await jobs.unfinished_since(["a"]) == after(2)
    assert await jobs.unfinished_since(["b"]) is None


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


async def test_sites_are_open_until_closed(database):
    sites = SiteStore(database)
    await sites.set_closed("here", True)
    await sites.set_closed("here", True)
    await sites.set_closed("there", True)
    await sites.set_closed("there", False)
    assert await sites.closed() == {"here"}


async def test_every_query_has_an_index(stack):
    """Where the store can tell: the plans of the service's queries name an index."""
    database = Database.connect(stack.mongo_uri, f"test-{uuid.uuid4().hex}", 5)
    await database.create_indexes()
    queries = [
        *((name, {"next_look": {"$lte": 5}, "lease_until": {"$lte": 5}}) for name in ("jobs", "stagings")),
        ("jobs", {"owed": 1, "relay_until": {"$lte": 5}}),
        ("jobs", {"owed": 1, "updated": {"$lt": 5}}),
        ("jobs", {"idempotency": "x"}),
        ("jobs", {"user": "x", "updated": {"$lt": 5}}),
        ("jobs", {"updated": {"$lt": 5}}),
        ("jobs", {"site": {"$in": ["x"]}, "state": {"$in": ["complete"]}, "cleaned": None, "updated": {"$lt": 5}}),
        ("jobs", {"site": {"$in": ["x"]}, "state": {"$in": ["created"]}}),
        ("jobs", {"waiting": {"$gt": ""}, "state": {"$in": ["created"]}}),
        ("containers", {"job": "x", "state": {"$in": ["created"]}}),
        ("files", {"job": "x", "kind": "input", "n": -1, "chunk": {"$gte": 0, "$lte": 3}}),
        ("claims", {"job": "x"}),
        ("images", {"tagged": "x"}),
        *(("log_wants", {"until": {way: 5}}) for way in ("$gt", "$lt")),
        ("log_pieces", {"log": "x"}),
        *(("log_pieces", {"log": "x", "attempt": 1, **more}) for more in ({"offset": {"$lt": 5}}, {"end": {"$gt": 5}})),
        ("pending", {"at": {"$lt": 5}}),
        ("pending", {"refdata": "x"}),
        ("jobs", {"refdata": "x", "state": {"$in": ["created"]}}),
        ("images", {"refdata_id": "x"}),
        *(("refdata", {field: "x"}) for field in ("current", "file")),
        *(("refdata", query) for query in ({"retiring": "removing"}, {"retiring_at": {"$lt": 5}})),
        ("stagings", {"refdata": {"$in": ["x"]}}),
        ("stagings", {"errand.open": 1, "site": "x"}),
    ]
    assert {name for name, _ in queries} == set(INDEXES)
    for name, query in queries:
        plan = await database.db[name].find(query).explain()
        assert "INDEX" in str(plan["queryPlanner"]["winningPlan"]), (name, query, plan)
    database.close()


async def test_a_database_that_is_away_is_said_to_be_unavailable():
    database = Database.connect("mongodb://127.0.0.1:1/?directConnection=true", "x", 0.2)
    with pytest.raises(DependencyUnavailableError, match="try again later"):
        await JobStore(database).get("j")
    with pytest.raises(DependencyUnavailableError):
        await JobStore(database).counts()
    database.close()
