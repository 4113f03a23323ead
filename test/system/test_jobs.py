"""Jobs from submission to their end, on a service that nothing bad happens to."""

import asyncio
import re

import httpx
import pytest

from cdmtaskservice.embedded.service import BUCKET
from cdmtaskservice.s3.checksum import crc64nvme
from test.system.driver import FAILED, HAPPY, Driver

FASTA = {f'reads/s {i}\'s "é".fa'.replace("'", "_"): f">a\nACGT{'A' * i}\n".encode() for i in range(4)}

SPACED = {"type": "input_files", "input_files_format": "space_separated_list"}


async def args_of(driver: Driver, job: dict) -> dict[int, list[str]]:
    """What each container was called with, as it wrote it down itself."""
    found = {}
    for path, data in (await driver.outputs(job)).items():
        number, name = path.split("/")
        if name == "args.bin":
            found[int(number)] = [part.decode() for part in data.split(b"\0")[:-1]]
    return found


async def test_the_main_job(shared: Driver):
    files = await shared.upload(FASTA)
    job_id = await shared.submit(
        files, ["stats", SPACED], params={"declobber": True}, name="all reads", tags=["a", "b"], runtime="PT2M"
    )
    job = await shared.over(job_id)
    outputs = await shared.outputs(job)
    assert sorted(outputs) == [f"{i}/seqstats.tsv" for i in range(4)]
    for i, path in enumerate(files):
        assert path.rsplit("/", 1)[1].encode() in outputs[f"{i}/seqstats.tsv"]
    assert [f["crc64nvme"] for f in job["job_input"]["input_files"]] == [crc64nvme(d) for d in FASTA.values()]
    assert job["job_input"]["name"] == "all reads"
    assert job["job_input"]["runtime"] == "PT2M"
    assert job["job_input"]["memory"] == 50_000_000
    assert job["image"]["digest"] == shared.image.digest
    assert (job["input_file_count"], job["output_file_count"]) == (4, 4)
    assert job["cpu_hours"] > 0
    assert 0 < job["cpu_factor"] < 10
    assert 100_000 < job["max_memory"] < 50_000_000
    assert "error" not in job
    await shared.check_history(job_id, HAPPY)
    reply = await shared.client().get(f"/jobs/{job_id}/exit_codes")
    assert reply.json() == {"exit_codes": [0, 0, 0, 0]}
    listed_ids = [j["id"] for j in (await shared.client().get("/jobs", params={"tag": "b"})).json()["jobs"]]
    assert listed_ids == [job_id]


async def test_a_dry_run_says_what_would_run_and_then_it_runs(shared: Driver):
    files = await shared.upload({"a.fa": b">a\nAC\n", "b.fa": b">b\nACG\n", "c.fa": b">c\nACGT\n"})
    numbered = {"type": "container_number", "container_num_prefix": "from-"}
    body = shared.body(
        files, ["args", SPACED], num_containers=2, params={"environment": {"N": numbered}, "declobber": True}
    )
    reply = await shared.client().post("/jobs?dry_run=true", json=body)
    assert reply.status_code == 200, reply.text
    told = reply.json()
    places = ["/input_files/a.fa", "/input_files/b.fa"]
    assert (told["input_bytes"], told["input_file_count"], told["containers"]) == (21, 3, 2)
    assert told["image"]["digest"] == shared.image.digest
    assert told["warnings"] == []
    assert (told["example"]["args"], told["example"]["environment"]) == (["args", *places], {"N": "from-0"})
    listed = (await shared.client().get("/jobs", params={"limit": 1})).json()["jobs"]
    assert not [job for job in listed if job["job_input"] == told["job_input"]], "a dry run must store nothing"
    reply = await shared.client().post("/jobs", json=body)
    job = await shared.over(reply.json()["job_id"])
    job_id = job["id"]
    assert (await args_of(shared, job))[0] == places
    [warning] = (await shared.client().post("/jobs?dry_run=true", json=body)).json()["warnings"]
    assert f"'{body['output_dir']}/0/' holds files already, such as '{job['outputs'][0]['file']}'" in warning
    refused = await shared.client().post("/jobs?dry_run=true", json={**body, "cpus": 10_000})
    assert (refused.status_code, refused.json()["error"]["appcode"]) == (400, 30001)

    shown = (await shared.client().get(f"/jobs/{job_id}/containers")).json()["containers"]
    assert [(c["container_number"], c["state"], c["exit_code"], c["attempt"]) for c in shown] == [
        (n, "complete", 0, 1) for n in range(2)
    ]
    assert all(c["wall_seconds"] > 0 and "phase" not in c for c in shown)

    async with httpx.AsyncClient() as anybody:  # the links need no token
        for kind, expected in (("outputs", job["outputs"]), ("inputs", job["job_input"]["input_files"])):
            seen, offset = [], 0
            while offset is not None:
                query = {"kind": kind, "limit": 2, "offset": offset}
                page = (await shared.client().get(f"/jobs/{job_id}/files", params=query)).json()
                assert page["total"] == len(expected)
                offset = page.get("next_offset")
                seen += page["files"]
            assert [{"file": f["file"], "crc64nvme": f["crc64nvme"]} for f in seen] == list(expected)
            for file in seen:
                assert crc64nvme((await anybody.get(file["url"])).content) == file["crc64nvme"]
    other = await shared.client("ben").get(f"/jobs/{job_id}/files")
    assert (other.status_code, other.json()["error"]["appcode"]) == (403, 20000)


