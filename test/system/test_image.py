"""The image is built as its Dockerfile says, and runs jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cdmtaskservice.embedded.stack import EmbeddedStack
from test.system.conftest import new_home
from test.system.driver import HAPPY, Driver
from test.system.image_room import USER, Images, ImageService
from test.system.pooled import LISTED, QUICK_POOL, Room

pytestmark = pytest.mark.long

TAG = "localhost/cts-test/service:1"
HASH = "0123456789abcdef"


@pytest.fixture(scope="module")
def images(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Images:
    made = Images(stack, tmp_path_factory.mktemp("image"))
    made.make_base()
    made.make_crane()
    return made


@pytest.fixture(scope="module")
def image(images: Images) -> dict[str, Any]:
    """What podman says of the image."""
    return images.build(TAG, CTS_GIT_HASH=HASH, CTS_VERSION="9.9")


@pytest.fixture(scope="module")
async def driver(stack: EmbeddedStack, image: dict[str, Any], room: Room) -> AsyncIterator[Driver]:
    """A service that runs the image."""
    service = ImageService(TAG, stack, new_home(stack), QUICK_POOL, pool=room.pool)
    service.ready_within = 60.0
    service.start()
    async with room.driver(service) as driver:
        await driver.ready()
        yield driver
    await asyncio.to_thread(service.stop)


def test_the_image_says_what_it_is(image: dict[str, Any], images: Images, record_property) -> None:
    config = image["Config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["cts"]
    assert config["StopSignal"] in {"SIGTERM", "15"}
    assert config["Labels"]["org.opencontainers.image.revision"] == HASH
    assert config["Labels"]["org.opencontainers.image.version"] == "9.9"
    assert image["Healthcheck"]["Test"] == ["CMD", "python3", "-m", "cdmtaskservice.cli.alive"]
    megabytes = image["Size"] / 1e6
    assert megabytes < 500
    took = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in images.seconds.items())
    record_property("image", f"{megabytes:.0f} MB; {took}")


def test_nothing_that_builds_or_tests_is_in_it(images: Images, image: dict[str, Any]) -> None:
    shell = ("run", "--rm", "--network=none", "--entrypoint=/bin/sh", TAG, "-c")
    listed = images.podman(*shell, "ls /opt/cts/bin /opt/cts/lib/python3*/site-packages; id -u; ls /src /uv 2>&1 || :")
    assert str(USER) in listed.split()
    for unwanted in ("pytest", "mypy", "ruff", "uv", "noida_db", "nx_27017", "hypothesis", "playwright"):
        assert unwanted not in listed.split()
    packages = images.podman(*shell, "dpkg-query -W -f '${Package}\\n'").split()
    assert not {"gcc", "python3-venv", "python3-pip-whl", "curl"} & set(packages)
    writable = images.podman(*shell, "find / -xdev -type f -writable -not -path '/proc/*' -not -path '/tmp/*' | head")
    assert writable.split() == []


async def test_a_job_runs_through_it(driver: Driver) -> None:
    job_id = await driver.submit(await driver.upload({"a": b">a\nA\n", "b": b">b\nC\n"}), ["copy", LISTED])
    job = await driver.over(job_id)
    assert await driver.outputs(job) == {"a": b">a\nA\n", "b": b">b\nC\n"}
    await driver.check_history(job_id, HAPPY)
    # The directory is the schedd's, and nothing that the container sees.
    service = driver.service
    assert isinstance(service, ImageService)
    assert service.pool is not None
    assert len(list(service.pool.worker_dir.glob(f"cts-{job_id}-*.log"))) == 2
    about = (await driver.client(None).get("/")).json()
    assert about["git_hash"] == HASH


async def test_its_health_check_tells(driver: Driver) -> None:
    service = driver.service
    assert isinstance(service, ImageService)
    check = ("python3", "-m", "cdmtaskservice.cli.alive")
    healthy = await asyncio.to_thread(service.execute, *check)
    assert (healthy.returncode, healthy.stdout, healthy.stderr) == (0, "", "")
    wrong = await asyncio.to_thread(service.execute, *check, "http://127.0.0.1:1/health/live")
    assert wrong.returncode == 1
    ready = (await driver.client("admin").get("/health/ready")).json()
    assert {d["name"]: d["ok"] for d in ready["dependencies"]} == dict.fromkeys(
        ["database", "s3", "auth", "kafka", "crane"], True
    )


async def test_it_ends_well_when_it_is_told_to(driver: Driver) -> None:
    """The last of these tests."""
    service = driver.service
    process = service._process
    assert process is not None
    service.ask_to_stop()
    assert await asyncio.to_thread(process.wait, 60) == 0
    assert "Traceback" not in Path(service.log).read_text(errors="replace")
    await asyncio.to_thread(service.stop)
