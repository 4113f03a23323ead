"""Jobs, images and sites in the store, on every database that can be had: the same tests must pass on all of them."""

import asyncio
import dataclasses
import datetime
import uuid

import pytest

from cdmtaskservice.domain.errors import DependencyUnavailableError, ImageDigestExistsError, ImageTagExistsError
from cdmtaskservice.domain.filters import JobFilter
from cdmtaskservice.domain.records import ImageRecord, JobRecord, Transition
from cdmtaskservice.domain.states import JobState, Outcome
from cdmtaskservice.store.database import INDEXES, Database
from cdmtaskservice.store.images import ImageStore
from cdmtaskservice.store.jobs import JobStore
from cdmtaskservice.store.looks import Lease
from cdmtaskservice.store.sites import SiteStore
from test.integration.store_room import IMAGE, NOW, a_job, after, to

S = JobState


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
