"""What is asked for by the pages' forms: a job, with all that may be wrong with it, and what administrators do."""

from __future__ import annotations

import html
import json
from typing import Any

import pytest

from cdmtaskservice.domain.errors import (
    IdempotencyConflictError,
    ImageFetchError,
    NoSuchImageError,
    S3PathInaccessibleError,
)
from test.unit.api_fakes import FakeServices
from test.unit.api_records import CRC, DIGEST, JOB_INPUT, job_record
from test.unit.web_client import mark_of, signed_in, tags_of, text_of

FORM: dict[str, Any] = {
    "cluster": "kbase",
    "image": "ghcr.io/kbase/tool:1",
    "args": '--in\n{"type": "input_files", "input_files_format": "comma_separated_list"}',
    "memory": "2GB",
    "runtime": "PT5M",
    "num_containers": "2",
    "output_dir": "cts-data/out",
    "input_files": "cts-data/in/a.fa\nta\ncts-data/in/b.fa",
    "key": "key-1",
}


async def test_submitting_goes_to_the_job() -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    form = {**FORM, "input_files": "cts-data/in/a.fa\r\ncts-data/in/b.fa\r\n"}
    answer = await browser.post("/ui/submit", {**form, "do": "submit"})
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/ui/jobs/job1?done=submitted"
    _, (user, job, key) = services.submission.calls[-1]
    assert (user.user, key) == ("ann", "key-1")
    assert job.files == ["cts-data/in/a.fa", "cts-data/in/b.fa"]
    shown = await browser.get("/ui/jobs/job1?done=submitted")
    assert "The job is submitted." in shown.text


async def test_checking_shows_what_would_run() -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    form = {**FORM, "input_files": "cts-data/in/a.fa\ncts-data/in/b.fa", "do": "check"}
    answer = await browser.post("/ui/submit", form)
    assert answer.status_code == 200
    shown = text_of(answer.text)
    assert "It can be submitted" in shown
    assert DIGEST in shown
    assert "/input_files/sample-0.fa" in shown
    assert [name for name, _ in services.submission.calls] == ["dry_run"]
    assert "there is something." in answer.text
    assert 'value="key-1"' in answer.text  # what is checked and what is submitted is one


async def test_what_is_refused_is_said_at_its_field_and_nothing_is_lost() -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    answer = await browser.post("/ui/submit", {**FORM, "do": "submit"})
    assert answer.status_code == 400
    [field] = [a for t, a in tags_of(answer.text) if t == "textarea" and a.get("id") == "input_files"]
    assert field["aria-invalid"] == "true"
    assert "fault-input_files" in str(field["aria-describedby"])
    assert "line 2: " in answer.text
    assert "cts-data/in/b.fa" in answer.text
    services.submission.raises["submit"] = S3PathInaccessibleError("output_dir: 'cts-data/out/' is not under a path")
    good = {**FORM, "input_files": "cts-data/in/a.fa\ncts-data/in/b.fa"}
    answer = await browser.post("/ui/submit", {**good, "do": "submit"})
    assert answer.status_code == 400
    assert 'id="fault-output_dir"' in answer.text
    assert 'value="key-1"' in answer.text


async def test_a_key_that_was_used_for_another_job_is_replaced() -> None:
    services = FakeServices()
    services.submission.raises["submit"] = IdempotencyConflictError("The Idempotency-Key was used for another request")
    browser = await signed_in(services, "ann")
    good = {**FORM, "input_files": "cts-data/in/a.fa\ncts-data/in/b.fa", "do": "submit"}
    answer = await browser.post("/ui/submit", good)
    assert answer.status_code == 400
    assert 'name="key" value="page-' in answer.text
    assert "Submit once more" in answer.text


async def test_a_form_from_before_signing_in_anew_is_shown_again_and_not_sent() -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    old = mark_of((await browser.get("/ui/sites")).text)
    await browser.sign_in("ann")
    form = {**FORM, "input_files": "cts-data/in/a.fa\ncts-data/in/b.fa", "name": "Typed for long", "do": "submit"}
    answer = await browser.post("/ui/submit", form, old)
    assert answer.status_code == 403
    assert "signed in anew" in answer.text
    assert 'value="Typed for long"' in answer.text
    assert services.submission.calls == []
    answer = await browser.post("/ui/submit", form, mark_of(answer.text))
    assert answer.status_code == 303


