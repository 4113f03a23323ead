"""The whole service as a process, on real parts."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

from cdmtaskservice.cli.demo_story import s3_client
from cdmtaskservice.embedded import browser_packages
from cdmtaskservice.embedded.pool import CondorPool
from cdmtaskservice.embedded.service import BUCKET, LOG_BUCKET, EmbeddedService
from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.s3.client import S3Client
from test.stand_ins.nersc.part import NerscSite
from test.system import web_room
from test.system.driver import Driver, until
from test.system.through_jaws import PERLMUTTER, QUICK_JAWS, jaws_service

_homes = itertools.count()

QUICK = {
    # Nothing waits longer than it must for a test, and every process that dies is missed soon.
    "KBCTS_RECONCILER__LEASE": "2",
    "KBCTS_RECONCILER__POLL_INTERVAL": "0.2",
    "KBCTS_RECONCILER__LOOK_DELAY": "1",
    "KBCTS_RECONCILER__MAX_BACKOFF": "2",
    "KBCTS_JOBS__HEARTBEAT_INTERVAL": "1",
    "KBCTS_JOBS__HEARTBEAT_TIMEOUT": "6",
    "KBCTS_MONGO__TIMEOUT": "3",
    "KBCTS_KAFKA__TIMEOUT": "3",
    "KBCTS_LOCAL_KEEP_TRYING": "PT5M",
    "KBCTS_LOCAL_STOP_WITH_SERVICE": "true",
}


@pytest.fixture(scope="session")
async def s3(stack: EmbeddedStack) -> AsyncIterator[S3Client]:
    """A client of the store, with the service's buckets made."""
    async with s3_client(stack) as client:
        for bucket in (BUCKET, LOG_BUCKET):
            await client.create_bucket(bucket)
        yield client


def new_home(stack: EmbeddedStack) -> Path:
    """A directory of its own for a service, its database and its topic."""
    return stack.root / f"h{next(_homes)}"


@pytest.fixture(scope="session")
async def shared(stack: EmbeddedStack, s3: S3Client, seqtool_image) -> AsyncIterator[Driver]:
    """One service for all tests that leave it as it is."""
    service = EmbeddedService(stack, new_home(stack), QUICK)
    service.start()
    async with Driver(service, s3, seqtool_image) as driver:
        await driver.ready()
        yield driver
    service.stop()


@pytest.fixture(scope="session")
def room(stack: EmbeddedStack, pool: CondorPool, s3: S3Client, seqtool_image):
    """The parts that services on an HTCondor pool need."""
    from test.system.pooled import Room

    return Room(stack, pool, s3, seqtool_image)


@pytest.fixture(scope="session")
def nersc_site(stack: EmbeddedStack) -> Iterator[NerscSite]:
    """Stand-ins for NERSC and JAWS, for the whole session."""
    site = NerscSite(stack.root / "nersc", stack.logs / "nersc.log", stack.launcher, stack.podman)
    site.start()
    yield site
    site.stop()


@pytest.fixture
def nersc(nersc_site: NerscSite) -> Iterator[NerscSite]:
    """NERSC and JAWS as they should be; whatever the test makes go wrong is right again afterwards."""
    nersc_site.switch(reset=True)
    yield nersc_site
    nersc_site.switch(reset=True)
    nersc_site.renew_credentials()


@pytest.fixture(scope="session")
async def shared_jaws(
    stack: EmbeddedStack, s3: S3Client, seqtool_image, nersc_site: NerscSite
) -> AsyncIterator[Driver]:
    """One service with JAWS sites for all tests that leave it as it is."""
    service = jaws_service(stack, new_home(stack), nersc_site, QUICK | QUICK_JAWS)
    service.start()
    async with Driver(service, s3, seqtool_image, PERLMUTTER) as driver:
        await driver.ready()
        yield driver
    service.stop()


@pytest.fixture
async def jaws(shared_jaws: Driver, nersc: NerscSite) -> Driver:
    """The shared service, with NERSC and JAWS as they should be."""
    await until(shared_jaws.site_available, "the JAWS site is available")
    return shared_jaws


@pytest.fixture
async def own(stack: EmbeddedStack, s3: S3Client, seqtool_image) -> AsyncIterator[Driver]:
    """A service of the test's own, which it may kill and restart."""
    service = EmbeddedService(stack, new_home(stack), QUICK)
    service.start()
    async with Driver(service, s3, seqtool_image) as driver:
        await driver.ready()
        yield driver
    await asyncio.to_thread(service.stop)


@pytest.fixture
def home(stack: EmbeddedStack) -> Path:
    """A directory for services that the test makes itself."""
    return new_home(stack)


@pytest.fixture(scope="session")
async def chromium(parts: Path) -> AsyncIterator[Browser]:
    """A browser; without one the test is skipped, or fails if CTS_REQUIRE_PARTS is set."""
    if not browser_packages.is_complete(parts):
        pytest.skip(f"missing: a browser in {parts / 'browser'} (`make test` fetches it)")
    async with web_room.chromium(parts) as browser:
        yield browser
