"""Jobs through JAWS, with real containers, at both sites."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from test.stand_ins.nersc.part import NerscSite
from test.system.conftest import QUICK
from test.system.driver import FAILED, HAPPY, Driver, until
from test.system.through_jaws import LAWRENCIUM, PERLMUTTER, QUICK_JAWS, jaws_service

LISTED = {"type": "input_files", "input_files_format": "space_separated_list"}
ODD = [
    "with space.fa",
    'quote".fa',
    "dollar$HOME`id`.fa",
    "back\\slash.fa",
    "tilde~{files}${x}.fa",
    ">>>.fa",
    "-dash.fa",
    "ünï-🧬.fa",
    "d e/ep/$(x).fa",
]


def runs_of(nersc: NerscSite, job_id: str) -> list[dict]:
    return [run for run in nersc.control()["runs"] if job_id in run["tag"]]


async def exit_codes(driver: Driver, job_id: str) -> list[int | None]:
    return (await driver.client().get(f"/jobs/{job_id}/exit_codes")).json()["exit_codes"]


@pytest.mark.parametrize("site", [PERLMUTTER, LAWRENCIUM])
@pytest.mark.parametrize("containers", [1, 20])
async def test_a_job_of_some_containers(jaws: Driver, nersc: NerscSite, site: str, containers: int):
    files = await jaws.upload({f"{n}.fa": b">x\n" + b"ACGT" * n + b"\n" for n in range(1, containers + 1)})
    job_id = await jaws.submit(files, ["stats", LISTED], cluster=site, params={"declobber": True})
    follow = f"/jobs/{job_id}/log/0/stdout?follow=true"
    refused = await jaws.client().get(follow)
    assert (refused.status_code, refused.json()["error"]["appcode"]) == (400, 100000)
    job = await jaws.over(job_id, within=120)
    assert (await jaws.client().get(follow)).text == await jaws.log(job_id)
    outputs = await jaws.outputs(job)
    assert set(outputs) == {f"{n}/seqstats.tsv" for n in range(containers)}
    for n in range(containers):
        assert f"{n + 1}.fa\t1\t{4 * (n + 1)}\t".encode() in outputs[f"{n}/seqstats.tsv"]
        assert "1 files summarised" in await jaws.log(job_id, n)
        assert await jaws.log(job_id, n, "stderr") == ""
    assert await exit_codes(jaws, job_id) == [0] * containers
    assert job["output_file_count"] == containers
    assert job["cpu_hours"] > 0
    await jaws.check_history(job_id, HAPPY)
    [run] = runs_of(nersc, job_id)
    details = await jaws.admin(f"/admin/jobs/{job_id}")
    assert details["jaws_details"] == {"run_id": [str(run["id"])]}
    tasks = details["nersc_details"]
    assert [len(tasks[name]) for name in ("download_task_id", "upload_task_id", "log_upload_task_id")] == [1, 1, 0]
    assert run["site"] == {PERLMUTTER: "kbase", LAWRENCIUM: "jgi"}[site]
    assert (await jaws.admin(f"/admin/jobs/{job_id}/runner_status"))["id"] == run["id"]
    assert {c["state"] for c in await jaws.containers(job_id)} == {"complete"}


async def test_names_and_values_arrive_byte_for_byte(jaws: Driver):
    files = await jaws.upload({name: f">{n}\nA\n".encode() for n, name in enumerate(ODD)})
    root = files[0].rpartition("/")[0]
    environment = {"FILES": {"type": "container_number", "container_num_prefix": "n-"}, "PATH": "/bin"}
    job_id = await jaws.submit(
        files,
        ["copy", LISTED],
        num_containers=2,
        input_roots=[root],
        params={"environment": environment},
    )
    job = await jaws.over(job_id)
    assert await jaws.outputs(job) == {name: f">{n}\nA\n".encode() for n, name in enumerate(ODD)}
    shown = await jaws.submit(files, ["args", "-x", LISTED], num_containers=1, input_roots=[root])
    [arguments] = (await jaws.outputs(await jaws.over(shown))).values()
    assert arguments.split(b"\0")[:-1] == [b"-x", *(f"/input_files/{name}".encode() for name in ODD)]
    seen = await jaws.submit(files[:1], ["env"], params={"environment": environment})
    [entries] = (await jaws.outputs(await jaws.over(seen))).values()
    assert {b"FILES=n-0", b"PATH=/bin"} <= set(entries.split(b"\0"))


@pytest.mark.parametrize("form", ["files", "data_ids"])
async def test_manifests(jaws: Driver, form: str):
    files = await jaws.upload({"a b.fa": b">x\nA\n", "c.fa": b">y\nA\n", "d.fa": b">z\nA\n"})
    wanted = [{"file": file, "data_id": f"id {n}"} for n, file in enumerate(files)]
    manifest = {"type": "manifest_file", "manifest_file_format": form, "manifest_file_header": "a\theader"}
    job_id = await jaws.submit(wanted, ["copy", manifest], num_containers=2, params={"declobber": True})
    outputs = await jaws.outputs(await jaws.over(job_id))
    lines = [["/input_files/a b.fa", "/input_files/c.fa"], ["/input_files/d.fa"]]
    if form == "data_ids":
        lines = [["id 0", "id 1"], ["id 2"]]
    assert outputs == {
        f"{n}/.cts/manifest-{n}.txt": "".join(f"{line}\n" for line in ["a\theader", *expected]).encode()
        for n, expected in enumerate(lines)
    }


async def test_two_containers_that_write_one_file_are_an_error(jaws: Driver):
    files = await jaws.upload({"a": b"x", "b": b"y"})
    job = await jaws.over(await jaws.submit(files, ["write", "same", "5"]), "error")
    assert "Containers 0 and 1 both write the output file 'same'" in job["error"]
    assert "declobber" in job["error"]


async def test_a_failing_container(jaws: Driver, nersc: NerscSite):
    files = await jaws.upload({"a": b">x\nA\n", "b": b"no fasta"})
    job_id = await jaws.submit(files, ["stats", LISTED], params={"declobber": True})
    job = await jaws.over(job_id, "error")
    assert job["error"].startswith(
        "1 of 2 containers failed; container 1: The container exited with exit code 4. Its logs say why. "
        'The last line of stderr: "seqtool: '
    )
    assert await exit_codes(jaws, job_id) == [None, 4]
    assert "is not FASTA" in await jaws.log(job_id, 1, "stderr")
    assert (await jaws.client().get(f"/jobs/{job_id}/log/0/stdout")).json()["error"]["appcode"] == 40070
    await jaws.check_history(job_id, FAILED)
    details = await jaws.admin(f"/admin/jobs/{job_id}")
    assert len(details["nersc_details"]["log_upload_task_id"]) == 1
    assert details["outputs"] == []
    assert "admin_error" in (await jaws.containers(job_id))[1]
    assert len(runs_of(nersc, job_id)) == 1


async def test_a_container_that_never_started_has_no_exit_code_and_no_logs(jaws: Driver, nersc: NerscSite):
    nersc.switch(next_run="never_started")
    job_id = await jaws.submit(await jaws.upload({"a": b"x"}), ["write", "out", "5"])
    job = await jaws.over(job_id, "error")
    assert "JAWS could not start it" in job["error"]
    assert await exit_codes(jaws, job_id) == [None]
    for stream in ("stdout", "stderr"):
        reply = await jaws.client().get(f"/jobs/{job_id}/log/0/{stream}")
        assert reply.json()["error"]["appcode"] == 40070
    await jaws.check_history(job_id, FAILED)


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (["stubborn", "60"], 124, "it ran longer than its limit of 2 seconds and was ended"),
        (["symlink"], 125, "only regular files can be outputs, and in the output directory link is none"),
        (["names"], 125, "the name of an output has a line break in it"),
    ],
)
async def test_what_the_script_finds_wrong_is_told_in_its_words(jaws: Driver, args: list[str], code: int, error: str):
    job_id = await jaws.submit(await jaws.upload({"a": b"x"}), args, runtime=2)
    job = await jaws.over(job_id, "error")
    assert job["error"] == f"1 of 1 containers failed; container 0: {error}"
    assert await exit_codes(jaws, job_id) == [code]


async def test_a_job_without_outputs_is_an_error(jaws: Driver):
    job = await jaws.over(await jaws.submit(await jaws.upload({"a": b"x"}), ["say", "3"]), "error")
    assert "No container wrote an output file" in job["error"]
    assert await jaws.log(job["id"]) == "out 1\nout 2\nout 3\n"


async def test_large_outputs_go_in_parts(stack, home: Path, s3, seqtool_image, nersc: NerscSite):
    service = jaws_service(stack, home, nersc, QUICK | QUICK_JAWS | {"KBCTS_S3__PART_SIZE": "5242880"})
    service.start()
    try:
        async with Driver(service, s3, seqtool_image, PERLMUTTER) as driver:
            await driver.ready()
            job = await driver.over(await driver.submit(await driver.upload({"a": b"x"}), ["write", "big", "12000000"]))
            assert {n: len(data) for n, data in (await driver.outputs(job)).items()} == {"big": 12_000_000}
    finally:
        await asyncio.to_thread(service.stop)


async def test_the_same_input_is_staged_once_and_never_trusted(jaws: Driver, nersc: NerscSite):
    content = b">x\nTTTTTTTTTTTTTTT\n"
    files = await jaws.upload({"first.fa": content, "second.fa": content})
    await jaws.over(await jaws.submit(files, ["copy", LISTED], num_containers=1))
    # Named by checksum and size, so both are one file.
    [cached] = [p for p in Path(nersc.staging_dir).rglob("cache/*/*-19") if p.is_file() and p.read_bytes() == content]
    cached.chmod(0o600)
    cached.write_bytes(b">x\nAAAAAAAAAAAAAAA\n")
    job = await jaws.over(await jaws.submit(files[:1], ["copy", LISTED]))
    assert list((await jaws.outputs(job)).values()) == [content]


async def test_an_input_that_changed_meanwhile_is_an_error(jaws: Driver, nersc: NerscSite):
    nersc.switch(sfapi_error={"path": "utilities/upload", "times": 10**6})
    [file] = await jaws.upload({"a.fa": b">new\nA\n"})  # not in the cache
    job_id = await jaws.submit([file], ["copy", LISTED])
    await waits(jaws, job_id, "created")
    await jaws.s3.put(file, b">x\nC\n")
    nersc.switch(sfapi_error=None)
    job = await jaws.over(job_id, "error")
    assert f"The input file {file} is not what it was when the job was submitted" in job["error"]


async def waits(driver: Driver, job_id: str, state: str) -> str:
    """Wait until an administrator is told why the job does not leave this state."""

    async def told() -> str | None:
        job = await driver.admin(f"/admin/jobs/{job_id}")
        return job.get("waiting") if job["state"] == state else None

    return await until(told, f"job {job_id} waits in {state}")


# Roles, sites, the client


async def test_who_may_submit_to_jaws(jaws: Driver):
    files = await jaws.upload({"a": b"x"}, "ben")
    body = jaws.body(files, ["say", "1"], output_dir=files[0].rpartition("/")[0] + "/out")
    reply = await jaws.client("ben").post("/jobs", json=body)
    assert (reply.status_code, reply.json()["error"]["appcode"]) == (403, 20000)
    assert "HAS_NERSC_ACCOUNT" in reply.json()["error"]["message"]


async def test_the_client_at_nersc(jaws: Driver):
    client = await jaws.admin("/admin/clients/nersc")
    assert set(client) == {"id", "expires_at", "expires_in"}
    assert len(client["id"]) == 13
    assert await jaws.admin("/admin/clients/nersc?require_lifetime=P1D")
    reply = await jaws.client("admin").get("/admin/clients/nersc?require_lifetime=P300D")
    assert (reply.status_code, reply.json()["error"]["appcode"]) == (400, 30200)


# Callbacks


async def test_callbacks_are_hints_that_change_nothing(jaws: Driver, nersc: NerscSite):
    nersc.switch(hold_runs=True)
    job_id = await jaws.submit(await jaws.upload({"a": b"x"}), ["write", "out", "5"])
    steps = ("download", "job", "upload", "errlogs")
    client = jaws.client(None)
    for _ in range(5):  # early, repeated, forged, and of no job at all
        for step in steps:
            for about in (job_id, "00000000-0000-4000-8000-000000000000", "..", "a b"):
                assert (await client.get(f"/callback/{step}/{about}")).status_code in {204, 404}
    await jaws.reached(job_id, "job_submitted")
    for step in steps:
        assert (await client.get(f"/callback/{step}/{job_id}")).status_code == 204
    assert (await jaws.status(job_id))["state"] == "job_submitted"
    nersc.switch(hold_runs=False)
    await jaws.over(job_id)
    for step in steps:
        assert (await client.get(f"/callback/{step}/{job_id}")).status_code == 204
    await jaws.check_history(job_id, HAPPY)
    assert len(runs_of(nersc, job_id)) == 1


# Cleaning


@dataclass
class Left:
    """What a job has at NERSC."""

    nersc: NerscSite
    job_id: str

    def paths(self) -> list[Path]:
        roots = (self.nersc.staging_dir, self.nersc.code_dir)
        directories = [p for root in roots for p in Path(root).rglob(self.job_id)]
        outputs = [Path(run["output_dir"]) for run in runs_of(self.nersc, self.job_id)]
        return [p for p in (*directories, *outputs) if p.exists()]


async def test_cleaning_by_an_administrator(jaws: Driver, nersc: NerscSite):
    files = await jaws.upload({"a": b"x"})
    other = await jaws.over(await jaws.submit(files, ["write", "out", "5"]))
    job = await jaws.over(await jaws.submit(files, ["write", "out", "5"]))
    left, kept = Left(nersc, job["id"]), Left(nersc, other["id"])
    assert len(left.paths()) == 3
    admin = jaws.client("admin")
    assert (await admin.delete(f"/admin/jobs/{job['id']}/clean")).status_code == 204
    assert left.paths() == []
    assert len(kept.paths()) == 3
    assert (await jaws.admin(f"/admin/jobs/{job['id']}"))["cleaned"] is True
    assert (await admin.delete(f"/admin/jobs/{job['id']}/clean")).status_code == 204
    assert await jaws.outputs(job)  # in S3 everything stays


async def test_cleaning_by_age(stack, home: Path, s3, seqtool_image, nersc: NerscSite):
    ages = {"KBCTS_JAWS_KEEP_JOBS": "1", "KBCTS_JAWS_KEEP_INPUTS": "1", "KBCTS_JAWS_CLEAN_INTERVAL": "1"}
    service = jaws_service(stack, home, nersc, QUICK | QUICK_JAWS | ages)
    service.start()
    try:
        async with Driver(service, s3, seqtool_image, PERLMUTTER) as driver:
            await driver.ready()
            nersc.switch(hold_runs=True)
            files = await driver.upload({"a": b"never seen before"})
            waiting = await driver.submit(files, ["copy", LISTED])
            await driver.reached(waiting, "job_submitted")
            nersc.switch(hold_runs=False)
            job = await driver.over(waiting)
            left = Left(nersc, job["id"])

            async def gone() -> bool:
                if not (await driver.admin(f"/admin/jobs/{job['id']}"))["cleaned"]:
                    return False
                with contextlib.suppress(FileNotFoundError):  # of a directory that is being removed
                    inputs = [p for p in Path(nersc.staging_dir).rglob("cache/*/*-17") if p.is_file()]
                    return not left.paths() and not inputs
                return False

            await until(gone, "job and input are cleaned away")
    finally:
        await asyncio.to_thread(service.stop)
