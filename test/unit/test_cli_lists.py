"""`cts images`, `sites` and `admin`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from test.unit.cli_service import IMAGE, JOB_ID, FakeService, job

NAME = f"{IMAGE['name']}:1.0"
NOTED = IMAGE | {"usage_notes": "Needs 20 GB,\nand time", "urls": ["https://example.org/tool"], "refdata_id": "r1"}
SITE = {
    "cluster": "kbase",
    "nodes": 2,
    "cpus_per_node": 32,
    "memory_per_node_gb": 250.5,
    "max_runtime_min": 2880,
    "notes": ["has GPUs"],
    "active": True,
    "available": True,
    "gpus_per_node": 4,
}


def test_images_are_listed(service: FakeService) -> None:
    bare = {k: v for k, v in IMAGE.items() if k != "tag"}
    service.says("GET /images", {"data": [NOTED, bare]})
    expected = [
        [NAME, IMAGE["digest"], "r1", "Needs 20 GB, and time"],
        [IMAGE["name"], IMAGE["digest"], "", ""],
    ]
    assert service.rows("images") == service.rows("images", "list") == expected
    assert service.json("images") == service.json("images", "list") == {"data": [NOTED, bare]}


def test_an_image_is_shown(service: FakeService) -> None:
    service.says(f"GET /images/{NAME}", NOTED | {"default_refdata_mount_point": "/ref"})
    assert service.rows("images", "show", NAME) == [
        ["image", NAME],
        ["digest", IMAGE["digest"]],
        ["entrypoint", "/seqtool '--quiet mode'"],
        ["reference data", "r1"],
        ["which is at", "/ref"],
        ["approved by", "admin"],
        ["approved on", "2030-01-01 10:00:00Z"],
        ["link", "https://example.org/tool"],
        ["notes", "Needs 20 GB,"],
        ["", "and time"],
    ]
    assert service.json("images", "show", NAME)["usage_notes"] == "Needs 20 GB,\nand time"


def test_an_image_is_approved_and_withdrawn(service: FakeService, tmp_path: Path) -> None:
    service.says(f"POST /admin/images/{NAME}", NOTED)
    (tmp_path / "notes").write_text("much\n")
    words = [
        "--from-image",
        "x:1",
        "--link",
        "https://a",
        "--link",
        "https://b",
        "--notes-file",
        str(tmp_path / "notes"),
    ]
    words += ["--refdata", "r1", "--refdata-mount-point", "/ref"]
    assert service.rows("images", "approve", NAME, *words)[0] == ["image", NAME]
    assert service.json("images", "approve", NAME) == NOTED
    assert [asked.what for asked in service.asked] == [
        f"POST /admin/images/{NAME}?refdata_id=r1&default_refdata_mount_point=%2Fref",
        f"POST /admin/images/{NAME}",
    ]
    body = {"from_image": "x:1", "urls": ["https://a", "https://b"], "usage_notes": "much\n"}
    assert [asked.body for asked in service.asked] == [body, None]
    assert service.cts("images", "approve", NAME, *words, "--notes", "x").exit_code == 2
    assert service.cts("images", "approve", NAME, "--notes-file", str(tmp_path / "none")).exit_code == 1
    service.says(f"DELETE /admin/images/{NAME}")
    done = service.cts("images", "delete", NAME, "--json")
    assert (done.exit_code, done.stdout) == (0, "{}\n")
    assert "is not approved any more" in done.stderr


def test_sites_are_listed(service: FakeService) -> None:
    away = SITE | {"cluster": "nersc", "available": False, "unavailable_reason": "maintenance", "notes": []}
    away.pop("gpus_per_node")
    told = {"sites": [SITE, away, SITE | {"active": False, "notes": []}]}
    service.says("GET /sites", told)
    limits = ["2", "32", "250.5 GB"]
    assert service.rows("sites") == [
        ["kbase", "open", *limits, "4", "2 d", "has GPUs"],
        ["nersc", "unavailable", *limits, "", "2 d", "maintenance"],
        ["kbase", "closed", *limits, "4", "2 d", ""],
    ]
    assert service.json("sites") == service.json("sites", "list") == told


def test_sites_are_opened_and_closed(service: FakeService) -> None:
    service.says("PUT /admin/sites/kbase/active")
    service.says("DELETE /admin/sites/kbase/active")
    assert service.cts("sites", "open", "kbase").stderr == "kbase is open for new jobs\n"
    assert service.cts("sites", "close", "kbase", "--json").stdout == "{}\n"
    assert service.requests == ["PUT /admin/sites/kbase/active", "DELETE /admin/sites/kbase/active"]


def test_help_of_a_group_that_lists_is_its_own(service: FakeService) -> None:
    for group, command in (("sites", "close"), ("images", "approve")):
        done = service.cts(group, "--help")
        assert done.exit_code == 0
        assert f"  {command} " in done.stdout
        assert service.cts(group, "nonsense").exit_code == 2


ADMIN = job(
    *("created", "error"),
    admin_error="the disk\nis full",
    traceback="Traceback: x",
    cleaned=False,
    htcondor_details={"cluster_id": [7, 8]},
    jaws_details={"run_id": ["r-1"]},
)
ADMIN["transition_times"] = [
    step | {"trans_id": f"t{n}", "notif_sent": n == 0} for n, step in enumerate(ADMIN["transition_times"])
]


def test_everybodys_jobs(service: FakeService) -> None:
    service.says("GET /admin/jobs", {"jobs": [job("created")]})
    assert service.rows("admin", "jobs", "--user", "ann", "--waiting", "--state", "created", "-q", "x")[0][-1] == "ann"
    assert service.requests == ["GET /admin/jobs?state=created&q=x&user=ann&waiting=true&limit=51"]
    assert service.json("admin", "jobs", "--limit", "1") == {"jobs": [job("created")]}
    assert service.requests[1] == "GET /admin/jobs?limit=2"


def test_a_job_as_administrators_see_it(service: FakeService) -> None:
    service.says(f"GET /admin/jobs/{JOB_ID}", ADMIN)
    rows = service.rows("admin", "job", JOB_ID)
    for row in (
        ["user", "ann"],
        ["cleaned", "no"],
        ["HTCondor cluster_id", "7, 8"],
        ["JAWS run_id", "r-1"],
        ["messages owed", "error"],
        ["fault", "the disk"],
        ["", "is full"],
        ["traceback", "Traceback: x"],
    ):
        assert row in rows
    assert service.json("admin", "job", JOB_ID) == ADMIN


def test_containers_as_administrators_see_them(service: FakeService) -> None:
    lost = [{"attempt": 1, "time": "2030-01-01T12:00:00Z", "why": "silent"}]
    one = {"id": JOB_ID, "sub_id": 0, "state": "error", "transition_times": ADMIN["transition_times"], "exit_code": 3}
    one |= {"outputs": [], "admin_error": "disk full", "attempt": 2, "lost_attempts": lost}
    two = {"id": JOB_ID, "sub_id": 1, "state": "created", "transition_times": []}
    path = f"GET /admin/jobs/{JOB_ID}/container"
    service.says(path, {"subjobs": [one, two]})
    service.says(f"{path}/1", two)
    expected = [
        ["0", "error", "2030-01-01 12:01:30Z", "2", "3", "0", "disk full; attempt 1 was lost: silent"],
        ["1", "created", "", "1", "", "", ""],
    ]
    assert service.rows("admin", "containers", JOB_ID) == expected
    assert service.rows("admin", "containers", JOB_ID, "-c", "1") == expected[1:]
    assert service.json("admin", "containers", JOB_ID) == {"subjobs": [one, two]}
    assert service.json("admin", "containers", JOB_ID, "-c", "1") == two


def test_what_the_engine_says(service: FakeService) -> None:
    path = f"GET /admin/jobs/{JOB_ID}/runner_status"
    service.says(path, {"JobStatus": 2, "Owner": "cts"})
    assert service.rows("admin", "runner-status", JOB_ID, "-c", "3") == [["JobStatus", "2"], ["Owner", "cts"]]
    assert service.requests == [f"{path}?container_number=3"]
    assert service.json("admin", "runner-status", JOB_ID) == {"JobStatus": 2, "Owner": "cts"}
    service.answers.clear()
    service.says(path, {})
    assert "the engine has nothing of it" in service.cts("admin", "runner-status", JOB_ID).stderr


@pytest.mark.parametrize(
    ("arguments", "asked", "body"),
    [
        (
            ["meta", JOB_ID, "--set", "ticket=A=1", "--set", "n=5", "--unset", "old"],
            f"PUT /admin/jobs/{JOB_ID}/meta",
            {"set_fields": {"ticket": "A=1", "n": "5"}, "unset_keys": ["old"]},
        ),
        (["notify", JOB_ID, "complete"], f"PUT /admin/jobs/{JOB_ID}/notify?state=complete", None),
        (["clean", JOB_ID], f"DELETE /admin/jobs/{JOB_ID}/clean?force=false", None),
        (["clean", JOB_ID, "--force"], f"DELETE /admin/jobs/{JOB_ID}/clean?force=true", None),
        (["cancel", JOB_ID], f"PUT /admin/jobs/{JOB_ID}/cancel", None),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_what_is_asked_for_is_done(arguments: list[str], asked: str, body: Any, service: FakeService) -> None:
    service.says(asked.partition("?")[0])
    done = service.cts("admin", *arguments)
    assert (done.exit_code, done.stdout) == (0, "")
    assert JOB_ID in done.stderr
    assert [(a.what, a.body) for a in service.asked] == [(asked, body)]
    assert service.json("admin", *arguments) == {}


def test_an_administrators_cancel_that_is_refused_is_1(service: FakeService) -> None:
    service.refuses(f"PUT /admin/jobs/{JOB_ID}/cancel", 400, 30300, "it is complete")
    assert service.cts("admin", "cancel", JOB_ID).exit_code == 1


@pytest.mark.parametrize(
    "arguments", [["meta", JOB_ID], ["meta", JOB_ID, "--set", "x"], ["meta", JOB_ID, "--set", "=x"]]
)
def test_notes_that_say_nothing_are_wrong_usage(arguments: list[str], service: FakeService) -> None:
    done = service.cts("admin", *arguments)
    assert (done.exit_code, service.asked) == (2, [])


def test_messages_and_nersc(service: FakeService) -> None:
    service.says("POST /admin/unsent_notifications", {"jobs": 2, "transitions": 5})
    assert service.rows("admin", "unsent", "--age", "PT5M") == [["jobs", "2"], ["messages", "5"]]
    assert service.json("admin", "unsent") == {"jobs": 2, "transitions": 5}
    assert service.requests == [
        "POST /admin/unsent_notifications?notification_age=PT5M",
        "POST /admin/unsent_notifications",
    ]
    known = {"id": "abc", "expires_at": "2030-01-05T00:00:00Z", "expires_in": "P2DT3H"}
    service.says("GET /admin/clients/nersc", known)
    assert service.rows("admin", "nersc", "--require-lifetime", "P2D") == [
        ["id", "abc"],
        ["expires", "2030-01-05 00:00:00Z"],
        ["that is in", "2 d 3 h"],
    ]
    assert service.requests[2] == "GET /admin/clients/nersc?require_lifetime=P2D"
    assert json.loads(service.cts("admin", "nersc", "--json").stdout) == known
