"""The form of a job: it holds every job, and shows what is wrong at the field where it is."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from pydantic import ValidationError

from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    CTSError,
    IllegalParameterError,
    NoSuchBucketError,
    NoSuchImageError,
    SiteInactiveError,
    UnauthorizedError,
)
from cdmtaskservice.domain.jobs import JobInput
from cdmtaskservice.web import faults
from cdmtaskservice.web.form_data import Sent
from cdmtaskservice.web.job_form import (
    NAMES,
    Fields,
    NotInFormError,
    UnreadLineError,
    body_of,
    fields_of,
    fields_sent,
    line_numbers,
)
from test.unit.api_records import CRC, JOB_INPUT
from test.unit.test_domain_jobs import JUNK, REQUEST


def through_a_browser(fields: Fields) -> Fields:
    """What comes back of a form that is sent as it is: line ends are CR and LF on the way."""
    sent = {name: value.replace("\n", "\r\n") for name, value in fields.items()}
    return fields_sent(Sent.read(urllib.parse.urlencode(sent).encode(), 100))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(REQUEST)
def test_every_job_goes_through_the_form_and_is_the_same(request_: dict[str, Any]) -> None:
    job = JobInput.model_validate(request_)
    assume(all(tag.strip() for tag in job.tags))  # a blank line is no tag
    fields = through_a_browser(fields_of(job.model_dump(mode="json", exclude_none=True)))
    again = JobInput.model_validate(body_of(fields))
    assert _shown(again) == _shown(job)
    assert fields_of(body_of(fields)) == fields


def _shown(job: JobInput) -> dict[str, Any]:
    """A job as replies show it; lists that are empty are the same as none."""
    shown = job.model_dump(mode="json", exclude_none=True)
    for place, name in ((shown, "input_roots"), (shown["params"], "args"), (shown["params"], "environment")):
        if place.get(name) in ([], {}):
            del place[name]
    return shown


@settings(deadline=None)
@given(JUNK)
def test_what_the_form_has_no_place_for_is_said(junk: Any) -> None:
    try:
        fields = fields_of(junk)
    except NotInFormError:
        return
    assert set(fields) == set(NAMES)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"params": {"declobber": "false"}}, "params.declobber is neither true nor false"),
        ({"tags": ["a", "  "]}, "tags has an entry of blanks only"),
        ({"input_roots": ["", "\t"]}, "input_roots has an entry of blanks only"),
    ],
)
def test_what_the_form_would_show_as_something_else_is_said(body: dict[str, Any], words: str) -> None:
    with pytest.raises(NotInFormError, match=words):
        fields_of(body)


def test_lines_of_files() -> None:
    lines = ["b/plain.fa", "", " b/blank at end ", "b/id.fa; an id; of two parts", f"b/both.fa\tid\t{CRC}"]
    text = "\n".join([*lines, f"b/sum.fa\t\t{CRC}", ""])
    fields = through_a_browser({"input_files": text})
    assert body_of(fields)["input_files"] == [
        {"file": "b/plain.fa"},
        {"file": " b/blank at end "},
        {"file": "b/id.fa", "data_id": "an id; of two parts"},
        {"file": "b/both.fa", "data_id": "id", "crc64nvme": CRC},
        {"file": "b/sum.fa", "crc64nvme": CRC},
    ]
    assert body_of({"input_files": "b/a\nb/c "})["input_files"] == ["b/a", "b/c "]


def test_what_is_empty_is_left_out() -> None:
    assert body_of(dict.fromkeys(NAMES, "")) == {"params": {}}
    assert body_of({"runtime": "90", "args": "\n -v \n", "input_roots": '""\nb'}) == {
        "params": {"args": ["-v"]},
        "runtime": 90.0,
        "input_roots": ["", "b"],
    }


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"args": "stats\n{oh no"}, "args", "line 2 begins with '{', but is no JSON"),
        ({"environment": "A=b\nnothing"}, "environment", "line 2: write NAME=value"),
        ({"environment": "A={"}, "environment", "line 1 begins with"),
        ({"environment": "A=b\nB=c\n\nA=d"}, "environment", "line 4: A is set on a line before"),
    ],
)
def test_lines_that_cannot_be_read(fields: Fields, field: str, words: str) -> None:
    with pytest.raises(UnreadLineError, match=words) as caught:
        body_of(fields)
    assert caught.value.field == field


GOOD = fields_of({**JOB_INPUT, "input_files": ["cts-data/in/a.fa", "cts-data/in/b.fa"]})


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"cluster": ""}, "cluster", "Field required"),
        ({"cpus": "two"}, "cpus", "valid integer"),
        ({"memory": "many"}, "memory", "memory of 'many' is not understood"),
        ({"runtime": "P1Y"}, "runtime", "years or months"),
        ({"args": "\nstats\n\n$(rm)"}, "args", r"^line 4: the argument '\$\(rm\)'"),
        ({"args": '{"type": "input_files"}'}, "args", "^line 1: a parameter of type input_files needs"),
        ({"args": '{"type": "nonsense"}'}, "args", "^line 1 type: "),
        ({"environment": "a=b"}, "environment", "'a' must be named"),
        ({"environment": "A=$B"}, "environment", "^A: the value '\\$B' is not a literal"),
        ({"input_files": "cts-data/a\n\ncts-data//b"}, "input_files", "^line 3: "),
        ({"input_files": "cts-data/a\tid\tshort\ncts-data/b\tid2"}, "input_files", "^line 1 crc64nvme: 'short'"),
        ({"input_files": "cts-data/a\ncts-data/a"}, "input_files", "listed twice"),
        ({"num_containers": "3"}, "input_files", "num_containers is 3"),
        ({"output_dir": "no"}, "output_dir", ""),
        ({"output_mount_point": "relative"}, "output_mount_point", "absolute path"),
        ({"input_mount_point": "/x", "output_mount_point": "/x"}, "args", "are both '/x'"),
        ({"name": "x" * 101}, "name", "at most 100"),
        ({"tags": "ok\n" + "x" * 51}, "tags", "^line 2: "),
    ],
)
def test_faults_stand_at_their_field(changes: Fields, field: str, words: str) -> None:
    fields = {**GOOD, **changes}
    with pytest.raises(ValidationError) as caught:
        JobInput.model_validate(body_of(fields))
    told = faults.of_validation(caught.value, fields)
    assert list(told) == [field]
    assert re.search(words, told[field][0]), told


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (IllegalParameterError("cpus: 100 per container is more than the 2 that the site local allows"), "cpus"),
        (IllegalParameterError("params: container 0 would get 3 arguments"), "args"),
        (IllegalParameterError("params.refdata_mount_point: the image needs"), "refdata_mount_point"),
        (IllegalParameterError("input_files: 'a' and 'b' would both be"), "input_files"),
        (IllegalParameterError("There is no site 'x'; the sites are local"), "cluster"),
        (IllegalParameterError("The job asks for 5000 CPU hours"), "runtime"),
        (IllegalParameterError("something else: entirely"), ""),
        (NoSuchImageError("The image x is not approved"), "image"),
        (SiteInactiveError("The site x is closed"), "cluster"),
        (UnauthorizedError("User ann may not submit jobs to the site x"), "cluster"),
        (ChecksumMismatchError("The input file 'x' has no CRC64NVME"), "input_files"),
        (NoSuchBucketError("There is no S3 bucket 'out'"), "output_dir"),
        (NoSuchBucketError("There is no S3 bucket 'in'"), "input_files"),
    ],
)
def test_faults_that_the_service_finds_stand_at_their_field(error: CTSError, field: str) -> None:
    assert faults.of_service(error, {"output_dir": "out/x"}) == {field: [error.message]}


def test_only_so_many_faults_of_a_field_are_told() -> None:
    fields = {**GOOD, "args": "\n".join(["$"] * 500)}
    with pytest.raises(ValidationError) as caught:
        JobInput.model_validate(body_of(fields))
    assert len(faults.of_validation(caught.value, fields)["args"]) == faults.MOST


def test_lines_of_a_field_are_counted_once_however_many_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def count(text: str) -> list[int]:
        counted.append(len(text))
        return line_numbers(text)

    monkeypatch.setattr(faults, "line_numbers", count)
    fields = {**GOOD, "input_files": "\n".join(f"cts-data//{n}" for n in range(2000)), "tags": "x" * 51}
    with pytest.raises(ValidationError) as caught:
        JobInput.model_validate(body_of(fields))
    told = faults.of_validation(caught.value, fields)
    assert told["input_files"][-1].startswith(f"line {faults.MOST}: ")
    assert sorted(counted) == [51, len(fields["input_files"])]