PARAMETERS = {
    "comma": (
        [{"type": "input_files", "input_files_format": "comma_separated_list", "flag": "--in="}],
        lambda n, paths: [f"--in={','.join(paths)}"],
    ),
    "space": (
        ["-v", {"type": "input_files", "input_files_format": "space_separated_list", "flag": "-f"}],
        lambda n, paths: ["-v", "-f", *paths],
    ),
    "repeat": (
        [{"type": "input_files", "input_files_format": "repeat_parameter", "flag": "-i"}],
        lambda n, paths: [a for p in paths for a in ("-i", p)],
    ),
    "repeat_joined": (
        [{"type": "input_files", "input_files_format": "repeat_parameter", "flag": "--in="}],
        lambda n, paths: [f"--in={p}" for p in paths],
    ),
    "manifest": (
        [{"type": "manifest_file", "manifest_file_format": "files", "flag": "--list="}],
        lambda n, paths: [f"--list=/input_files/.cts/manifest-{n}.txt"],
    ),
    "number": (
        [{"type": "container_number", "container_num_prefix": "part-", "container_num_suffix": ".x", "flag": "--n"}],
        lambda n, paths: ["--n", f"part-{n}.x"],
    ),
}


@pytest.mark.parametrize("kind", PARAMETERS)
async def test_every_parameter_type_arrives_byte_for_byte(shared: Driver, kind: str):
    args, expected = PARAMETERS[kind]
    files = await shared.upload(FASTA)
    job_id = await shared.submit(files, ["args", *args], num_containers=2, params={"declobber": True})
    called = await args_of(shared, await shared.over(job_id))
    for n in (0, 1):
        paths = [f"/input_files/{f.rsplit('/', 1)[1]}" for f in files[2 * n : 2 * n + 2]]
        assert called[n] == expected(n, paths)


async def test_environment_and_data_ids(shared: Driver):
    files = await shared.upload(FASTA)
    objects = [{"file": f, "data_id": f"id {i}"} for i, f in enumerate(files)]
    environment = {
        "PLAIN": "a/b.c",
        "NUMBER": {"type": "container_number", "container_num_prefix": "c"},
        "MANIFEST": {
            "type": "manifest_file",
            "manifest_file_format": "data_ids",
            "manifest_file_header": "the\theader",
        },
    }
    job_id = await shared.submit(
        objects,
        ["env"],
        num_containers=2,
        params={"declobber": True, "environment": environment, "input_mount_point": "/in/put"},
    )
    outputs = await shared.outputs(await shared.over(job_id))
    for n in (0, 1):
        entries = dict(e.split("=", 1) for e in outputs[f"{n}/environ.bin"].decode().split("\0") if "=" in e)
        assert entries["PLAIN"] == "a/b.c"
        assert entries["NUMBER"] == f"c{n}"
        assert entries["MANIFEST"] == f"/in/put/.cts/manifest-{n}.txt"
        assert not [name for name in entries if "TOKEN" in name or name.startswith(("KBCTS", "AWS"))]


async def test_manifests_hold_what_was_asked_for(shared: Driver):
    files = await shared.upload(FASTA)
    manifest = {
        "type": "manifest_file",
        "manifest_file_format": "files",
        "flag": "--manifest=",
    }
    job_id = await shared.submit(files, ["copy", manifest], num_containers=2)
    outputs = await shared.outputs(await shared.over(job_id))
    assert outputs == {name.removeprefix("reads/"): data for name, data in FASTA.items()}


async def test_files_keep_their_place_below_a_root(shared: Driver):
    files = await shared.upload({"x/a/1.fa": b">a\nA\n", "x/b/1.fa": b">b\nC\n", "flat.fa": b">c\nG\n"})
    root = files[0].removesuffix("/a/1.fa")
    listed = {"type": "input_files", "input_files_format": "space_separated_list"}
    job_id = await shared.submit(files, ["copy", listed], num_containers=1, input_roots=[root])
    outputs = await shared.outputs(await shared.over(job_id))
    assert outputs == {"a/1.fa": b">a\nA\n", "b/1.fa": b">b\nC\n", "flat.fa": b">c\nG\n"}


