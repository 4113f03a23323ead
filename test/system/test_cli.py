"""The command line as a process, against the service as a process, with real jobs."""

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cdmtaskservice.embedded.service import BUCKET
from cdmtaskservice.s3.checksum import crc64nvme
from test.system.driver import FAILED, HAPPY, Driver, until

FASTA = {f"s {i}.fa": f">a\nACGT{'A' * i}\n".encode() for i in range(3)}

JOB = """\
# as a person would write it
cluster: {site}
image: {image}
name: 2024-01-01
tags: [{tag}]
num_containers: 3
memory: 50MB
runtime: PT1M
params:
  args: {args}
  declobber: true
input_files:
{files}
output_dir: {bucket}/ann/out/{tag}
"""
LISTED = "{type: input_files, input_files_format: space_separated_list}"


class Cts:
    """`cts` in a home of its own."""

    def __init__(self, driver: Driver, home: Path) -> None:
        self.driver = driver
        self.home = home
        clean = {n: v for n, v in os.environ.items() if not n.startswith(("CTS_", "AWS_", "KBCTS_"))}
        self.env = {**clean, "CTS_PROFILE_FILE": str(home / "profile.json"), "COLUMNS": "200"}

    async def start(self, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cdmtaskservice.cli", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.env | environment,
            cwd=self.home,
        )

    async def run(self, *arguments: str, stdin: str = "", code: int = 0, **environment: str) -> tuple[str, str]:
        """stdout and stderr; fails where it ends with another exit code."""
        process = await self.start(*arguments, **environment)
        out, err = await process.communicate(stdin.encode())
        assert process.returncode == code, (arguments, process.returncode, out.decode(), err.decode())
        assert b"Traceback" not in err
        return out.decode(), err.decode()

    async def out(self, *arguments: str, **more: Any) -> str:
        return (await self.run(*arguments, **more))[0]

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.out(*arguments, "--json"))

    async def login(self, user: str = "ann") -> None:
        token = self.driver.service.tokens[user]
        out, err = await self.run("login", "--url", self.driver.service.url, "--token-file", "-", stdin=token)
        assert out == ""
        assert err.startswith(f"{user} is logged in at ")

    async def write_job(self, args: str, files: dict[str, bytes] | None = None) -> tuple[str, str]:
        """A job file; its path and the tag that its job alone has."""
        tag = uuid.uuid4().hex[:8]
        uploaded = await self.driver.upload(files or FASTA)
        text = JOB.format(
            site=self.driver.site,
            image=self.driver.image.by_tag,
            tag=tag,
            args=args,
            files="".join(f"  - {file}\n" for file in uploaded).rstrip(),
            bucket=BUCKET,
        )
        if len(uploaded) != 3:
            text = text.replace("num_containers: 3", f"num_containers: {len(uploaded)}")
        path = self.home / f"{tag}.yaml"
        path.write_text(text)
        return str(path), tag


@pytest.fixture
async def cts(shared: Driver, tmp_path: Path) -> Cts:
    """Of ann's, logged in."""
    found = Cts(shared, tmp_path)
    await found.login()
    return found


@pytest.fixture
async def admin(shared: Driver, tmp_path: Path) -> Cts:
    """Of an administrator's."""
    (tmp_path / "admin").mkdir()
    found = Cts(shared, tmp_path / "admin")
    await found.login("admin")
    return found


@asynccontextmanager
async def ended(process: asyncio.subprocess.Process) -> AsyncIterator[asyncio.subprocess.Process]:
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def rows(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines()]


