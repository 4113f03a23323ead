"""Fixtures that several modules share; what they hand out has its module beside, or among the stand-ins."""

import importlib.util
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing
from mongomock_motor import AsyncMongoMockClient
from pydantic import SecretStr

import cdmtaskservice.executor
from cdmtaskservice.embedded.image import Pushed, build_image, push, shell_image
from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Config
from cdmtaskservice.store.database import Database
from test.stand_ins.executor_service import ExecutorService, Work
from test.stand_ins.job_house import JobHouse
from test.stand_ins.refdata_house import RefdataHouse

from .executor_worker import Begin, Worker
from .refdata_room import RefdataRoom
from .workers_room import BUCKET, FILES, LOGS, Room

# The store

# No MongoDB server can be set up from package registries; where there is one, its URL may be given.
MONGODB = os.environ.get("CTS_TEST_MONGO_URL")


@pytest.fixture(params=["mongomock", "wire", *(["mongodb"] if MONGODB else [])])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """An empty database, on every kind that can be had."""
    name = f"test-{uuid.uuid4().hex}"
    if request.param == "mongomock":
        database = Database(AsyncMongoMockClient(), name)
    elif request.param == "wire":
        database = Database.connect(request.getfixturevalue("stack").mongo_uri, name, 5)
    else:
        assert MONGODB is not None
        database = Database.connect(MONGODB, name, 5)
    await database.create_indexes()
    yield database
    database.close()


# The reconciler


@pytest.fixture
def quiet() -> Iterator[None]:
    """Exceptions are drawn at length where nobody has configured the logs: that takes longer than the tests."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture(params=["mongomock", "wire"])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[JobHouse]:
    """A job house on every database that can be had."""
    name = f"test-{uuid.uuid4().hex}"
    if request.param == "mongomock":
        database = Database(AsyncMongoMockClient(), name)
    else:
        database = Database.connect(request.getfixturevalue("stack").mongo_uri, name, 5)
    await database.create_indexes()
    yield JobHouse(database)
    database.close()


@pytest.fixture
async def quick() -> AsyncIterator[JobHouse]:
    """A job house on the database that costs least."""
    database = Database(AsyncMongoMockClient(), "test")
    await database.create_indexes()
    yield JobHouse(database)
    database.close()


@pytest.fixture
async def refdata_house(house: JobHouse) -> RefdataHouse:
    """A house of reference data on every database that can be had."""
    return RefdataHouse(house.database)


@pytest.fixture
async def quick_refdata(quick: JobHouse) -> RefdataHouse:
    """The same on the database that costs least."""
    return RefdataHouse(quick.database)


@pytest.fixture
def refdata_room(refdata_house: RefdataHouse) -> RefdataRoom:
    """Images and jobs that may need what is in the house."""
    return RefdataRoom(refdata_house)


@pytest.fixture
def quick_refdata_room(quick_refdata: RefdataHouse) -> RefdataRoom:
    """The same on the database that costs least."""
    return RefdataRoom(quick_refdata)


# The executor


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a worker is sent: the executor and awscrt, and nothing else."""
    root = tmp_path_factory.mktemp("bundle")
    source = Path(cdmtaskservice.executor.__file__).parent
    shutil.copytree(source, root / "cdmtaskservice/executor", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "cdmtaskservice/__init__.py").touch()
    awscrt = importlib.util.find_spec("awscrt")
    assert awscrt is not None
    assert awscrt.origin is not None
    shutil.copytree(Path(awscrt.origin).parent, root / "awscrt", ignore=shutil.ignore_patterns("__pycache__"))
    for extension in Path(awscrt.origin).parent.parent.glob("_awscrt*.so"):
        shutil.copy(extension, root)
    return root


@pytest.fixture(scope="session")
def bash_image(stack: EmbeddedStack) -> Pushed:
    """Its only argument is a script."""
    image = replace(shell_image(stack.parts), entrypoint=("/bin/bash", "-c"))
    return push(stack.registry, "tools/bash", "1", build_image(image))


@pytest.fixture(scope="session")
def nobody_image(stack: EmbeddedStack) -> Pushed:
    image = replace(shell_image(stack.parts), entrypoint=("/bin/bash", "-c"), user="65534:65534")
    return push(stack.registry, "tools/nobody", "1", build_image(image))


@pytest.fixture
def begin(stack: EmbeddedStack, bundle: Path, tmp_path: Path) -> Iterator[Begin]:
    """Make a worker for a container of `work`, whose inputs are `files` by S3 key in the bucket `data`."""
    with ExitStack() as parts:

        def make(work: Work, files: dict[str, bytes] | None = None, s3_url: str = stack.s3.url) -> Worker:
            job = str(uuid.uuid4())
            work.output_prefix = f"data/{job}/"
            service = ExecutorService(s3_url, stack.s3.access_key, stack.s3.secret_key, job, work)
            parts.callback(service.s3.close)
            for bucket in ("data", "logs"):
                if bucket not in [b["Name"] for b in service.s3.list_buckets()["Buckets"]]:
                    service.s3.create_bucket(Bucket=bucket)
            for key, data in (files or {}).items():
                service.write(f"data/{key}", data)
            directory = tmp_path / job
            directory.mkdir()
            worker = Worker(stack, bundle, directory, service, parts.enter_context(service.serving()))
            parts.callback(end, worker)
            return worker

        def end(worker: Worker) -> None:
            for process in worker.processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            worker.cleanup()

        yield make


# The executors' calls


@pytest.fixture(scope="module")
async def workers_s3(stack: EmbeddedStack) -> AsyncIterator[S3Client]:
    """A client of the stack's S3 store, with the input files there."""
    account = stack.s3
    async with S3Client.create(S3Config(account.url, account.access_key, SecretStr(account.secret_key))) as client:
        for bucket in (BUCKET, LOGS):
            await client.create_bucket(bucket)
        for name in FILES:
            await client.put(f"{BUCKET}/{name}", name.encode())
        yield client


@pytest.fixture
async def room(stack: EmbeddedStack, workers_s3: S3Client) -> AsyncIterator[Room]:
    """The desk of the workers, with a database of its own."""
    database = Database.connect(stack.mongo_uri, f"test-{uuid.uuid4().hex}", 5)
    await database.create_indexes()
    yield Room(database, workers_s3)
    database.close()