async def test_fifty_containers(shared: Driver):
    files = await shared.upload({f"{i}.fa": f">{i}\nACGT\n".encode() for i in range(50)})
    listed = {"type": "input_files", "input_files_format": "space_separated_list"}
    job_id = await shared.submit(files, ["copy", listed])
    job = await shared.over(job_id, within=240)
    assert len(await shared.outputs(job)) == 50
    assert [c["sub_id"] for c in await shared.containers(job_id)] == list(range(50))
    await shared.check_history(job_id, HAPPY)


async def test_a_failing_container_and_its_neighbours(shared: Driver):
    files = await shared.upload({"0": b"x", "1": b"y", "2": b"z"})
    # Container 1 is given an exit code that fails it; the number is its argument.
    script = ["fail", {"type": "container_number"}]
    job_id = await shared.submit(files, script)
    job = await shared.over(job_id, "error")
    await shared.check_history(job_id, FAILED)
    assert (await shared.client().get(f"/jobs/{job_id}/exit_codes")).json() == {"exit_codes": [0, 1, 2]}
    assert "container 1" in job["error"]
    assert "exit code 1" in job["error"]
    assert "container 2" in job["error"]
    assert "container 0" not in job["error"]
    states = [c["state"] for c in await shared.containers(job_id)]
    assert states[1:] == ["error", "error"]
    for number in range(3):
        assert await shared.log(job_id, number, "stderr")


async def test_over_time(shared: Driver):
    files = await shared.upload({"0": b"x"})
    job_id = await shared.submit(files, ["stubborn", "300"], runtime=2)
    job = await shared.over(job_id, "error")
    assert "runtime" in job["error"]
    assert await shared.log(job_id, 0, "stdout") is not None


async def test_over_memory(shared: Driver):
    files = await shared.upload({"0": b"x"})
    job_id = await shared.submit(files, ["hog", "500"], memory="40MB")
    job = await shared.over(job_id, "error")
    assert "memory" in job["error"]
    [container] = await shared.containers(job_id)
    assert container["exit_code"] == 137


async def test_no_output_at_all_is_an_error(shared: Driver):
    files = await shared.upload({"0": b"x"})
    job_id = await shared.submit(files, ["say", "1"])
    job = await shared.over(job_id, "error")
    assert "output" in job["error"]
    assert await shared.log(job_id, 0, "stdout")


@pytest.mark.parametrize(
    ("args", "word"),
    [(["symlink"], "symbolic link"), (["fifo"], "fifo"), (["hardlink", "/input_files/x"], None)],
    ids=["symlink", "fifo", "hardlink"],
)
async def test_hostile_outputs_are_refused(shared: Driver, args: list[str], word: str | None):
    files = await shared.upload({"x": b"secret"})
    job_id = await shared.submit(files, args)
    job = await shared.over(job_id, "error")
    assert job.get("outputs", []) == []
    if word:
        assert word in job["error"].lower()


async def test_two_containers_writing_one_path(shared: Driver):
    files = await shared.upload({"a": b"x", "b": b"y"})
    job_id = await shared.submit(files, ["write", "same.txt", "10"])
    job = await shared.over(job_id, "error")
    assert "same.txt" in job["error"]
    assert re.search(r"[Cc]ontainers 0 and 1", job["error"])


async def test_an_input_that_changed_after_submission(shared: Driver):
    blocker = await shared.submit(await shared.upload({"x": b"x"}), ["sleep", "3"], cpus=2)
    [path] = await shared.upload({"data": b"before"})
    job_id = await shared.submit(
        [path], ["copy", {"type": "input_files", "input_files_format": "space_separated_list"}]
    )
    await shared.s3.put(path, b"after!")
    job = await shared.over(job_id, "error")
    assert path in job["error"]
    assert "CRC64NVME" in job["error"]
    await shared.over(blocker, "error")  # it wrote nothing