async def test_from_a_file_to_its_results(cts: Cts, shared: Driver):
    assert rows(await cts.out("whoami")) == [["user", "ann"], ["path", f"{BUCKET}/ann/ (write)"]]
    file, tag = await cts.write_job(f"[copy, {LISTED}]")

    out, err = await cts.run("submit", file, "--dry-run")
    told = dict(row for row in rows(out) if len(row) == 2)
    assert told["container 0 runs"].endswith("copy '/input_files/s 0.fa'")
    assert (told["input files"], told["containers"]) == (f"3, {sum(map(len, FASTA.values()))} bytes", "3")
    assert "nothing was submitted" in err
    assert (await cts.json("submit", file, "--dry-run"))["dry_run"] is True
    assert await cts.json("jobs", "--tag", tag) == {"jobs": []}

    out, err = await cts.run("submit", file, "--wait", "--timeout", "2m")
    job_id = out.removesuffix("\n")
    assert [line.split()[2] for line in err.splitlines() if line.startswith("2")] == HAPPY
    assert f"{job_id} is complete, after " in err

    [row] = rows(await cts.out("jobs", "--tag", tag))
    assert (row[0], row[1], row[6], row[7]) == (job_id, "complete", "2024-01-01", tag)
    assert rows(await cts.out("jobs", "-q", tag, "--state", "complete", "--limit", "1"))[0][0] == job_id
    shown = await cts.out("job", job_id)
    assert [row[1] for row in rows(shown) if len(row) == 4] == HAPPY
    assert "containers\t3: complete 3\n" in shown
    assert (await cts.json("job", job_id)) == await shared.job(job_id)
    each = rows(await cts.out("job", job_id, "--containers"))
    assert [(row[0], row[1], row[3]) for row in each] == [(str(n), "complete", "0") for n in range(3)]

    expected = {f"{n}/{name}": data for n, (name, data) in enumerate(FASTA.items())}
    root = f"{BUCKET}/ann/out/{tag}"
    assert rows(await cts.out("outputs", job_id)) == [[f"{root}/{n}", crc64nvme(d)] for n, d in expected.items()]
    fetched = rows(await cts.out("outputs", job_id, "--download", "got"))
    assert {row[0]: (cts.home / row[0]).read_bytes() for row in fetched} == {f"got/{n}": d for n, d in expected.items()}
    assert rows(await cts.out("outputs", job_id, "--download", "got")) == fetched
    (cts.home / "got/0/s 0.fa").write_bytes(b"mine")
    await cts.run("outputs", job_id, "--download", "got", code=1)
    assert (cts.home / "got/0/s 0.fa").read_bytes() == b"mine"
    await cts.run("outputs", job_id, "--download", "got", "--overwrite")
    assert (cts.home / "got/0/s 0.fa").read_bytes() == FASTA["s 0.fa"]
    assert (await cts.run("watch", job_id))[0].count("\n") >= len(HAPPY)
    _, err = await cts.run("cancel", job_id, code=1)
    assert "request " in err
    assert (await cts.run("logout"))[1] == "logged out\n"
    await cts.run("jobs", code=2)


async def test_the_example_runs(cts: Cts, shared: Driver):
    """With names of what there is here instead of there."""
    files = await shared.upload({f"reads/sample{n}.fasta": b">a\nACGT\n" for n in (1, 2, 3)})
    text = await cts.out("submit", "--example")
    root = files[0].removesuffix("/reads/sample1.fasta")
    settings = [f"cluster={shared.site}", f"image={shared.image.by_tag}", "memory=50MB", f"output_dir={root}/out"]
    text = text.replace("cts-data/ann/reads", f"{root}/reads")
    out, err = await cts.run(
        "submit", "-", "--wait", "--json", *(w for s in settings for w in ("--set", s)), stdin=text
    )
    job = json.loads(out)
    assert (job["state"], job["output_file_count"]) == ("complete", 2)
    assert job["job_input"]["name"] == "all reads of run 1"
    assert f"{job['id']} is submitted" in err


async def test_what_is_wrong_with_a_job_is_told_with_its_line(cts: Cts, shared: Driver):
    file, tag = await cts.write_job("[copy, $(rm)]")
    _, err = await cts.run("submit", file, "--set", "runtime=10:00", code=1)
    assert "'10:00' could be minutes or hours" in err
    text = Path(file).read_text().replace("PT1M", "soon")
    _, err = await cts.run("submit", "-", code=1, stdin=text)
    lines = err.splitlines()
    assert len(lines) >= 3
    assert any("line 10: params.args.1" in line for line in lines), err
    assert any("line 8: runtime" in line for line in lines), err
    assert await cts.json("jobs", "--tag", tag) == {"jobs": []}
    _, err = await cts.run("submit", file, "--set", "cluster=mars", "--set", "memory=nothing", "--dry-run", code=1)
    assert "memory" in err
    file, _ = await cts.write_job(f"[copy, {LISTED}]")
    for dry in ([], ["--dry-run"]):
        _, err = await cts.run("submit", file, "--set", "image=registry.example.org/no:1", *dry, code=1)
        assert "`cts images` lists" in err


