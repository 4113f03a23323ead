"""Reference data, and the images and jobs that need it: it is never retired while it is in use."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cdmtaskservice.domain.errors import (
    IllegalParameterError,
    InvalidRefdataStateError,
    MissingParameterError,
    NoSuchRefdataError,
)
from cdmtaskservice.domain.images import ImageApproval
from cdmtaskservice.domain.records import ImageRecord
from test.stand_ins.clockwork import START
from test.stand_ins.refdata_house import ADMIN

from .refdata_room import TOOL, RefdataRoom

pytestmark = pytest.mark.usefixtures("quiet")


# Races with what comes to need it


def between(target: Any, name: str, meanwhile: Callable[[], Awaitable[object]], *, before: bool) -> None:
    """Let something happen once, before or after a call of a store."""
    real = getattr(target, name)

    async def call(*args: Any, **kwargs: Any) -> Any:
        setattr(target, name, real)
        if before:
            await meanwhile()
        told = await real(*args, **kwargs)
        if not before:
            await meanwhile()
        return told

    setattr(target, name, call)


async def outcome(work: Awaitable[object]) -> str:
    try:
        await work
    except InvalidRefdataStateError as e:
        return e.message
    return "done"


async def in_use_and_retired(refdata_room: RefdataRoom, refdata_id: str) -> tuple[bool, bool]:
    house = refdata_room.house
    images = await house.images.using_refdata(refdata_id, 5)
    jobs = await house.jobs.using_refdata(refdata_id, 5)
    return bool(images or jobs), (await house.record(refdata_id)).retired_on is not None


@pytest.mark.parametrize("call", ["begin_retiring", "retire"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("what", ["image", "job"])
async def test_what_comes_to_need_it_while_it_is_retired(
    refdata_room: RefdataRoom, what: str, call: str, before: bool
) -> None:
    house = refdata_room.house
    refdata_id = await house.staged("here")
    others: list[str] = []
    if what == "job":
        await refdata_room.approve("1", refdata_id)
        await house.images.delete(TOOL, "sha256:" + "1".zfill(64))
        image = ImageRecord(TOOL, "sha256:" + "1".zfill(64), ("/run",), "a", START, "1", refdata_id, "/ref")

        async def known(text: str) -> ImageRecord:
            return image  # it was approved when the submission began

        refdata_room.images.get = known  # type: ignore[method-assign]

    async def meanwhile() -> None:
        others.append(await outcome(refdata_room.submit() if what == "job" else refdata_room.approve("2", refdata_id)))

    between(house.refdata_store, call, meanwhile, before=before)
    retired = await outcome(house.refdata.retire(ADMIN, refdata_id))
    assert await in_use_and_retired(refdata_room, refdata_id) in {(True, False), (False, True)}
    assert (retired == "done") is (others != ["done"])
    if what == "job" and others != ["done"]:
        assert await refdata_room.stored() == {}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("call", ["insert", "using_refdata"])
async def test_it_is_retired_while_an_image_is_approved(refdata_room: RefdataRoom, call: str, before: bool) -> None:
    house = refdata_room.house
    refdata_id = await house.staged("here")
    retired: list[str] = []

    async def meanwhile() -> None:
        if call == "insert":
            retired.append(await outcome(house.refdata.retire(ADMIN, refdata_id)))
        else:
            retired.append(await outcome(refdata_room.approve("1", refdata_id)))

    between(house.images, call, meanwhile, before=before)
    if call == "insert":
        approved = await outcome(refdata_room.approve("1", refdata_id))
    else:
        approved = await outcome(house.refdata.retire(ADMIN, refdata_id))
    in_use, is_retired = await in_use_and_retired(refdata_room, refdata_id)
    assert (in_use, is_retired) in {(True, False), (False, True)}
    assert sorted([approved == "done", *(r == "done" for r in retired)]) == [False, True]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("call", ["announce", "insert", "settle"])
async def test_it_is_retired_while_a_job_is_submitted(refdata_room: RefdataRoom, call: str, before: bool) -> None:
    house = refdata_room.house
    refdata_id = await house.staged("here")
    await refdata_room.approve("1", refdata_id)
    retired: list[str] = []

    async def meanwhile() -> None:
        await refdata_room.images.delete(f"{TOOL}:1")
        retired.append(await outcome(house.refdata.retire(ADMIN, refdata_id)))

    between(house.jobs, call, meanwhile, before=before)
    submitted = await outcome(refdata_room.submit())
    in_use, is_retired = await in_use_and_retired(refdata_room, refdata_id)
    assert (in_use, is_retired) in {(True, False), (False, True)}
    assert (submitted == "done") is not (retired == ["done"])
    if submitted != "done":
        assert "retired" in submitted
        assert await refdata_room.stored() == {}


async def test_two_that_cannot_both_be_may_both_be_refused_but_not_both_done(refdata_room: RefdataRoom) -> None:
    house = refdata_room.house
    for n in range(5):
        refdata_id = await house.registered("here", file=f"cts-data/{n}.gz")
        await house.stagings.set_fields(f"{refdata_id}@here", {"state": "complete"})
        await asyncio.gather(
            outcome(refdata_room.approve(f"a{n}", refdata_id)), outcome(house.refdata.retire(ADMIN, refdata_id))
        )
        assert await in_use_and_retired(refdata_room, refdata_id) != (True, True)


# Images


async def test_an_image_with_reference_data(refdata_room: RefdataRoom) -> None:
    refdata_id = await refdata_room.house.registered("here")  # it need not be staged yet
    image = await refdata_room.approve("1", refdata_id, "/ref")
    found = await refdata_room.images.get(f"{TOOL}:1")
    assert found == image
    assert (found.refdata_id, found.default_refdata_mount_point) == (refdata_id, "/ref")


async def test_images_that_are_refused(refdata_room: RefdataRoom) -> None:
    with pytest.raises(NoSuchRefdataError):
        await refdata_room.approve("1", "none")
    with pytest.raises(MissingParameterError, match="default_refdata_mount_point needs refdata_id"):
        await refdata_room.images.approve(ADMIN, f"{TOOL}:1", ImageApproval(), None, "/ref")
    refdata_id = await refdata_room.house.staged("here")
    await refdata_room.house.refdata.retire(ADMIN, refdata_id)
    with pytest.raises(InvalidRefdataStateError, match="retired"):
        await refdata_room.approve("1", refdata_id)
    assert await refdata_room.images.list() == []


async def test_what_is_taken_over_from_another_image(refdata_room: RefdataRoom) -> None:
    one = await refdata_room.house.registered("here")
    two = await refdata_room.house.registered("here", file="cts-data/two.gz")
    source = {"from_image": f"{TOOL}:1"}
    await refdata_room.approve("1", one, "/one", urls=["https://example.org"], usage_notes="be kind")

    def fields(image: ImageRecord) -> tuple[Any, ...]:
        return image.refdata_id, image.default_refdata_mount_point, image.usage_notes

    assert fields(await refdata_room.approve("2", **source)) == (one, "/one", "be kind")
    assert fields(await refdata_room.approve("3", one, None, **source)) == (one, "/one", "be kind")
    assert fields(await refdata_room.approve("4", one, "/mine", **source)) == (one, "/mine", "be kind")
    assert fields(await refdata_room.approve("5", two, None, **source, usage_notes="x")) == (two, None, "x")
    moved = await refdata_room.images.approve(ADMIN, f"{TOOL}:6", ImageApproval.model_validate(source), None, "/moved")
    assert fields(moved) == (one, "/moved", "be kind")


# Jobs


async def test_a_job_with_reference_data(refdata_room: RefdataRoom) -> None:
    refdata_id = await refdata_room.house.staged("here")
    await refdata_room.approve("1", refdata_id, "/ref")
    job = await refdata_room.house.jobs.get(await refdata_room.submit())
    assert job is not None
    assert (job.image.refdata_id, job.image.default_refdata_mount_point) == (refdata_id, "/ref")
    assert await refdata_room.stored() == {"jobs": 1, "containers": 1, "files": 1}


@pytest.mark.parametrize(
    ("site", "state", "match"),
    [
        ("nersc", "complete", "is not at the site nersc; use another site"),
        ("bare", "complete", "is not at the site bare"),
        ("here", "created", "state created at the site here"),
        ("here", "download_submitted", "state download_submitted at the site here"),
        ("here", "error", "state error at the site here"),
    ],
)
async def test_jobs_go_where_the_data_is(refdata_room: RefdataRoom, site: str, state: str, match: str) -> None:
    refdata_id = await refdata_room.house.registered("here")
    await refdata_room.house.stagings.set_fields(f"{refdata_id}@here", {"state": state})
    await refdata_room.approve("1", refdata_id, "/ref")
    with pytest.raises(InvalidRefdataStateError, match=match):
        await refdata_room.submit(site=site)
    assert await refdata_room.stored() == {}


async def test_somebody_must_say_where_the_data_is_to_be(refdata_room: RefdataRoom) -> None:
    refdata_id = await refdata_room.house.staged("here")
    await refdata_room.approve("1", refdata_id, None)
    with pytest.raises(MissingParameterError, match=r"params.refdata_mount_point: the image localhost/tools/x needs"):
        await refdata_room.submit()
    assert await refdata_room.stored() == {}
    await refdata_room.submit(params={"refdata_mount_point": "/mine"})


@pytest.mark.parametrize(
    "params",
    [
        {"input_mount_point": "/ref"},
        {"output_mount_point": "/ref"},
        {"input_mount_point": "/ref/in"},
        {"output_mount_point": "/ref/out"},
        {"input_mount_point": "/r"},
    ],
    ids=str,
)
async def test_the_images_own_place_may_be_taken(refdata_room: RefdataRoom, params: dict[str, str]) -> None:
    refdata_id = await refdata_room.house.staged("here")
    mount = "/r/ref" if params.get("input_mount_point") == "/r" else "/ref"
    await refdata_room.approve("1", refdata_id, mount)
    where = re.escape(f"has its reference data at {mount} unless params.refdata_mount_point says otherwise, and ")
    with pytest.raises(IllegalParameterError, match=where):
        await refdata_room.submit(params=params)
    assert await refdata_room.stored() == {}
    await refdata_room.submit(params={**params, "refdata_mount_point": "/elsewhere"})


async def test_no_jobs_for_data_that_is_retired(refdata_room: RefdataRoom) -> None:
    house = refdata_room.house
    refdata_id = await house.staged("here")
    await refdata_room.approve("1", refdata_id)
    await house.refdata_store.begin_retiring(refdata_id, "request", START)
    with pytest.raises(InvalidRefdataStateError, match="retired, or is about to be"):
        await refdata_room.submit()
    assert await refdata_room.stored() == {}
