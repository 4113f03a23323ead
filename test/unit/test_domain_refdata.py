"""Reference data: what can be unpacked, how fast it comes, who needs it, and what its services may say."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from cdmtaskservice.domain.errors import IllegalParameterError
from cdmtaskservice.domain.records import ImageRecord, JobRecord, Transition
from cdmtaskservice.domain.refdata import (
    RefdataMount,
    RefdataRecord,
    StagingProgress,
    StagingRecord,
    StagingTransition,
    archive_format,
    refdata_of,
    staging_id,
)
from cdmtaskservice.domain.refdata_calls import RefdataProgress, RefdataUpdate, RefdataWorkRequest
from cdmtaskservice.domain.states import JobState, RefdataState
from cdmtaskservice.sites import refdata as plans
from cdmtaskservice.sites.refdata import StagingLimits

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
REFDATA = RefdataRecord("r", "b/d/db.tar.gz", "AAAAAAAAAAA=", 10_000_000, True, "adam", NOW)


# Archives


@pytest.mark.parametrize(
    ("file", "form"),
    [
        ("b/db.tar.gz", "tar.gz"),
        ("b/db.tgz", "tar.gz"),
        ("b/db.tar.zst", "tar.zst"),
        ("b/db.fa.gz", "gz"),
        ("b/db.zip", "zip"),
        ("b/a.zip/db.gz", "gz"),
        ("b/..gz", "gz"),
    ],
)
def test_a_name_tells_how_it_is_unpacked(file: str, form: str) -> None:
    assert archive_format(file) == form
    assert dataclasses.replace(REFDATA, file=file).archive_format == form
    assert dataclasses.replace(REFDATA, file=file, unpack=False).archive_format is None


@pytest.mark.parametrize("file", ["b/db", "b/db.tar", "b/db.GZ", "b/a.zip/db", "b/db.zst", "b/.gz", "b/.zip", "b/gz"])
def test_names_of_what_cannot_be_unpacked(file: str) -> None:
    with pytest.raises(IllegalParameterError, match=r"unpack: .* no archive.*\.tar\.zst"):
        archive_format(file)


def test_nothing_comes_to_need_what_is_retired_or_about_to_be() -> None:
    assert REFDATA.is_current
    assert not dataclasses.replace(REFDATA, retiring="request").is_current
    assert not dataclasses.replace(REFDATA, retired_on=NOW).is_current


# Progress


def told(seconds: float, done: int, rate: float = 0.0) -> StagingProgress:
    return StagingProgress("downloading", done, 1000, 0, 0, NOW + datetime.timedelta(seconds=seconds), rate)


@pytest.mark.parametrize(
    ("before", "now", "rate"),
    [
        (None, told(5, 100), 10.0),
        (told(0, 100), told(10, 200), 10.0),
        (told(0, 100, 30.0), told(10, 200), 20.0),
        (told(0, 100, 30.0), told(10, 100), 15.0),
        (told(0, 500, 30.0), told(10, 150), 10.0),
        (told(10, 100, 30.0), told(10, 200), 30.0),
        (told(10, 100, 30.0), told(5, 200), 30.0),
    ],
    ids=["first", "second", "half is the past", "stands still", "begun anew", "same instant", "clock set back"],
)
def test_the_rate_is_measured_between_two_reports(
    before: StagingProgress | None, now: StagingProgress, rate: float
) -> None:
    begun = NOW - datetime.timedelta(seconds=5)
    assert now.after(before, begun) == dataclasses.replace(now, rate=rate)


@pytest.mark.parametrize(("done", "total", "percent"), [(0, 8, 0), (1, 8, 12.5), (8, 8, 100), (9, 8, 100), (0, 0, 0)])
def test_percent(done: int, total: int, percent: float) -> None:
    assert StagingProgress("x", done, total, 0, 0, NOW).percent == percent


# Stagings


def staging(state: RefdataState = RefdataState.CREATED, **more: Any) -> StagingRecord:
    return StagingRecord("r", "here", state, (StagingTransition(state, NOW),), **more)


def test_a_staging_is_over_until_somebody_wants_more() -> None:
    assert staging().id == staging_id("r", "here") == "r@here"
    assert [s for s in RefdataState if staging(s).is_over] == [RefdataState.COMPLETE, RefdataState.ERROR]


def test_what_an_administrator_asks_for_does_not_wait_for_a_pause_after_a_failure() -> None:
    assert not staging(failures=2).overtakes(staging())
    assert staging(round=1).overtakes(staging())
    assert staging(cleaning=True).overtakes(staging())


# Jobs


def a_job(mount_point: str | None, default: str | None, refdata_id: str | None = "r") -> JobRecord:
    image = ImageRecord("x/y", "sha256:0", (), "a", NOW, refdata_id=refdata_id, default_refdata_mount_point=default)
    params = {} if mount_point is None else {"refdata_mount_point": mount_point}
    created = (Transition(JobState.CREATED, NOW, "t"),)
    return JobRecord("j", "ann", "here", {"params": params}, image, 1, 1, 60.0, JobState.CREATED, created)


def test_where_a_job_finds_its_reference_data() -> None:
    assert refdata_of(a_job("/mine", "/images")) == RefdataMount("r", "/mine")
    assert refdata_of(a_job(None, "/images")) == RefdataMount("r", "/images")
    assert refdata_of(a_job("/mine", None)) == RefdataMount("r", "/mine")
    assert refdata_of(a_job(None, None)) is None
    assert refdata_of(a_job("/mine", None, refdata_id=None)) is None


# What services may say


@pytest.mark.parametrize(("root", "stored"), [("/a", "/a"), ("/a/b//", "/a/b"), ("/", "/"), ("/ü b", "/ü b")])
def test_a_root_is_absolute(root: str, stored: str) -> None:
    assert RefdataWorkRequest(claim="c", root=root) == RefdataWorkRequest(claim="c", root=stored, room=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"root": "a"},
        {"root": ""},
        {"root": "/a/../b"},
        {"root": "/a\n"},
        {"root": "/a\ud800"},
        {"root": "/" + "a" * 4096},
        {"claim": ""},
        {"claim": "c" * 101},
        {"claim": "c\0"},
        {"room": -1},
        {"room": 101},
        {"other": 1},
    ],
    ids=lambda wrong: ascii(wrong)[:30],
)
def test_questions_for_work_that_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        RefdataWorkRequest.model_validate({"claim": "c", "root": "/r", **wrong})
    assert caught.value.errors()[0]["loc"] == tuple(wrong)


TRANSFER = {"phase": "x", "bytes_done": 0, "bytes_total": 0, "files_done": 0, "bytes_unpacked": 0, "time": 0}


def test_progress_may_be_left_out_but_not_in_part() -> None:
    assert RefdataProgress(task="t", claim="c").progress is None
    RefdataProgress.model_validate({"task": "t", "claim": "c", "progress": TRANSFER})
    for name in TRANSFER:
        with pytest.raises(ValidationError, match=name):
            RefdataProgress.model_validate(
                {"task": "t", "claim": "c", "progress": {k: v for k, v in TRANSFER.items() if k != name}}
            )


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": float("nan")},
        {"time": float("inf")},
        {"time": -1},
        {"bytes_done": -1},
        {"bytes_total": 2**53},
        {"files_done": 0.5},
        {"phase": "\x1b"},
        {"phase": "p" * 21},
    ],
    ids=ascii,
)
def test_progress_that_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RefdataProgress.model_validate({"task": "t", "claim": "c", "progress": {**TRANSFER, **wrong}})


def test_an_update_may_say_nothing_but_nothing_unknown() -> None:
    empty = RefdataUpdate()
    assert (empty.task, empty.claim, empty.again, empty.crashed, empty.files) == (None, None, None, False, None)
    for wrong in ({"again": "never"}, {"error": "e" * 100_001}, {"files": 2**53}, {"task": ""}, {"state": "x"}):
        with pytest.raises(ValidationError):
            RefdataUpdate.model_validate(wrong)


# Plans

LIMITS = StagingLimits(connections=4, piece_size=1 << 20, patience=60.0, max_files=9, max_bytes=99)


def test_a_plan_to_stage_says_everything_that_remote_code_reads() -> None:
    assert plans.stage(REFDATA, "/site", "https://s3/x?sig", LIMITS) == {
        "root": "/site",
        "id": "r",
        "file": "b/d/db.tar.gz",
        "url": "https://s3/x?sig",
        "size": 10_000_000,
        "crc64nvme": "AAAAAAAAAAA=",
        "unpack": "tar.gz",
        "connections": 4,
        "piece_size": 1 << 20,
        "patience": 60.0,
        "max_files": 9,
        "max_bytes": 99,
        "time_limit": 130.0,
    }
    plain = plans.stage(dataclasses.replace(REFDATA, unpack=False), "/site", "u", LIMITS)
    assert (plain["unpack"], plain["time_limit"]) == (None, 122.0)


def test_cleaning_leaves_the_data_and_waits_for_whoever_stages_it() -> None:
    trees = [{"root": "/site/.cts/incoming", "name": "r", "lock": True}]
    assert plans.clean("r", "/site") == {"trees": trees, "expired": []}


@pytest.mark.parametrize("state", RefdataState)
def test_only_data_that_is_complete_must_be_known_where_it_is_removed(state: RefdataState) -> None:
    complete = state is RefdataState.COMPLETE
    assert plans.remove(staging(state), "/site") == {
        "manifests": [{"root": "/site/.cts/manifests", "name": "r", "required": complete}],
        "trees": [
            {"root": "/site/.cts/incoming", "name": "r", "lock": True},
            {"root": "/site", "name": "r"},
        ],
        "expired": [],
    }