async def test_the_form_as_json_and_back() -> None:
    services = FakeServices()
    browser = await signed_in(services, "ann")
    good = {**FORM, "input_files": "cts-data/in/a.fa\ncts-data/in/b.fa"}
    answer = await browser.post("/ui/submit", {**good, "do": "as-json"})
    assert "&#34;input_files_format&#34;: &#34;comma_separated_list&#34;" in answer.text
    text = json.dumps({**JOB_INPUT})
    back = await browser.post("/ui/submit", {"json": text, "key": "k", "do": "as-form"})
    assert "cts-data/in/a.fa\ta" in back.text
    stays = await browser.post("/ui/submit", {"json": '{"colour": 1}', "key": "k", "do": "as-form"})
    assert stays.status_code == 400
    assert "There is no field colour" in stays.text
    for wrong in ("{", "[]", '{"a": ' + "[" * 5000):
        answer = await browser.post("/ui/submit", {"json": wrong, "key": "k", "do": "submit"})
        assert answer.status_code == 400
    answer = await browser.post("/ui/submit", {"json": text, "key": "k", "do": "submit"})
    assert answer.status_code == 303


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"add_what": "files-repeat", "add_flag": "-i"},
            '{"type": "input_files", "input_files_format": "repeat_parameter", "flag": "-i"}',
        ),
        (
            {"add_what": "number", "add_container_num_prefix": "part-", "add_variable": "PART"},
            'PART={"type": "container_number", "container_num_prefix": "part-"}',
        ),
        (
            {"add_what": "manifest-ids", "add_manifest_file_header": "ids"},
            '{"type": "manifest_file", "manifest_file_format": "data_ids", "manifest_file_header": "ids"}',
        ),
    ],
)
async def test_choosers_add_a_line(fields: dict[str, str], line: str) -> None:
    browser = await signed_in(FakeServices(), "ann")
    answer = await browser.post("/ui/submit", {**FORM, **fields, "do": "add"})
    assert html.escape(line).replace("&quot;", "&#34;") in answer.text


async def test_resubmitting_starts_from_the_job_without_its_checksums() -> None:
    browser = await signed_in(FakeServices(), "ann")
    answer = await browser.get("/ui/submit?from=job1")
    assert "cts-data/in/sample-0.fa\tid-0" in answer.text
    assert CRC not in answer.text
    assert 'value="2GB"' in answer.text


async def test_resubmitting_what_the_form_has_no_place_for_starts_as_json() -> None:
    services = FakeServices()
    services.jobs.job = job_record(input={**JOB_INPUT, "memory": 2_000_000_000, "tags": [" "]})
    browser = await signed_in(services, "ann")
    answer = await browser.get("/ui/submit?from=job1")
    assert answer.status_code == 200
    assert "tags has an entry of blanks only" in answer.text
    assert 'id="json"' in answer.text


@pytest.mark.parametrize(
    "fields",
    [
        {**FORM, "do": "add"},
        {"json": json.dumps(JOB_INPUT), "key": "k", "do": "check"},
        {"json": "{}", "key": "k", "do": "add"},
        {**FORM, "output_mount_point": "x", "tags": "x" * 60, "environment": "A", "do": "check"},
        {**FORM, "output_mount_point": "x", "tags": "x" * 60, "input_roots": "/", "do": "check"},
    ],
)
async def test_the_summary_of_faults_leads_to_fields(fields: dict[str, str]) -> None:
    services = FakeServices()
    for name in ("get", "dry_run"):
        error = NoSuchImageError("The image is not approved")
        (services.images if name == "get" else services.submission).raises[name] = error
    browser = await signed_in(services, "ann")
    tags = tags_of((await browser.post("/ui/submit", fields)).text)
    ids = {attributes.get("id") for _, attributes in tags}
    links = [str(a["href"]) for tag, a in tags if tag == "a" and str(a.get("href")).startswith("#")]
    assert {link[1:] for link in links} <= ids


