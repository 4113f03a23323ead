"""`cts submit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cdmtaskservice.cli import follow, submit
from cdmtaskservice.cli.job_file import read_job
from cdmtaskservice.cli.submit import EXAMPLE
from cdmtaskservice.domain.arguments import PlacedFile, check_renderable, render
from cdmtaskservice.domain.jobs import JobInput
from cdmtaskservice.domain.placement import place_inputs
from test.unit.cli_service import IMAGE, JOB_ID, NOBODY, FakeService, container, job

JOB = """\
cluster: local
image: registry.example.org/tools/seqtool:1.0
params:
  args: [stats, -k, 31]
input_files:
  - cts-data/ann/a.fa
output_dir: cts-data/ann/out
runtime: 10 min
"""
READ = {
    "cluster": "local",
    "image": "registry.example.org/tools/seqtool:1.0",
    "params": {"args": ["stats", "-k", "31"]},
    "input_files": ["cts-data/ann/a.fa"],
    "output_dir": "cts-data/ann/out",
    "runtime": "10 min",
}
DRY = {
    "dry_run": True,
    "job_input": {k: v for k, v in job("created")["job_input"].items() if k != "input_files"},
    "image": IMAGE,
    "input_file_count": 3,
    "input_bytes": 12_345_678,
    "cpu_hours": 0.3333333,
    "containers": 2,
    "example": {
        "container_number": 0,
        "args": ["stats", "/input_files/a b.fa"],
        "environment": {"LEVEL": "3"},
        "input_files": ["a b.fa"],
        "manifest": {"path": ".cts/manifest-0.txt", "content": "head\ta\n/input_files/a b.fa\n"},
    },
    "warnings": ["output_dir: it holds files already"],
}


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "job.yaml").write_text(JOB)
    return str(tmp_path / "job.yaml")


def test_the_id_stands_alone(service: FakeService, file: str) -> None:
    service.says("POST /jobs", {"job_id": JOB_ID})
    done = service.cts("submit", file)
    assert (done.exit_code, done.stdout) == (0, f"{JOB_ID}\n")
    assert f"cts watch {JOB_ID}" in done.stderr
    assert [(asked.what, asked.body) for asked in service.asked] == [("POST /jobs", READ)]
    assert len(service.asked[0].headers["idempotency-key"]) == 32
    done = service.cts("submit", "-", "--idempotency-key", "mine", "--json", stdin=json.dumps(READ))
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"job_id": JOB_ID})
    assert (service.asked[1].body, service.asked[1].headers["idempotency-key"]) == (READ, "mine")


def test_fields_of_the_command_line(service: FakeService, file: str) -> None:
    service.says("POST /jobs", {"job_id": JOB_ID})
    settings = ["cluster=kbase", "cpus=4", "memory=2GB", "runtime=600", "name=1=2", "output_dir=b/o"]
    done = service.cts("submit", file, *(word for s in settings for word in ("--set", s)))
    assert done.exit_code == 0, done.output
    assert service.asked[0].body == READ | {
        "cluster": "kbase",
        "cpus": 4,
        "memory": "2GB",
        "runtime": 600,
        "name": "1=2",
        "output_dir": "b/o",
    }
    for wrong in ("cluster", "params=x", "=x"):
        done = service.cts("submit", file, "--set", wrong)
        assert done.exit_code == 2
        assert "FIELD=VALUE" in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cluster: a\ncluster: b\n", "line 2: 'cluster' is there twice"),
        ("", "it is empty"),
        ("[", "it is no YAML"),
        ("cluster: a\nruntime: 10:00\n", "line 2: runtime: '10:00' could be minutes or hours"),
    ],
)
def test_a_file_that_is_no_job(text: str, said: str, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    for name, stdin in ((str(tmp_path / "bad.yaml"), None), ("-", text)):
        done = service.cts("submit", name, stdin=stdin)
        assert (done.exit_code, done.stdout) == (1, "")
        assert said in done.stderr
        assert done.stderr.startswith("standard input: " if stdin is not None else f"{name}: ")
    done = service.cts("submit", str(tmp_path / "none.yaml"))
    assert (done.exit_code, done.stderr) == (1, f"{tmp_path / 'none.yaml'} cannot be read: No such file or directory\n")
    assert service.asked == []


DETAIL = [
    {"loc": ["body", "params", "args", 2, "str"], "msg": "Value error, '31' is odd", "type": "value_error"},
    {"loc": ["body", "runtime"], "msg": "no duration\x1b[2J"},
    {"loc": ["body", "nothing"], "msg": "missing"},
    {"msg": 5},
]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=str)
def test_faults_are_told_with_their_lines(dry: list[str], service: FakeService, file: str) -> None:
    service.refuses("POST /jobs", 400, 30010, "Request validation failed", request_validation_detail=DETAIL)
    done = service.cts("submit", file, *dry)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "Request validation failed (HTTP 400, request 0123)",
        "  line 4: params.args.2.str: '31' is odd",
        "  line 8: runtime: no duration\\x1b[2J",
        "  nothing: missing",
        "  5",
    ]
    service.answers.clear()
    service.refuses("POST /jobs", 400, 30010, "Request validation failed", request_validation_detail=DETAIL[:1])
    assert service.cts("submit", file).stderr == ("line 4: params.args.2.str: '31' is odd (HTTP 400, request 0123)\n")
    service.answers.clear()
    service.refuses("POST /jobs", 400, 30010, "Bad", request_validation_detail=DETAIL[1:2] * 30)
    told = service.cts("submit", file).stderr.splitlines()
    assert (len(told), told[-1]) == (22, "  and 10 more")


@pytest.mark.parametrize(
    ("place", "kind", "said"),
    [
        (["memroy"], "extra_forbidden", "there is no field 'memroy'; did you mean 'memory'?"),
        (["zzz"], "extra_forbidden", "there is no field 'zzz'"),
        (["params", "argz"], "extra_forbidden", "line 3: params: there is no field 'argz'; did you mean 'args'?"),
        (
            ["params", "args", 1, "parameter", "input_file_format"],
            "extra_forbidden",
            "line 4: params.args.1: there is no field 'input_file_format'; did you mean 'input_files_format'?",
        ),
        (
            ["input_files", 0, "dataid"],
            "extra_forbidden",
            "line 6: input_files.0: there is no field 'dataid'; did you mean 'data_id'?",
        ),
        (["params", "args", 1, "parameter", "type"], "enum", "line 4: params.args.1.type: No"),
        (["params", "environment", "A", "text"], "x", "line 3: params.environment.A: No"),
    ],
)
def test_faults_are_told_in_the_words_of_the_file(
    place: list[str | int], kind: str, said: str, service: FakeService, file: str
) -> None:
    detail = [{"loc": ["body", *place], "msg": "No", "type": kind}]
    service.refuses("POST /jobs", 400, 30010, "Bad", request_validation_detail=detail)
    assert service.cts("submit", file).stderr == f"{said} (HTTP 400, request 0123)\n"


def test_an_input_without_a_checksum_can_be_given_one(service: FakeService, file: str) -> None:
    service.refuses(
        "POST /jobs", 400, 30030, "The input file 'b/k' has no CRC64NVME checksum; upload it again with one"
    )
    done = service.cts("submit", file)
    assert done.exit_code == 1
    assert done.stderr.endswith("; or give it one where it is: `cts s3 checksum FILE --add`\n")


def test_a_job_that_may_have_arrived_can_be_submitted_again(
    service: FakeService, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "RETRIES", 0)
    done = service.cts("submit", file, "--url", NOBODY, "--idempotency-key", "mine")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "--idempotency-key mine submits it again, but not twice" in done.stderr


def test_a_dry_run_shows_what_would_be(service: FakeService, file: str) -> None:
    service.says("POST /jobs", DRY)
    done = service.cts("submit", file, "--dry-run")
    assert done.exit_code == 0, done.output
    assert service.requests == ["POST /jobs?dry_run=true"]
    assert dict(line.split("\t", 1) for line in done.stdout.splitlines() if line[0] != "\t") == {
        "image": f"{IMAGE['name']}:1.0@{IMAGE['digest']}",
        "site": "local",
        "containers": "2",
        "each with": "1 CPU, 500 MB, 10 min at most",
        "input files": "3, 12.3 MB",
        "CPU hours at most": "0.333",
        "outputs go to": "cts-data/ann/out/",
        "container 0 runs": "/seqtool '--quiet mode' stats '/input_files/a b.fa'",
        "container 0 has": "LEVEL=3",
        "container 0 reads": "a b.fa",
        "in .cts/manifest-0.txt": "head\\ta",
    }
    assert done.stdout.splitlines()[-1] == "\t/input_files/a b.fa"
    assert "nothing was submitted" in done.stderr
    assert "warning: output_dir: it holds files already\n" in done.stderr
    assert json.loads(service.cts("submit", file, "--dry-run", "--json").stdout) == DRY


def events(*told: tuple[str, dict[str, Any]]) -> bytes:
    """A stream of events."""
    number = 0
    text = ""
    for kind, data in told:
        text += f"event: {kind}\n"
        if kind == "state":
            text += f"id: {number}\n"
            number += 1
        text += f"data: {json.dumps(data)}\n\n"
    return text.encode()


STREAM = {"Content-Type": "text/event-stream"}


@pytest.mark.parametrize(("state", "code"), [("complete", 0), ("error", 4), ("canceled", 5)])
def test_waiting_ends_as_the_job_does(state: str, code: int, service: FakeService, file: str) -> None:
    ended = job(
        "created", "job_submitted", state, **({"error": "container 1: exit code 7"} if state == "error" else {})
    )
    told = [("state", step) for step in ended["transition_times"]]
    service.says("POST /jobs", {"job_id": JOB_ID})
    service.says(f"GET /jobs/{JOB_ID}/events", events(*told, ("end", {"state": state})), headers=STREAM)
    service.says(f"GET /jobs/{JOB_ID}", ended)
    service.says(
        f"GET /jobs/{JOB_ID}/containers",
        {
            "containers": [
                container(0, "complete", exit_code=0),
                container(1, "error", exit_code=7, error="exit code 7"),
            ]
        },
    )
    done = service.cts("submit", file, "--wait")
    assert (done.exit_code, done.stdout) == (code, f"{JOB_ID}\n")
    assert [line.split()[2] for line in done.stderr.splitlines()[:3]] == ["created", "job_submitted", state]
    assert f"{JOB_ID} is {state}, after 3 min\n" in done.stderr
    if state == "error":
        assert "container 1: exit code 7\n" in done.stderr
        assert f"`cts logs {JOB_ID} -c 1 --stderr`" in done.stderr
    done = service.cts("submit", file, "--wait", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (code, ended)
    assert f"{JOB_ID} is submitted" in done.stderr


def test_a_service_that_goes_away_once_it_has_the_job_is_waited_for(
    service: FakeService, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "PAUSE", 0.0)
    monkeypatch.setattr("cdmtaskservice.cli.service.RETRIES", 0)
    service.says("POST /jobs", {"job_id": JOB_ID})
    for _ in range(3):
        service.refuses(f"GET /jobs/{JOB_ID}/events", 503, 0, "the database is away")
    ended = job("created", "complete")
    told = [("state", step) for step in ended["transition_times"]]
    service.says(f"GET /jobs/{JOB_ID}/events", events(*told, ("end", {"state": "complete"})), headers=STREAM)
    service.says(f"GET /jobs/{JOB_ID}", ended)
    done = service.cts("submit", file, "--wait")
    assert (done.exit_code, done.stdout) == (0, f"{JOB_ID}\n"), done.output
    assert done.stderr.count("the service does not answer, and is waited for") == 1


def test_it_is_waited_for_no_longer_than_the_timeout(
    service: FakeService, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdmtaskservice.cli.service.RETRIES", 0)
    service.says("POST /jobs", {"job_id": JOB_ID})
    service.refuses(f"GET /jobs/{JOB_ID}/events", 503, 0, "the database is away")
    done = service.cts("submit", file, "--wait", "--timeout", "0.3")
    assert (done.exit_code, done.stdout) == (6, f"{JOB_ID}\n"), done.output
    assert f"its state could not be read; it goes on, and `cts watch {JOB_ID}` follows it" in done.stderr
    assert "is submitted" not in done.stderr


def test_who_gives_up_waiting_says_that_there_is_a_job(service: FakeService, file: str) -> None:
    service.says("POST /jobs", {"job_id": JOB_ID})
    service.refuses(f"GET /jobs/{JOB_ID}/events", 401, 10020, "the token has expired")
    done = service.cts("submit", file, "--wait")
    assert (done.exit_code, done.stdout) == (1, f"{JOB_ID}\n")
    assert done.stderr.splitlines()[1:] == [f"Job {JOB_ID} is submitted; follow it with `cts watch {JOB_ID}`"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name the FILE"),
        (["job.yaml", "--dry-run", "--wait"], "exclude each other"),
        (["job.yaml", "--timeout", "5"], "--timeout needs --wait"),
        (["job.yaml", "--wait", "--timeout", "soon"], "no time span"),
        (["-", "--token-file", "-"], "Only one"),
    ],
    ids=str,
)
def test_wrong_usage(arguments: list[str], said: str, service: FakeService) -> None:
    done = service.cts("submit", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_the_example_is_a_job(service: FakeService) -> None:
    done = service.cts("submit", "--example", CTS_URL=None)
    assert (done.exit_code, done.stdout) == (0, EXAMPLE)
    asked = JobInput.model_validate(read_job(EXAMPLE.encode(), "job.yaml").job)
    placed = [PlacedFile(place, None) for place in place_inputs(asked.files, ())]
    check_renderable(asked.params, placed, asked.num_containers)
    assert render(asked.params, 0, placed[:2]).args == (
        *("stats", "-o", "/output_files"),
        *("/input_files/sample1.fasta", "/input_files/sample2.fasta"),
    )
    assert (asked.memory, asked.runtime.total_seconds(), asked.tags) == (500_000_000, 600, ("reads", "run-1"))
