"""Submitting jobs, on a real database and a real S3 store: the order of checks, and nothing half accepted."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Sequence

import pytest
from pydantic import SecretStr

from cdmtaskservice.auth.container_token import ContainerTokens
from cdmtaskservice.auth.local import LocalAuthenticator
from cdmtaskservice.auth.principal import Permissions, Principal
from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    DependencyUnavailableError,
    IdempotencyConflictError,
    IllegalParameterError,
    ImageNameParseError,
    NoSuchBucketError,
    NoSuchImageError,
    NoSuchS3PathError,
    S3BucketInaccessibleError,
    S3PathInaccessibleError,
    SiteInactiveError,
    SiteUnavailableError,
    UnauthorizedError,
)
from cdmtaskservice.domain.jobs import JobInput
from cdmtaskservice.domain.records import ImageRecord
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.reconciler.cleaner import Cleaner
from cdmtaskservice.s3.checksum import crc64nvme
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Config
from cdmtaskservice.services.authentication import Authentication
from cdmtaskservice.services.images import Images
from cdmtaskservice.services.refdata import Refdata
from cdmtaskservice.services.sites import Sites
from cdmtaskservice.services.submission import Submission, SubmissionConfig
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.database import Database, StoreUnavailableError
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.images import ImageStore
from cdmtaskservice.store.jobs import JobStore
from cdmtaskservice.store.live_logs import LiveLogStore
from cdmtaskservice.store.refdata import RefdataStore
from cdmtaskservice.store.sites import SiteStore
from cdmtaskservice.store.stagings import StagingStore
from test.stand_ins.clockwork import START, FakeClock, counting_ids, eventually
from test.stand_ins.fake_site import FakeSite

BUCKET = "submission-test"
ANN = Principal("ann", frozenset({"KBASE_STAFF"}))
BOB = Principal("bob", frozenset({"KBASE_STAFF"}))
IMAGE = ImageRecord("localhost/a/b", "sha256:" + "0" * 64, ("/run",), "admin", START, tag="1.0")
FILES = [f"{BUCKET}/ann/in/{n}.fa" for n in range(4)]


@pytest.fixture(scope="module")
async def s3(stack):
    account = stack.s3
    async with S3Client.create(S3Config(account.url, account.access_key, SecretStr(account.secret_key))) as client:
        await client.create_bucket(BUCKET)
        for file in FILES:
            await client.put(file, file.encode())
        yield client


class Desk:
    """The submission with everything around it, and two fake sites."""

    def __init__(self, database: Database, s3: S3Client) -> None:
        self.database = database
        self.clock = FakeClock()
        self.jobs = JobStore(database)
        self.containers = ContainerStore(database)
        self.files = FileStore(database)
        self.images = ImageStore(database)
        self.site_store = SiteStore(database)
        self.accepted: list[str] = []
        self.site = FakeSite("here")
        self.jaws = FakeSite("jaws", kind="jaws")
        self.sites = Sites({"here": self.site, "jaws": self.jaws}, self.site_store, interval=0.01)
        permissions = Permissions()
        refdata = Refdata(
            RefdataStore(database),
            StagingStore(database),
            self.images,
            self.jobs,
            s3,
            self.sites,
            [],
            self.clock,
            counting_ids(),
            self.accepted.append,
        )
        authentication = Authentication(
            LocalAuthenticator.__new__(LocalAuthenticator),  # never asked: users come with their roles
            ContainerTokens(b"k" * 32),
            permissions,
            [f"{BUCKET}/{{user}}/", "gone-bucket/{user}/"],
            self.clock,
        )
        self.submission = Submission(
            self.jobs,
            self.containers,
            self.files,
            Images(self.images, None, refdata, self.clock),  # type: ignore[arg-type]  # no image is approved here
            refdata,
            self.sites,
            s3,
            authentication,
            permissions,
            self.clock,
            counting_ids(),
            self.accepted.append,
            SubmissionConfig(max_cpu_hours=10.0, log_path="logs/"),
        )

    async def submit(self, job: JobInput | None = None, key: str | None = None, user: Principal = ANN) -> str:
        return await self.submission.submit(user, job or body(), key)

    async def stored(self) -> dict[str, int]:
        """How many documents there are of a job."""
        names = ("jobs", "containers", "files", "pending")
        return {name: n for name in names if (n := await self.database.db[name].count_documents({}))}


@pytest.fixture
async def desk(stack, s3):
    database = Database.connect(stack.mongo_uri, f"test-{uuid.uuid4().hex}", 5)
    await database.create_indexes()
    desk = Desk(database, s3)
    await desk.images.insert(IMAGE)
    watch = asyncio.create_task(desk.sites.watch())
    await wait_for_health(desk, True)
    yield desk
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    database.close()


async def wait_for_health(desk: Desk, available: bool) -> None:
    async def seen() -> bool:
        return all(v.health.available is available for v in await desk.sites.list())

    await eventually(seen)


def body(**kwargs) -> JobInput:
    values = {
        "cluster": "here",
        "image": "localhost/a/b:1.0",
        "params": {"args": ["run", {"type": "input_files", "input_files_format": "comma_separated_list"}]},
        "num_containers": 2,
        "output_dir": f"{BUCKET}/ann/out",
        "input_files": FILES,
    }
    return JobInput.model_validate(values | kwargs)


async def test_an_accepted_job_is_stored_whole(desk):
    files = [{"file": f, "data_id": f"d{i}", "crc64nvme": crc64nvme(f.encode())} for i, f in enumerate(FILES)]
    job_id = await desk.submit(body(input_files=files, name="mine", tags=["t"]))
    job = await desk.jobs.get(job_id)
    assert (job.user, job.site, job.image, job.state) == ("ann", "here", IMAGE, JobState.CREATED)
    assert (job.containers, job.input_file_count, job.runtime, job.logpath) == (2, 4, 60.0, f"logs/{job_id}/")
    assert (job.input["output_dir"], job.input["memory"], job.input["runtime"]) == (
        f"{BUCKET}/ann/out/",
        10_000_000,
        "PT1M",
    )
    assert "input_files" not in job.input
    assert [(t.state, t.time) for t in job.transitions] == [(JobState.CREATED, START)]
    inputs = await desk.files.inputs(job_id)
    assert inputs.files == FILES
    assert inputs.crc64nvmes == [crc64nvme(f.encode()) for f in FILES]
    assert inputs.sizes == [len(f) for f in FILES]
    assert inputs.places == [f"{n}.fa" for n in range(4)]
    assert inputs.data_ids == ["d0", "d1", "d2", "d3"]
    assert [c.number for c in await desk.containers.list(job_id)] == [0, 1]
    assert desk.accepted == [job_id]
    assert await desk.stored() == {"jobs": 1, "containers": 2, "files": 1}
    assert await desk.jobs.due(START, 10) == [job_id]
    assert (await desk.jobs.owing()).jobs == 1


# The order of checks. Every request has its own fault and all the faults after it, and is answered by the first.

BAD_SUM = {"file": FILES[0], "crc64nvme": "AAAAAAAAAAA="}
FAULTS: list[tuple[str, dict, type[Exception], str]] = [
    ("sum", {"input_files": [BAD_SUM]}, ChecksumMismatchError, "input file .* has the CRC64NVME"),
    ("missing", {"input_files": [f"{BUCKET}/ann/none"]}, NoSuchS3PathError, "ann/none"),
    ("not mine", {"input_files": [f"{BUCKET}/ben/x"]}, S3PathInaccessibleError, "input_files: .*ben/x"),
    ("no bucket", {"output_dir": "gone-bucket/ann/out"}, NoSuchBucketError, "gone-bucket"),
    ("output not mine", {"output_dir": f"{BUCKET}/ben/out"}, S3PathInaccessibleError, "output_dir: .*ben/out"),
    ("image", {"image": "localhost/a/b:none"}, NoSuchImageError, "b:none"),
    ("cpu hours", {"cpus": 8, "runtime": 3600, "num_containers": 2}, IllegalParameterError, "16 CPU hours"),
    ("limits", {"cpus": 9}, IllegalParameterError, "cpus: 9 per container is more than the 8"),
]
TWO_FILES = [f"{BUCKET}/ben/x", f"{BUCKET}/ben/y"]


async def test_a_check_stores_nothing_and_finds_what_a_submission_finds(desk):
    job = body()
    checked = await desk.submission.dry_run(ANN, job)
    assert (checked.site.name, checked.image, checked.places) == ("here", IMAGE, [f"{n}.fa" for n in range(4)])
    assert [(o.path, o.size) for o in checked.found] == [(f, len(f)) for f in FILES]
    rendered, places = checked.first_container(job)
    assert (rendered.args, places) == (("run", "/input_files/0.fa,/input_files/1.fa"), ["0.fa", "1.fa"])
    assert await desk.stored() == {}
    assert desk.accepted == []
    for _, fault, error, match in FAULTS:
        with pytest.raises(error, match=match):
            await desk.submission.dry_run(ANN, body(**({"num_containers": 1} | fault)))


async def test_an_output_directory_that_holds_files_is_warned_of(desk, s3):
    async def warnings(**fields) -> Sequence[str]:
        return (await desk.submission.dry_run(ANN, body(**fields))).warnings

    assert await warnings() == ()
    [warning] = await warnings(output_dir=f"{BUCKET}/ann")
    assert f"output_dir: '{BUCKET}/ann/' holds files already, such as '{FILES[0]}'" in warning
    # Each container has a directory of its own.
    assert await warnings(output_dir=f"{BUCKET}/ann", params={"declobber": True}) == ()
    await s3.put(f"{BUCKET}/ann/apart/0/x", b"")
    [warning] = await warnings(output_dir=f"{BUCKET}/ann/apart", params={"declobber": True})
    assert f"'{BUCKET}/ann/apart/0/' holds files already" in warning


@pytest.mark.parametrize(
    "error", [S3BucketInaccessibleError("It may not be listed"), DependencyUnavailableError("It does not answer")]
)
async def test_what_cannot_be_warned_of_is_no_reason_to_refuse(desk, s3, monkeypatch, error):
    async def refused(prefix: str) -> str:
        raise error

    monkeypatch.setattr(s3, "first_below", refused)
    assert (await desk.submission.dry_run(ANN, body(output_dir=f"{BUCKET}/ann"))).warnings == ()


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=[name for name, *_ in FAULTS])
async def test_the_first_fault_is_answered_and_nothing_is_stored(desk, number):
    _, _, error, match = FAULTS[number]
    faults = {}
    for _, fault, *_ in FAULTS[: number + 1]:
        faults |= fault
    files = faults.get("input_files", FILES)
    if faults.get("num_containers", 1) == 2 or number >= 6:
        files = TWO_FILES
    job = body(**({"num_containers": 1} | faults | {"input_files": files}))
    with pytest.raises(error, match=match):
        await desk.submit(job, "key")
    assert await desk.stored() == {}
    assert desk.accepted == []


async def test_before_all_limits_come_site_and_rights_and_before_them_the_request_itself(desk):
    worst = {"cpus": 9, "image": "localhost/a/b:none", "output_dir": f"{BUCKET}/ben/out"}
    await desk.site_store.set_closed("here", True)
    await desk.site_store.set_closed("jaws", True)
    desk.site.available = desk.jaws.available = False
    await wait_for_health(desk, False)
    with pytest.raises(SiteInactiveError, match="closed"):
        await desk.submit(body(**worst))
    await desk.site_store.set_closed("here", False)
    with pytest.raises(SiteUnavailableError, match="it was switched off"):
        await desk.submit(body(**worst))
    with pytest.raises(UnauthorizedError, match="HAS_NERSC_ACCOUNT and KBASE_STAFF"):
        await desk.submit(body(cluster="jaws", **worst))
    with pytest.raises(UnauthorizedError):
        await desk.submit(body(**worst), user=Principal("guest", frozenset()))
    with pytest.raises(IllegalParameterError, match="There is no site 'moon'; the sites are here, jaws"):
        await desk.submit(body(cluster="moon", **worst))
    same_place = [f"{BUCKET}/ann/in/0.fa", f"{BUCKET}/ann/other/0.fa"]
    with pytest.raises(IllegalParameterError, match="would both be placed"):
        await desk.submit(body(cluster="moon", **(worst | {"input_files": same_place})))
    comma = [f"{BUCKET}/ann/in/a,b", FILES[0]]
    with pytest.raises(IllegalParameterError, match="comma"):
        await desk.submit(body(cluster="moon", **(worst | {"input_files": comma})))
    assert await desk.stored() == {}


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"cpus": 9}, "cpus: 9 per container is more than the 8 that the site here allows"),
        ({"memory": 8_000_000_001}, r"memory: 8 GB \(8000000001 bytes\) .* than the 8 GB \(8000000000 bytes\)"),
        ({"runtime": 3601}, r"runtime: 60.02 minutes \(3601 seconds\) .* 60 minutes \(3600 seconds\)"),
        ({"gpus": 1}, "gpus: 1 per container is more than the 0"),
    ],
)
async def test_a_container_may_not_ask_for_more_than_a_node_has(desk, asked, match):
    with pytest.raises(IllegalParameterError, match=match):
        await desk.submit(body(**asked))
    assert await desk.stored() == {}


async def test_the_limit_of_cpu_hours_itself_is_possible(desk):
    await desk.submit(body(cpus=5, runtime=3600))
    with pytest.raises(IllegalParameterError, match=re.escape("10.0033 CPU hours")):
        await desk.submit(body(cpus=6, runtime=3001))


async def test_an_image_name_that_cannot_be_read(desk):
    with pytest.raises(ImageNameParseError):
        await desk.submit(body(image="UPPER//x"))


# Idempotency


async def test_the_same_key_and_request_give_the_same_job(desk):
    first = await desk.submit(key="k")
    await desk.site_store.set_closed("here", True)  # the answer is given again whatever has changed since
    assert await desk.submit(key="k") == first
    await desk.site_store.set_closed("here", False)
    with pytest.raises(IdempotencyConflictError, match=first):
        await desk.submit(body(cpus=2), key="k")
    assert await desk.submit(key="other") != first
    assert (await desk.stored())["jobs"] == 2
    assert desk.accepted == [first, await desk.submit(key="other")]


async def test_keys_are_users_own(desk):
    bobs = [f.replace("/ann/", "/bob/") for f in FILES]
    for file in bobs:
        await desk.submission._s3.put(file, b"x")
    first = await desk.submit(key="k")
    assert await desk.submit(body(input_files=bobs, output_dir=f"{BUCKET}/bob/out"), key="k", user=BOB) != first


async def test_one_key_many_times_in_one_instant_makes_one_job(desk):
    ids = await asyncio.gather(*(desk.submit(key="k") for _ in range(8)))
    assert len(set(ids)) == 1
    assert await desk.stored() == {"jobs": 1, "containers": 2, "files": 1}
    assert desk.accepted == ids[:1]


async def test_one_key_for_two_requests_in_one_instant_makes_one_job(desk):
    results = await asyncio.gather(
        desk.submit(body(cpus=1), key="k"), desk.submit(body(cpus=2), key="k"), return_exceptions=True
    )
    assert sorted(type(r).__name__ for r in results) == ["IdempotencyConflictError", "str"]
    assert await desk.stored() == {"jobs": 1, "containers": 2, "files": 1}


# Faults of the database

CALLS = [
    ("jobs", "announce"),
    ("files", "insert_inputs"),
    ("containers", "insert"),
    ("jobs", "insert"),
    ("jobs", "settle"),
]


async def whole_or_nothing(desk: Desk, accepted: bool) -> None:
    """After the cleaner has been: a job with everything, or nothing at all."""
    desk.clock.advance(3601)
    await Cleaner(desk.jobs, desk.containers, desk.files, LiveLogStore(desk.database), desk.clock, age=3600).clean()
    assert await desk.stored() == ({"jobs": 1, "containers": 2, "files": 1} if accepted else {})


@pytest.mark.parametrize("effect", ["before", "after"])
@pytest.mark.parametrize(("store", "call"), CALLS)
async def test_a_database_that_goes_away_at_any_call_leaves_nothing_half_accepted(desk, store, call, effect):
    real = getattr(getattr(desk, store), call)

    async def away(*args):
        if effect == "after":
            await real(*args)
        raise StoreUnavailableError("away")

    setattr(getattr(desk, store), call, away)
    accepted = call == "settle" or (call == "insert" and store == "jobs" and effect == "after")
    if call == "settle":
        assert await desk.submit(key="k")  # the job is there: that its announcement is too harms nobody
    else:
        with pytest.raises(DependencyUnavailableError):
            await desk.submit(key="k")
        assert desk.accepted == []
    assert (await desk.stored()).get("jobs", 0) == accepted
    setattr(getattr(desk, store), call, real)
    if accepted:
        job_id = await desk.submit(key="k")  # the client tries again and finds its job
        assert await desk.files.inputs(job_id)
    await whole_or_nothing(desk, accepted)


@pytest.mark.parametrize(("store", "call"), CALLS[:4])
async def test_a_bug_at_any_call_leaves_nothing_behind(desk, store, call):
    async def broken(*args):
        raise RuntimeError("a bug")

    setattr(getattr(desk, store), call, broken)
    with pytest.raises(RuntimeError):
        await desk.submit()
    assert await desk.stored() == {}


@pytest.mark.parametrize(("store", "call"), CALLS)
async def test_a_client_that_hangs_up_at_any_call_leaves_nothing_half_accepted(desk, store, call):
    """The write that is under way takes place all the same: a cancellation does not stop it."""
    real = getattr(getattr(desk, store), call)
    there = asyncio.Event()

    async def slow(*args):
        done = await real(*args)
        there.set()
        await asyncio.Event().wait()
        return done

    setattr(getattr(desk, store), call, slow)
    task = asyncio.create_task(desk.submit(key="k"))
    async with asyncio.timeout(5):
        await there.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    setattr(getattr(desk, store), call, real)
    accepted = call == "settle" or (store, call) == ("jobs", "insert")
    if accepted:
        job_id = await desk.submit(key="k")
        assert len(await desk.containers.list(job_id)) == 2
        assert len(await desk.files.inputs(job_id)) == 4
    await whole_or_nothing(desk, accepted)


async def test_a_store_that_is_away_is_said_to_be_unavailable_and_nothing_is_stored(desk, stack):
    async with S3Client.create(S3Config("http://127.0.0.1:9", "x", SecretStr("y"))) as nowhere:
        desk.submission._s3 = nowhere
        with pytest.raises(DependencyUnavailableError):
            await desk.submit()
    assert await desk.stored() == {}