async def test_the_log_of_a_slow_container_is_printed_while_it_runs(cts: Cts, shared: Driver):
    file, _ = await cts.write_job("[tick, 40, 0.5]", {"a": b"x"})
    job_id = (await cts.out("submit", file)).strip()
    async with ended(await cts.start("logs", job_id, "-f")) as following:
        assert following.stdout is not None
        first = await following.stdout.readline()
        [container] = (await cts.json("job", job_id, "--containers"))["containers"]
        assert container["state"] == "job_submitted"
        rest = await following.stdout.read()
        assert await following.wait() == 0
    await cts.run("watch", job_id, "--json")
    whole = await cts.out("logs", job_id)
    assert (first + rest).decode() == whole
    assert await cts.out("logs", job_id, "--tail", "2") == "".join(whole.splitlines(keepends=True)[-2:])
    assert await cts.out("logs", job_id, "--seek", "3") == whole[3:]


async def test_a_job_that_fails_is_4_and_says_where_to_look(cts: Cts):
    file, _ = await cts.write_job("[fail, 7]")
    out, err = await cts.run("submit", file, "--wait", code=4)
    job_id = out.strip()
    assert "7" in err
    assert f"`cts logs {job_id} -c 0 --stderr`" in err
    assert (await cts.out("logs", job_id, "--stderr")) != ""
    out, _ = await cts.run("watch", job_id, code=4)
    assert [row[1] for row in rows(out) if row[0]] == FAILED
    shown = rows(await cts.out("job", job_id))
    assert [row[:4] for row in shown if len(row) == 7] == [[str(n), "error", "1", "7"] for n in range(3)]


async def test_canceled_is_5_late_is_6_interrupted_is_130(cts: Cts, shared: Driver):
    file, _ = await cts.write_job("[sleep, 50]", {"a": b"x"})
    job_id = (await cts.out("submit", file)).strip()
    await shared.reached(job_id, "job_submitted")
    _, err = await cts.run("watch", job_id, "--timeout", "1", code=6)
    assert "was not over after 1 s: it is job_submitted" in err
    await cts.run("outputs", job_id, code=1)
    async with ended(await cts.start("watch", job_id)) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        await watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert await watching.wait() == 130
        err = (await watching.stderr.read()).decode()
        assert "Traceback" not in err
        assert f"{job_id} goes on" in err
    async with ended(await cts.start("watch", job_id)) as watching:
        assert (await cts.run("cancel", job_id, job_id))[1] == f"{job_id} is being canceled\n"
        assert await watching.wait() == 5


async def test_a_service_that_does_not_answer_is_3(cts: Cts):
    file, _ = await cts.write_job("[count]", {"a": b"x"})
    for command in (["jobs"], ["submit", file, "--dry-run"], ["watch", str(uuid.uuid4())]):
        _, err = await cts.run(*command, "--url", "http://127.0.0.1:9", code=3)
        assert "(http://127.0.0.1:9)" in err
    _, err = await cts.run("jobs", CTS_TOKEN="nobody's", code=1)
    assert "request " in err
    await cts.run("login", "--url", "http://127.0.0.1:9", "--token-file", "-", stdin="x", code=3)


async def test_a_watch_outlives_a_restart_of_the_service(own: Driver, tmp_path: Path):
    cts = Cts(own, tmp_path)
    await cts.login()
    file, _ = await cts.write_job("[tick, 20, 0.5]", {"a": b"x"})
    job_id = (await cts.out("submit", file)).strip()
    async with ended(await cts.start("watch", job_id)) as watching:
        assert watching.stdout is not None
        assert b"created" in await watching.stdout.readline()
        await asyncio.to_thread(own.service.kill)
        await asyncio.to_thread(own.service.start)
        rest = (await watching.stdout.read()).decode()
        assert await watching.wait() == 0, rest
    assert [row[1] for row in rows(rest) if row[0]] == HAPPY[1:]


