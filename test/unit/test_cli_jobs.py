"""`cts jobs`, `job`, `outputs` and `cancel`."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from awscrt.checksums import crc64nvme

from test.unit.cli_service import IMAGE, JOB_ID, FakeService, container, job

OVER = ("created", "job_submitted", "complete")


def test_jobs_are_listed(service: FakeService) -> None:
    service.says("GET /jobs", {"jobs": [job(*OVER), job("created", job_input={"name": None, "tags": []})]})
    assert service.rows("jobs") == [
        [JOB_ID, "complete", "2030-01-01 12:03:00Z", "local", "2", "3", "all reads", "a, b"],
        [JOB_ID, "created", "2030-01-01 12:00:00Z", "local", "2", "3", "", ""],
    ]
    assert service.requests == ["GET /jobs?limit=51"]


def test_filters_reach_the_service(service: FakeService) -> None:
    service.says("GET /jobs", {"jobs": []})
    filters = "--site kbase --state error --tag t -q x --after 2030-01-31T00:00:00Z --before 2030-02-01T00:00:00+01:00"
    assert service.rows("jobs", *filters.split(), "--limit", "7") == []
    assert service.requests == [
        "GET /jobs?cluster=kbase&state=error&tag=t&q=x&after=2030-01-31T00%3A00%3A00Z"
        "&before=2030-01-31T23%3A00%3A00Z&limit=8"
    ]
    done = service.cts("jobs", "--after", "yesterday")
    assert done.exit_code == 2
    assert "'yesterday' is no time" in done.stderr


def test_more_than_the_limit_is_said(service: FakeService) -> None:
    service.says("GET /jobs", {"jobs": [job("created")] * 3, "next_cursor": "c"})
    done = service.cts("jobs", "--limit", "2", "--json")
    assert len(json.loads(done.stdout)["jobs"]) == 2
    assert "There are more than 2" in done.stderr
    service.answers.clear()
    service.says("GET /jobs", {"jobs": [job("created")] * 3})
    assert service.cts("jobs", "--limit", "3", "--json").stderr == ""
    assert service.json("jobs")["jobs"][0] == job("created")


def test_a_job_is_shown(service: FakeService) -> None:
    failed = job(
        *("created", "job_submitted", "error"),
        error="container 1 failed",
        output_file_count=0,
        cpu_hours=0.12345,
        cpu_factor=0.87,
        max_memory=123_000_000,
        logpath="cts-logs/x/",
        admin_meta={"ticket": "A-1"},
    )
    service.says(f"GET /jobs/{JOB_ID}", failed)
    each = [container(0, "complete", exit_code=0), container(1, "error", exit_code=7, error="exit code 7")]
    service.says(f"GET /jobs/{JOB_ID}/containers", {"containers": each})
    done = service.cts("job", JOB_ID)
    assert (done.exit_code, done.stderr) == (
        0,
        f"`cts logs {JOB_ID} -c 1 --stderr` shows what container 1 has said\n",
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert dict(row for row in rows if len(row) == 2) == {
        "id": JOB_ID,
        "name": "all reads",
        "tags": "a, b",
        "state": "error",
        "error": "container 1 failed",
        "site": "local",
        "image": f"{IMAGE['name']}:1.0@{IMAGE['digest']}",
        "containers": "2: complete 1, error 1",
        "each with": "1 CPU, 500 MB, 10 min at most",
        "input files": "3",
        "output files": "0",
        "outputs go to": "cts-data/ann/out/",
        "CPU hours": "0.123",
        "CPUs used": "87%",
        "most memory": "123 MB",
        "logs are in": "cts-logs/x/",
        "note ticket": "A-1",
    }
    assert [row for row in rows if len(row) == 4] == [
        ["0", "created", "2030-01-01 12:00:00Z", "1 min 30 s"],
        ["1", "job_submitted", "2030-01-01 12:01:30Z", "1 min 30 s"],
        ["2", "error", "2030-01-01 12:03:00Z", ""],
    ]
    assert rows[-1] == ["1", "error", "1", "7", "", "", "exit code 7"]
    assert service.json("job", JOB_ID) == failed
    assert service.json("job", JOB_ID, "--containers") == {"containers": each}


@pytest.mark.parametrize(
    ("states", "hint"),
    [
        (("created",), f"`cts watch {JOB_ID}` follows it"),
        (OVER, f"`cts outputs {JOB_ID} --download DIR`"),
        (("created", "canceling", "canceled"), ""),
        (("created", "error"), f"`cts logs {JOB_ID} -c 0 --stderr`"),
    ],
)
def test_what_can_be_done_next_is_said(states: tuple[str, ...], hint: str, service: FakeService) -> None:
    service.says(f"GET /jobs/{JOB_ID}", job(*states, waiting="no machine is as large"))
    done = service.cts("job", JOB_ID)
    assert done.exit_code == 0, "a service that is too old to tell of containers is no reason to fail"
    assert done.stderr.startswith(hint)
    assert bool(done.stderr) == bool(hint)
    assert "waiting\tno machine is as large\n" in done.stdout


def test_a_canceled_job_is_not_said_to_have_logs(service: FakeService) -> None:
    service.says(f"GET /jobs/{JOB_ID}", job("created", "canceling", "canceled", logpath="cts-logs/x/"))
    assert "cts-logs/x/" not in service.cts("job", JOB_ID).output


def test_containers_are_shown(service: FakeService) -> None:
    each = [
        container(0, "job_submitting", phase="downloading", bytes_done=25, bytes_total=100),
        container(1, "job_submitted", phase="running", attempt=2),
        container(2, "complete", exit_code=0, cpu_seconds=90.0, wall_seconds=45.0, max_memory=5_000_000),
        {"container_number": 3, "state": "created"},
    ]
    service.says(f"GET /jobs/{JOB_ID}/containers", {"containers": each})
    assert service.rows("job", JOB_ID, "--containers") == [
        ["0", "job_submitting", "1", "", "downloading 25%", "", ""],
        ["1", "job_submitted", "2", "", "running", "", ""],
        ["2", "complete", "1", "0", "", "1 min 30 s of CPU, in 45 s, 5 MB", ""],
        ["3", "created", "", "", "", "", ""],
    ]


def test_of_many_failures_the_first_are_shown(service: FakeService) -> None:
    service.says(f"GET /jobs/{JOB_ID}", job("created", "error"))
    each = [container(n, "error", exit_code=n) for n in range(1, 31)]
    service.says(f"GET /jobs/{JOB_ID}/containers", {"containers": each})
    done = service.cts("job", JOB_ID)
    assert sum(line.count("\t") == 6 for line in done.stdout.splitlines()) == 10
    assert "20 more have failed; --containers shows all" in done.stderr


DATA = {"0/a.txt": b"first", "1/b é.bin": b"\x00\xff" * 1000}


def crc(data: bytes) -> str:
    return base64.b64encode(crc64nvme(data).to_bytes(8, "big")).decode()


@pytest.fixture
def made(service: FakeService) -> list[dict[str, str]]:
    """A job with outputs, in a store."""
    outputs = [{"file": f"cts-data/ann/out/{name}", "crc64nvme": crc(data)} for name, data in DATA.items()]
    service.says(f"GET /jobs/{JOB_ID}", job(*OVER, outputs=outputs, output_file_count=2))
    files = []
    for number, (output, data) in enumerate(zip(outputs, DATA.values(), strict=True)):
        service.says(f"GET /store/{number}", data, headers={"Content-Length": str(len(data))})
        files.append(output | {"url": f"{service.url}/store/{number}?X-Amz-Signature=secret"})
    service.says(f"GET /jobs/{JOB_ID}/files", {"files": files, "total": 2})
    return outputs


def test_outputs_are_listed_without_urls(service: FakeService, made: list[dict[str, str]]) -> None:
    assert service.rows("outputs", JOB_ID) == [[output["file"], output["crc64nvme"]] for output in made]
    assert service.json("outputs", JOB_ID) == {"outputs": made}
    assert "secret" not in service.cts("outputs", JOB_ID, "--json").output


def test_outputs_are_fetched_and_verified(service: FakeService, made: list[dict[str, str]], tmp_path: Path) -> None:
    target = tmp_path / "new" / "out"
    assert service.rows("outputs", JOB_ID, "--download", str(target)) == [[str(target / name)] for name in DATA]
    assert {name: (target / name).read_bytes() for name in DATA} == DATA
    (target / "0/a.txt").write_bytes(b"mine")
    done = service.cts("outputs", JOB_ID, "--download", str(target))
    assert done.exit_code == 1
    assert "a.txt exists with other content: move it away, or say --overwrite\n" in done.stderr
    assert (target / "0/a.txt").read_bytes() == b"mine"
    told = service.json("outputs", JOB_ID, "--download", str(target), "--overwrite")
    assert told == {"outputs": made, "downloaded": [str(target / name) for name in DATA]}
    assert (target / "0/a.txt").read_bytes() == b"first"
    service.answers["GET /store/0"] = [(200, b"wrong", {})]
    done = service.cts("outputs", JOB_ID, "--download", str(tmp_path / "other"))
    assert done.exit_code == 1
    assert "CRC64NVME" in done.stderr
    assert "another job probably wrote to the same output directory" in done.stderr
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file() and path.name != "b é.bin"]
    done = service.cts("outputs", JOB_ID, "--download", str(tmp_path / "new"), "--overwrite", "--url", service.url)
    assert "secret" not in done.output


def test_a_directory_that_cannot_be_written(service: FakeService, made: list[dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = service.cts("outputs", JOB_ID, "--download", str(tmp_path / "file"))
    assert done.exit_code == 2
    done = service.cts("outputs", JOB_ID, "--download", str(tmp_path / "file" / "below"))
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1


def test_there_are_no_outputs_before_the_end(service: FakeService) -> None:
    service.says(f"GET /jobs/{JOB_ID}", job("created"))
    done = service.cts("outputs", JOB_ID)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "is created, and has no outputs before it is over" in done.stderr
    service.answers.clear()
    service.says(f"GET /jobs/{JOB_ID}", job("created", "error"))
    done = service.cts("outputs", JOB_ID)
    assert (done.exit_code, done.stderr) == (0, f"{JOB_ID} is error, and has no outputs\n")
    assert service.cts("outputs", JOB_ID, "--overwrite").exit_code == 2


def test_jobs_are_canceled_each_whatever_becomes_of_the_others(service: FakeService) -> None:
    service.says("PUT /jobs/a/cancel")
    service.refuses("PUT /jobs/b/cancel", 400, 30300, "the job is complete")
    service.says("PUT /jobs/c/cancel")
    service.refuses("PUT /jobs/d/cancel", 400, 30300, "Job d is canceled already")
    done = service.cts("cancel", "a", "b", "c", "d", "a")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "a is being canceled",
        "b: the job is complete (HTTP 400, request 0123)",
        "c is being canceled",
        "Job d is canceled already (HTTP 400, request 0123)",
    ]
    assert service.requests == [f"PUT /jobs/{job_id}/cancel" for job_id in "abcd"]
    assert service.json("cancel", "a") == {}