@pytest.mark.parametrize("when", ["queued", "running", "uploading"])
async def test_cancel(shared: Driver, when: str):
    client = shared.client()
    files = await shared.upload({"x": b"x"})
    blocker = None
    if when == "queued":
        blocker = await shared.submit(files, ["sleep", "60"], cpus=2)
        await shared.reached(blocker, "job_submitted")
        job_id = await shared.submit(files, ["sleep", "60"])
    elif when == "running":
        job_id = await shared.submit(files, ["stubborn", "60"])
        await shared.reached(job_id, "job_submitted")
    else:
        job_id = await shared.submit(files, ["write", "big", "200000000"], memory="100MB")
        await shared.reached(job_id, "upload_submitting")
    reply = await client.put(f"/jobs/{job_id}/cancel")
    assert reply.status_code == 204
    assert (await shared.status(job_id))["state"] in {"canceling", "canceled"}
    assert (await client.put(f"/jobs/{job_id}/cancel")).status_code in {204, 400}
    await shared.over(job_id, "canceled")
    assert (await client.put(f"/jobs/{job_id}/cancel")).json()["error"]["appcode"] == 30300
    told = await shared.messages(job_id, "canceled")
    assert [m["state"] for m in told][-2:] == ["canceling", "canceled"]
    if blocker:
        assert (await client.put(f"/jobs/{blocker}/cancel")).status_code == 204
        await shared.over(blocker, "canceled")
    running = await asyncio.create_subprocess_exec(
        str(shared.service.stack.podman), "ps", "-q", "--filter", f"name=cts-{job_id}", stdout=asyncio.subprocess.PIPE
    )
    assert (await running.communicate())[0] == b""


async def test_ten_thousand_inputs(shared: Driver):
    files = await shared.upload({f"d{i % 10}/{i}": str(i).encode() for i in range(10_000)})
    manifest = {"type": "manifest_file", "manifest_file_format": "files", "flag": "--manifest="}
    root = files[0].rsplit("/", 2)[0]
    job_id = await shared.submit(files, ["count", manifest], num_containers=1, input_roots=[root], runtime="PT5M")
    job = await shared.over(job_id, within=240)
    assert len(job["job_input"]["input_files"]) == 10_000
    [count] = (await shared.outputs(job)).values()
    assert count.split()[0] == b"10000"


async def test_bad_submissions_leave_nothing(shared: Driver):
    [good] = await shared.upload({"x": b"x"})
    before = (await shared.client().get("/jobs", params={"limit": 1000})).json()["jobs"]
    client = shared.client()

    async def code(**changes) -> int:
        reply = await client.post("/jobs", json={**shared.body([good], ["say", "1"]), **changes})
        assert 400 <= reply.status_code < 500, reply.text
        return reply.json()["error"].get("appcode")

    other = f"{BUCKET}/ben/x"
    assert await code(cluster="nowhere") == 30001
    assert await code(cpus=1000) == 30001
    assert await code(runtime="P100D") == 30001
    assert await code(image="docker.io/library/nothing:1") == 40030
    assert await code(output_dir="other-bucket/x") == 20010
    assert await code(output_dir=f"{BUCKET}/ben/x") == 20010
    assert await code(input_files=[other]) == 20010
    assert await code(input_files=[f"{BUCKET}/ann/none"]) == 40010
    assert await code(input_files=[{"file": good, "crc64nvme": "AAAAAAAAAAA="}]) == 30030
    assert await code(input_files=[f"{BUCKET}/ann/../ben/x"]) == 30010
    assert await code(input_files=[f"{BUCKET}/ann/a/./x"]) == 30010
    assert await code(output_dir=f"{BUCKET}/ann/../ben/") == 30010
    assert await code(num_containers=2) == 30010
    assert await code(surprise=1) == 30010
    reply = await shared.client("guest").post("/jobs", json=shared.body([good], ["say", "1"]))
    assert (reply.status_code, reply.json()["error"]["appcode"]) == (403, 20000)
    after = (await client.get("/jobs", params={"limit": 1000})).json()["jobs"]
    assert [j["id"] for j in after] == [j["id"] for j in before]


async def test_idempotency(shared: Driver):
    [path] = await shared.upload({"x": b"x"})
    body = shared.body([path], ["write", "a", "1"])
    headers = {"Idempotency-Key": path[-40:]}
    replies = await asyncio.gather(*(shared.client().post("/jobs", json=body, headers=headers) for _ in range(4)))
    assert {r.status_code for r in replies} == {200}
    [job_id] = {r.json()["job_id"] for r in replies}
    other = await shared.client().post("/jobs", json={**body, "cpus": 2}, headers=headers)
    assert other.status_code == 409
    await shared.over(job_id)


async def test_closed_sites_take_nothing_new(own: Driver):
    admin: httpx.AsyncClient = own.client("admin")
    [path] = await own.upload({"x": b"x"})
    assert (await admin.delete("/admin/sites/local/active")).status_code == 204
    reply = await own.client().post("/jobs", json=own.body([path], ["say", "1"]))
    assert reply.json()["error"]["appcode"] == 60010
    assert (await own.client().get("/sites")).json()["sites"][0]["active"] is False
    assert (await admin.put("/admin/sites/local/active")).status_code == 204
    await own.over(await own.submit([path], ["write", "a", "1"]))