async def test_images_and_sites(cts: Cts, admin: Cts, shared: Driver):
    image = shared.image
    assert any(row[0] == image.by_tag and row[1] == image.digest for row in rows(await cts.out("images")))
    assert ["digest", image.digest] in rows(await cts.out("images", "show", image.by_tag))
    assert (await cts.json("images", "show", image.by_tag))["digest"] == image.digest
    _, err = await cts.run("images", "approve", "x:1", code=1)
    assert "request " in err
    _, err = await admin.run("images", "approve", image.by_tag, code=1)
    assert "approved" in err

    def state(out: str) -> str:
        return next(row[1] for row in rows(out) if row[0] == shared.site)

    assert state(await cts.out("sites")) == "open"
    await cts.run("sites", "close", shared.site, code=1)
    try:
        await admin.run("sites", "close", shared.site)
        assert state(await cts.out("sites")) == "closed"
        file, _ = await cts.write_job("[count]", {"a": b"x"})
        _, err = await cts.run("submit", file, "--dry-run", code=1)
        assert "`cts sites` shows all" in err
    finally:
        await admin.run("sites", "open", shared.site)
    assert state(await cts.out("sites")) == "open"
    assert await cts.json("refdata", "list") == {"data": []}


async def test_what_administrators_do(cts: Cts, admin: Cts, shared: Driver):
    file, tag = await cts.write_job("[sleep, 50]", {"a": b"x"})
    job_id = (await cts.out("submit", file)).strip()
    await shared.reached(job_id, "job_submitted")
    assert [(row[0], row[-1]) for row in rows(await admin.out("admin", "jobs", "--tag", tag))] == [(job_id, "ann")]
    assert [row[0] for row in rows(await admin.out("admin", "containers", job_id))] == ["0"]
    assert (await admin.json("admin", "runner-status", job_id)) != {}
    await admin.run("admin", "meta", job_id, "--set", "ticket=A-1")
    assert "note ticket\tA-1\n" in await cts.out("job", job_id)
    await admin.run("admin", "notify", job_id, "created")
    await cts.run("admin", "jobs", code=1)
    await admin.run("admin", "clean", job_id, code=1)
    await admin.run("admin", "cancel", job_id)
    await cts.run("watch", job_id, code=5)
    await admin.run("admin", "clean", job_id)
    shown = rows(await admin.out("admin", "job", job_id))
    assert ["user", "ann"] in shown

    async def settled() -> bool:
        return (await admin.json("admin", "unsent")) == {"jobs": 0, "transitions": 0}

    await until(settled, "all messages are sent")


async def test_inputs_are_given_a_checksum_and_then_taken(cts: Cts, shared: Driver):
    account = shared.service.stack.s3
    keys = {
        "AWS_ENDPOINT_URL": account.url,
        "AWS_ACCESS_KEY_ID": account.access_key,
        "AWS_SECRET_ACCESS_KEY": account.secret_key,
    }
    root = f"{BUCKET}/ann/bare/{uuid.uuid4().hex[:8]}"
    await _put_without_checksum(account, f"{root}/a.fa", FASTA["s 0.fa"])
    file, _ = await cts.write_job("[count]", {"a": b"x"})
    text = Path(file).read_text()
    begin, files = text.split("input_files:\n")
    text = f"{begin}input_files: ['{root}/a.fa']\n{files[files.index('output_dir') :]}"
    _, err = await cts.run("submit", "-", "--dry-run", stdin=text, code=1)
    assert "has no CRC64NVME" in err
    out, _ = await cts.run("s3", "checksum", f"{root}/", code=1, **keys)
    assert rows(out)[0][2] == "lacking"
    out, _ = await cts.run("s3", "checksum", f"s3://{root}/", "--add", **keys)
    assert rows(out) == [[f"{root}/a.fa", str(len(FASTA["s 0.fa"])), "added", crc64nvme(FASTA["s 0.fa"])]]
    await cts.run("submit", "-", "--dry-run", stdin=text)


async def _put_without_checksum(account: Any, path: str, data: bytes) -> None:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    bucket, _, key = path.partition("/")
    async with get_session().create_client(
        "s3",
        endpoint_url=account.url,
        aws_access_key_id=account.access_key,
        aws_secret_access_key=account.secret_key,
        region_name="us-east-1",
        config=AioConfig(request_checksum_calculation="when_required", s3={"addressing_style": "path"}),
    ) as s3:
        await s3.put_object(Bucket=bucket, Key=key, Body=data)
