"""Reference data over HTTP: what is shown to whom, what parameters mean, and paths with odd characters."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest

from cdmtaskservice.api import models
from cdmtaskservice.domain.errors import (
    InvalidRefdataStateError,
    NoSuchRefdataError,
    RefdataExistsError,
    UnsupportedOperationError,
)
from cdmtaskservice.domain.refdata import Errand, StagingProgress, StagingRecord, StagingTransition
from cdmtaskservice.domain.refdata_calls import RefdataProgress, RefdataUpdate, RefdataWorkRequest
from cdmtaskservice.domain.states import RefdataState
from cdmtaskservice.services.callbacks import Callbacks
from cdmtaskservice.services.refdata import RefdataView
from test.unit.api_fakes import Client, FakeServices
from test.unit.api_records import CALLERS, CRC, NOW, NOW_TEXT, REFDATA, STAGING

S = RefdataState
LATER = NOW + datetime.timedelta(seconds=1)
LATER_TEXT = "2030-01-02T03:04:06.678000Z"
SHOWN = {
    "id": "ref1",
    "file": "cts-data/ref/db.tar.gz",
    "crc64nvme": CRC,
    "unpack": True,
    "registered_by": "adam",
    "registered_on": NOW_TEXT,
}
SHOWN_STAGING = {
    "cluster": "kbase",
    "state": "created",
    "transition_times": [{"state": "created", "time": NOW_TEXT}],
}
FULL = StagingRecord(
    "ref1",
    "perlmutter-jaws",
    S.ERROR,
    (StagingTransition(S.CREATED, NOW), StagingTransition(S.ERROR, LATER)),
    next_look=LATER,
    waiting="it is needed by the jobs j1",
    told="nobody is shown this",
    flow={"version": 7},
    handles={"nersc_download": ("t1", "t2")},
    round=2,
    cleaning=True,
    cleaned=True,
    removed_on=LATER,
    error="no",
    admin_error="disk full",
    traceback="Traceback …",
    progress=StagingProgress("downloading", 1, 3, 0, 0, LATER, 2.0),
    errand=Errand("1-refdata-1", "refdata", NOW, "claim-of-a-service"),
    files=5,
    unpacked=4000,
)
SHOWN_FULL = {
    "cluster": "perlmutter-jaws",
    "state": "error",
    "transition_times": [{"state": "created", "time": NOW_TEXT}, {"state": "error", "time": LATER_TEXT}],
    "error": "no",
    "removed_on": LATER_TEXT,
}
ADMINS_FULL = {
    **SHOWN_FULL,
    "cleaned": True,
    "admin_error": "disk full",
    "traceback": "Traceback …",
    "waiting": "it is needed by the jobs j1",
    "files": 5,
    "bytes": 4000,
    "nersc_download_task_id": ["t1", "t2"],
}


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def client(services: FakeServices) -> Client:
    return Client(services)


def _code(response: Any) -> tuple[int, int]:
    return response.status_code, response.json()["error"]["appcode"]


# What is shown


async def test_new_reference_data_has_no_fields_without_value(client: Client) -> None:
    everybodys = {**SHOWN, "statuses": [SHOWN_STAGING]}
    status = {**SHOWN_STAGING, "cleaned": False, "nersc_download_task_id": []}
    admins = {**SHOWN, "size": 1000, "statuses": [status]}
    assert (await client.get("/refdata/id/ref1")).json() == everybodys
    assert (await client.get("/refdata")).json() == {"data": [everybodys, {**SHOWN, "id": "ref2", "statuses": []}]}
    assert (await client.get("/refdata/path/b/k")).json() == (await client.get("/refdata")).json()
    assert (await client.get("/admin/refdata/ref1", "admin")).json() == admins
    assert (await client.get("/admin/refdata", "admin")).json()["data"] == [
        admins,
        {**SHOWN, "id": "ref2", "size": 1000, "statuses": []},
    ]


async def test_everything_that_there_is_to_say_of_it(services: FakeServices, client: Client) -> None:
    refdata = dataclasses.replace(REFDATA, retiring="removing", retired_by="eve", retired_on=LATER)
    services.refdata.view = RefdataView(refdata, [FULL])
    retired = {**SHOWN, "retired_by": "eve", "retired_on": LATER_TEXT}
    everybodys = await client.get("/refdata/id/ref1", "ann")
    assert everybodys.json() == {**retired, "statuses": [SHOWN_FULL]}
    models.ReferenceData.model_validate_json(everybodys.content)
    admins = await client.get("/admin/refdata/ref1", "admin")
    assert admins.json() == {**retired, "size": 1000, "statuses": [ADMINS_FULL]}
    models.AdminReferenceData.model_validate_json(admins.content)
    assert "claim-of-a-service" not in admins.text + everybodys.text


def test_a_view_has_every_field_of_its_model() -> None:
    """A field that is never set would be promised in vain."""
    progress = {"progress"}  # shown only while it goes on, see below
    assert ADMINS_FULL.keys() | progress == models.AdminRefdataStatus.model_fields.keys()
    assert SHOWN_FULL.keys() == models.RefdataStatus.model_fields.keys()


async def test_progress_is_shown_while_it_goes_on(services: FakeServices, client: Client) -> None:
    going = dataclasses.replace(FULL, state=S.DOWNLOAD_SUBMITTED)
    services.refdata.view = RefdataView(REFDATA, [going])
    shown = (await client.get("/admin/refdata/ref1", "admin")).json()["statuses"][0]
    assert shown["progress"] == {
        "phase": "downloading",
        "percent": 33.3,
        "bytes_done": 1,
        "bytes_total": 3,
        "bytes_per_second": 2.0,
        "files_done": 0,
        "bytes_unpacked": 0,
        "time": LATER_TEXT,
    }
    models.AdminRefdataStatus.model_validate(shown)


async def test_what_held_it_up_is_not_shown_when_nothing_is_left_to_do(services: FakeServices, client: Client) -> None:
    services.refdata.view = RefdataView(REFDATA, [dataclasses.replace(FULL, next_look=None)])
    assert "waiting" not in (await client.get("/admin/refdata/ref1", "admin")).json()["statuses"][0]
    going = dataclasses.replace(STAGING, waiting="nobody comes", next_look=None)
    services.refdata.view = RefdataView(REFDATA, [going])
    assert (await client.get("/admin/refdata/ref1", "admin")).json()["statuses"][0]["waiting"] == "nobody comes"


# Parameters


async def test_a_registration_is_passed_on_whole(services: FakeServices, client: Client) -> None:
    query = {"crc64nvme": CRC, "unpack": "true"}
    response = await client.send("POST", "/admin/refdata/b/a%20b/ü.zip", "admin", params=query)
    assert response.json() == {**SHOWN, "statuses": [SHOWN_STAGING]}
    assert services.refdata.calls == [("register", (CALLERS["admin"], "b/a b/ü.zip", CRC, True))]


@pytest.mark.parametrize(
    "query", [{"crc64nvme": "abc"}, {"crc64nvme": ""}, {"crc64nvme": "A" * 12}, {"unpack": "perhaps"}], ids=str
)
async def test_a_bad_registration_is_not_passed_on(
    query: dict[str, str], services: FakeServices, client: Client
) -> None:
    response = await client.send("POST", "/admin/refdata/b/k", "admin", params=query)
    assert _code(response) == (400, 30010)
    assert next(iter(query)) in response.json()["error"]["message"]
    assert services.refdata.calls == []


@pytest.mark.parametrize(
    ("method", "path", "raised", "error", "code"),
    [
        ("GET", "/refdata/id/r", "get", NoSuchRefdataError("no"), (404, 40060)),
        ("GET", "/admin/refdata/r", "get", NoSuchRefdataError("no"), (404, 40060)),
        ("POST", "/admin/refdata/b/k", "register", RefdataExistsError("no"), (400, 50100)),
        ("PUT", "/admin/refdata/r/x/recover", "recover", InvalidRefdataStateError("no"), (400, 30400)),
        ("DELETE", "/admin/refdata/r/x/clean", "clean", UnsupportedOperationError("no"), (400, 100000)),
        ("DELETE", "/admin/refdata/r", "retire", InvalidRefdataStateError("no"), (400, 30400)),
    ],
)
async def test_faults_have_the_contracts_codes(
    method: str,
    path: str,
    raised: str,
    error: Exception,
    code: tuple[int, int],
    services: FakeServices,
    client: Client,
) -> None:
    services.refdata.raises[raised] = error
    response = await client.send(method, path, "admin")
    assert _code(response) == code
    assert response.json()["error"]["message"] == "no"


# What reference data services send

STAGED = "/external_exec/refdata/ref1/kbase"


async def test_what_a_service_sends_is_passed_on_whole(services: FakeServices, client: Client) -> None:
    asked = {"claim": "c", "root": "/data//", "room": 0}
    await client.send("POST", "/external_exec/refdata/kbase/work", "refserv", json=asked)
    transfer = {"phase": "unpacking", "bytes_done": 1, "bytes_total": 2, "files_done": 3, "bytes_unpacked": 4}
    beat = {"task": "t", "claim": "c", "progress": {**transfer, "time": 1.5}}
    await client.send("POST", f"{STAGED}/progress", "refserv", json=beat)
    end = {"task": "t", "claim": "c", "error": "e", "admin_error": "a", "traceback": "t", "again": "later"}
    await client.send("PUT", f"{STAGED}/update/error", "refserv", json=end)
    assert services.refdata_desk.calls == [
        ("work", ("kbase", RefdataWorkRequest(claim="c", root="/data", room=0))),
        ("progress", ("ref1", "kbase", RefdataProgress.model_validate(beat))),
        ("update", ("ref1", "kbase", S.ERROR, RefdataUpdate.model_validate(end))),
    ]


@pytest.mark.parametrize("body", [None, {}, {"admin_error": "a", "traceback": "t"}, {"admin_error": None}], ids=str)
async def test_the_contracts_update_needs_no_more_than_it_says(
    body: dict[str, Any] | None, services: FakeServices, client: Client
) -> None:
    response = await client.send("PUT", f"{STAGED}/update/error", "refserv", json=body)
    assert (response.status_code, response.content) == (204, b"")
    assert services.refdata_desk.calls[0][1][3] == RefdataUpdate.model_validate(body or {})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", f"{STAGED}/update/staged", {}),
        ("PUT", f"{STAGED}/update/complete", {"surprise": 1}),
        ("PUT", f"{STAGED}/update/complete", []),
        ("PUT", f"{STAGED}/update/error", {"again": "soon"}),
        ("PUT", f"{STAGED}/update/complete", {"files": -1}),
        ("PUT", f"{STAGED}/update/complete", {"bytes": 2**53}),
        ("POST", f"{STAGED}/progress", {"task": "t"}),
        ("POST", f"{STAGED}/progress", {"task": "t", "claim": "c", "progress": {}}),
        ("POST", "/external_exec/refdata/kbase/work", {"claim": "c"}),
        ("POST", "/external_exec/refdata/kbase/work", {"claim": "", "root": "/x"}),
    ],
    ids=str,
)
async def test_what_a_service_may_not_send(
    method: str, path: str, body: Any, services: FakeServices, client: Client
) -> None:
    assert _code(await client.send(method, path, "refserv", json=body)) == (400, 30010)
    assert services.refdata_desk.calls == []


# Odd paths

ODD = ["%00", "%FF", "..%2f..", "%0A", "%F0%9F%98%80", "a%3Fb", "%25", "x" * 5000, "%ED%A0%80", "a'b;c", "%7F"]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:12])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/refdata/id/{}"),
        ("GET", "/refdata/path/{}"),
        ("GET", "/refdata/path/b/{}"),
        ("GET", "/admin/refdata/{}"),
        ("POST", "/admin/refdata/b/{}"),
        ("PUT", "/admin/refdata/{}/kbase/recover"),
        ("DELETE", "/admin/refdata/r/{}/clean"),
        ("DELETE", "/admin/refdata/{}"),
        ("GET", "/callback/refdata_download/{}/kbase"),
        ("GET", "/callback/refdata_download/r/{}"),
    ],
)
async def test_odd_characters_in_paths(odd: str, method: str, path: str, client: Client) -> None:
    response = await client.send(method, path.format(odd), "admin")
    assert response.status_code < 500


async def test_a_path_has_its_slashes_but_no_doubled_ones(services: FakeServices, client: Client) -> None:
    for path in ("/refdata/path/b/k/l", "/refdata//path/b//k/l"):
        assert (await client.get(path)).status_code == 200
    assert services.refdata.calls == [("list", ("b/k/l",))] * 2


@pytest.mark.parametrize(
    ("refdata", "site", "looked_at"),
    [
        ("id-1", "kbase", ["id-1@kbase"]),
        ("id-1", "a.b_c-d", ["id-1@a.b_c-d"]),
        ("id@1", "kbase", []),
        ("id-1", "k@b", []),
        ("", "kbase", []),
        ("x" * 65, "kbase", []),
        ("id-1", "k" * 65, []),
        ("id-1\n", "kbase", []),
        ("id-1", "kbase\n", []),
        ("é", "kbase", []),
    ],
)
def test_a_hint_is_looked_at_where_there_can_be_such_data(refdata: str, site: str, looked_at: list[str]) -> None:
    jobs: list[str] = []
    stagings: list[str] = []
    Callbacks(jobs.append, stagings.append).news_of_refdata(refdata, site)
    assert (jobs, stagings) == ([], looked_at)