POSTS = (
    ("/ui/jobs/job1/cancel", {}, "jobs", "cancel"),
    ("/ui/admin/jobs/job1/cancel", {}, "jobs", "cancel"),
    ("/ui/admin/jobs/job1/meta", {"key": "ticket", "value": "7", "do": "set"}, "admin_jobs", "set_meta"),
    ("/ui/admin/jobs/job1/meta", {"key": "ticket", "do": "unset"}, "admin_jobs", "set_meta"),
    ("/ui/admin/jobs/job1/notify", {"state": "created"}, "admin_jobs", "notify"),
    ("/ui/admin/jobs/job1/clean", {"force": "yes"}, "admin_jobs", "clean"),
    ("/ui/admin/images", {"image": f"ghcr.io/kbase/tool:1@{DIGEST}", "usage_notes": "x"}, "images", "approve"),
    ("/ui/admin/images/withdraw", {"image": f"ghcr.io/kbase/tool@{DIGEST}"}, "images", "delete"),
    ("/ui/admin/refdata", {"file": "cts-data/db.tar.gz", "unpack": "yes"}, "refdata", "register"),
    ("/ui/admin/refdata/ref1/retire", {}, "refdata", "retire"),
    ("/ui/admin/refdata/ref1/kbase/recover", {}, "refdata", "recover"),
    ("/ui/admin/refdata/ref1/kbase/clean", {"force": "yes"}, "refdata", "clean"),
    ("/ui/admin/sites/kbase/close", {}, "sites", "set_active"),
    ("/ui/admin/sites/kbase/open", {}, "sites", "set_active"),
    ("/ui/admin/service", {"age": "PT10M"}, "admin_jobs", "unsent"),
)


@pytest.mark.parametrize(("path", "fields", "service", "call"), POSTS)
async def test_what_is_done_is_done_by_a_form_of_ours_only(
    path: str, fields: dict[str, str], service: str, call: str
) -> None:
    services = FakeServices()
    fake = getattr(services, service)
    browser = await signed_in(services, "admin")
    page = await browser.get("/ui/sites")
    refused = (
        {"mark": ""},
        {"mark": "x" * 43},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    )
    for change in refused:
        answer = await browser.post(path, fields, **change)  # type: ignore[arg-type]
        assert answer.status_code == 403, change
        assert call not in [name for name, _ in fake.calls]
    assert (await browser.get(path)).status_code in (200, 404)
    assert call not in [name for name, _ in fake.calls]
    answer = await browser.post(path, fields, mark_of(page.text))
    assert answer.status_code in (200, 303), answer.text
    assert call in [name for name, _ in fake.calls]
    if path.startswith("/ui/admin"):
        assert (await (await signed_in(services, "ann")).post(path, fields)).status_code == 403


async def test_publishing_what_is_overdue_is_not_done_again_by_reloading() -> None:
    services = FakeServices()
    browser = await signed_in(services, "admin")
    answer = await browser.post("/ui/admin/service", {"age": "PT10M"})
    assert answer.headers["Location"] == "/ui/admin/service?jobs=2&messages=5"
    assert "5 messages of 2 jobs published" in (await browser.get("/ui/admin/service?jobs=2&messages=5")).text
    assert "published." not in (await browser.get("/ui/admin/service?jobs=many&messages=5")).text


async def test_numbers_among_notes_stay_numbers() -> None:
    services = FakeServices()
    browser = await signed_in(services, "admin")
    for value, noted in (("7", 7), ("-0.5", -0.5), ("1e5", "1e5"), ("seven", "seven")):
        await browser.post("/ui/admin/jobs/job1/meta", {"key": "k", "value": value, "do": "set"})
        assert services.admin_jobs.calls[-1][1][1] == {"k": noted}
    answer = await browser.post("/ui/admin/jobs/job1/meta", {"key": "a.b", "value": "1", "do": "set"})
    assert answer.status_code == 400


async def test_an_image_is_approved_by_the_digest_that_was_shown() -> None:
    services = FakeServices()
    services.images.raises["get"] = NoSuchImageError("not approved")
    browser = await signed_in(services, "admin")
    found = await browser.get("/ui/admin/images?image=ghcr.io/kbase/tool:1")
    assert DIGEST in found.text
    assert "tool run" in text_of(found.text)
    assert f'value="ghcr.io/kbase/tool:1@{DIGEST}"' in found.text
    services.images.raises["inspect"] = ImageFetchError("there is no image x; the registry knows no such repository")
    missing = await browser.get("/ui/admin/images?image=x/y:1")
    assert missing.status_code == 400
    assert "knows no such repository" in missing.text
