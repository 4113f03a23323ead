"""The stand-ins for NERSC and JAWS behave as what they stand for: the tests of JAWS sites rest on that."""

import configparser
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from authlib.integrations.base_client.errors import OAuthError
from sfapi_client import AsyncClient
from sfapi_client.compute import Machine
from sfapi_client.exceptions import SfApiError

from cdmtaskservice.embedded.image import Pushed
from cdmtaskservice.embedded.part import Launcher
from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.sites.jaws import wdl
from test.stand_ins.nersc.part import NerscSite

ODD_NAMES = (
    "with space.fa",
    "quote'\".fa",
    "back\\slash.fa",
    "$HOME ${HOME} ~{sep} `id`.fa",
    "ünï/größe.fa",
    "-dash:colon,comma.fa",
    "%20#?&*[x].fa",
)
ENDS = 60.0


@pytest.fixture(scope="module")
def site(stack: EmbeddedStack) -> Iterator[NerscSite]:
    home = Path(tempfile.mkdtemp(prefix="cts-test-nersc-"))
    launcher = Launcher()
    running = NerscSite(home, home / "log", launcher, stack.podman)
    try:
        running.start()
        yield running
        print((home / "log").read_text())
    finally:
        running.stop()
        launcher.close()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(autouse=True)
def _all_is_well(site: NerscSite) -> None:
    site.resume()
    site.start()
    site.switch(reset=True)
    site.renew_credentials()


@pytest.fixture
async def client(site: NerscSite) -> AsyncIterator[AsyncClient]:
    async with sfapi(site) as opened:
        yield opened


def sfapi(site: NerscSite) -> AsyncClient:
    client_id, _, key = site.credentials_file.read_text().partition("\n")
    return AsyncClient(client_id, key, api_base_url=site.sfapi_url, token_url=site.token_url)


async def test_token_status_and_account(client: AsyncClient, site: NerscSite) -> None:
    assert await client.token
    machine = await client.compute(Machine.perlmutter)
    assert machine.status.value == "active"
    user = await client.user()
    assert user.name == site.nersc_user
    [mine] = [c for c in await user.clients() if c.clientId == client._client_id]
    assert len(mine.clientId) == 13
    assert mine.expiresAt
    with pytest.raises(httpx.HTTPStatusError) as caught:
        await client.get("status/edison")
    assert caught.value.response.status_code == 404


async def test_command_with_an_exit_code_and_nothing_on_stderr(client: AsyncClient, site: NerscSite) -> None:
    machine = await client.compute(Machine.dtns)
    task = await machine.run_task("echo here; pwd; exit 3")
    await task._wait()
    assert task.result is not None
    assert (task.result.exit_code, task.result.error) == (3, None)
    assert task.result.output == f"here\n{site.root}/home\n"
    assert await machine.run("exit 3") == ""
    with pytest.raises(SfApiError, match="words"):
        await machine.run("echo words >&2")


async def test_command_sees_nothing_of_the_caller(client: AsyncClient) -> None:
    machine = await client.compute(Machine.perlmutter)
    names = {line.partition("=")[0] for line in str(await machine.run("env")).splitlines()}
    assert names <= {"PATH", "HOME", "PWD", "SHLVL", "_", "OLDPWD"}


async def test_machines_see_different_directories(client: AsyncClient, site: NerscSite) -> None:
    if not site.control()["views_hidden"]:
        pytest.skip("directories cannot be hidden from commands here: unshare is not allowed")
    for machine, seen, hidden in (
        (Machine.dtns, site.staging_dir, site.submit_staging_dir),
        (Machine.perlmutter, site.submit_staging_dir, site.staging_dir),
    ):
        commands = await client.compute(machine)
        assert await commands.run(f"test -d {seen} && ! test -e {hidden} && echo so") == "so\n"
        with pytest.raises(SfApiError, match="No such file"):
            await commands.ls(str(hidden))
        assert await commands.run(f"touch {seen}/one && ls {seen}") == "inputs\none\n"
        (site.staging_dir / "one").unlink()
        assert await commands.run(f"mkdir {hidden} 2>/dev/null || echo so") == "so\n"


async def test_task_vanishes_after_its_end(client: AsyncClient, site: NerscSite) -> None:
    machine = await client.compute(Machine.dtns)
    task = await machine.run_task("true")
    await task._wait()
    site.switch(task_lifetime=0)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        await task.update()
    assert caught.value.response.status_code == 404


async def test_task_that_is_cancelled_ends(client: AsyncClient, site: NerscSite) -> None:
    machine = await client.compute(Machine.dtns)
    task = await machine.run_task(f"echo $$ > {site.root}/home/pid; sleep 60")
    file = site.root / "home/pid"
    until(lambda: file.exists() and file.read_text().endswith("\n"), "the command tells its process")
    await task.cancel()
    await task.update()
    assert str(task.status.value).lower() == "cancelled"
    until(lambda: not Path("/proc", file.read_text().strip()).exists(), "the command is gone")


async def test_upload_and_download(client: AsyncClient, site: NerscSite) -> None:
    content = bytes(range(256)) + b"\r\n--\r\n\n"
    path = site.root / "home/with space"
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        reply = await client.put(f"utilities/upload/dtns/{path}", files={"file": file})
    assert reply.json()["status"] == "OK"
    assert path.read_bytes() == content
    machine = await client.compute(Machine.dtns)
    [found] = await machine.ls(str(path))
    assert (await found.download(binary=True)).read() == content
    for bad in ("/etc/passwd", f"{site.root}/../x", f"{site.root}/none/x", f"{site.submit_staging_dir}/x"):
        told = (await client.get(f"utilities/download/dtns/{bad}")).json()
        assert (told["status"], told["file"]) == ("ERROR", None)
        told = (await client.put(f"utilities/upload/dtns/{bad}", files={"file": b"x"})).json()
        assert told["status"] == "ERROR"
    assert "No such file or directory" in told["error"]


async def test_clients_that_are_not_trusted(site: NerscSite) -> None:
    client_id, _, key = site.credentials_file.read_text().partition("\n")
    other = site.renew_credentials()
    unsigned = httpx.post(site.token_url, data={"grant_type": "client_credentials", "client_id": client_id})
    assert (unsigned.status_code, unsigned.json()["error"]) == (401, "invalid_client")
    for wrong in ("abcdefghijklm", other):
        async with AsyncClient(wrong, key, api_base_url=site.sfapi_url, token_url=site.token_url) as client:
            with pytest.raises(OAuthError, match="invalid_client"):
                await client.get("account/")


async def test_credentials_are_renewed_and_expire(client: AsyncClient, site: NerscSite) -> None:
    assert (await client.get("account/")).status_code == 200
    site.expire_credentials()
    with pytest.raises(httpx.HTTPStatusError) as caught:
        await client.get("account/")
    assert caught.value.response.status_code == 403
    async with sfapi(site) as expired:
        with pytest.raises(OAuthError, match="invalid_client"):
            await expired.get("account/")
    site.renew_credentials(user="mallory", lifetime=600)
    async with sfapi(site) as renewed:
        assert (await renewed.get("account/")).json()["name"] == "mallory"
    site.renew_credentials()
    async with sfapi(site) as renewed:
        assert (await renewed.get("account/")).json()["name"] == site.nersc_user
        site.switch(expire_tokens=True)
        with pytest.raises(httpx.HTTPStatusError):
            await renewed.get("account/")


async def test_answers_that_go_wrong(client: AsyncClient, site: NerscSite) -> None:
    assert (await client.get("account/")).status_code == 200
    token = await client.token
    account, headers = f"{site.sfapi_url}/account/", {"Authorization": f"Bearer {token}"}
    site.switch(sfapi_error=503)
    assert httpx.get(account, headers=headers).status_code == 503
    site.switch(sfapi_error={"status": 502, "times": 1, "path": "account"})
    assert [httpx.get(account, headers=headers).status_code for _ in range(2)] == [502, 200]
    site.switch(drop={"times": 1})
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(account, headers=headers)
    site.switch(lose_answers={"times": 1, "path": "command"})
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(
            f"{site.sfapi_url}/utilities/command/dtns",
            headers=headers,
            data={"executable": f"touch {site.root}/home/heard"},
        )
    until((site.root / "home/heard").exists, "the command is run though its answer is lost")
    site.switch(latency=0.3)
    began = time.monotonic()
    httpx.get(account, headers=headers)
    assert time.monotonic() - began > 0.3
    told = site.control()
    assert told["calls"]["/sfapi/api/v1.2/account/"] == 6
    assert told["commands"] == [f"touch {site.root}/home/heard"]
    with pytest.raises(ValueError, match="no such switch"):
        site.switch(latncy=1)


async def test_machine_that_is_down(client: AsyncClient, site: NerscSite) -> None:
    end = "2030-01-01T00:00:00+00:00"
    site.switch(machine_status={"perlmutter": {"status": "unavailable", "notes": "maintenance", "until": end}})
    status = await client.resources.status("perlmutter")
    assert (status.status.value, status.notes) == ("unavailable", ["maintenance"])
    [outage] = [o for o in await client.resources.outages("perlmutter") if o.status.value == "Active"]
    assert outage.end_at.isoformat() == end
    assert {o.status.value for o in await client.resources.outages("dtns")} == {"Completed", "Cancelled"}
    assert await client.resources.planned_outages("perlmutter") == []
    assert set(await client.resources.outages()) == {"perlmutter", "dtns"}


async def test_state_outlives_a_kill(client: AsyncClient, site: NerscSite) -> None:
    assert (await client.get("account/")).status_code == 200
    site.kill()
    site.start()
    assert (await client.get("account/")).status_code == 200
    assert site.jaws("user")["uid"] == site.jaws_user
    site.renew_jaws_token("mallory")
    assert site.jaws("user")["uid"] == "mallory"
    site.renew_jaws_token()
    assert site.jaws("user")["uid"] == site.jaws_user


def test_jaws_refuses(site: NerscSite, seqtool_image: Pushed) -> None:
    spec = run_spec(seqtool_image)
    assert "no valid Site ID" in submit(site, spec, [["true"]], jaws_site="nowhere", code=1)
    assert "The WDL is invalid" in submit(site, spec, [["true"]], change=("call container", "cal container"), code=1)
    assert "Unknown identifier" in submit(site, spec, [["true"]], change=("script = scripts[n]", "script = x"), code=1)
    assert "Only WDL 1.0" in submit(site, spec, [["true"]], change=("version 1.0", "version 1.1"), code=1)
    assert "is not below" in submit(site, spec, [["true"]], files=[("x", "/etc/passwd")], code=1)
    other = str(site.submit_staging_dir / "inputs/jgi/x")
    assert "is not below" in submit(site, spec, [["true"]], files=[("x", other)], code=1)
    missing = str(site.submit_staging_dir / "inputs/kbase/missing")
    assert "is not there" in submit(site, spec, [["true"]], files=[("x", missing)], code=1)
    link = site.staging_dir / "inputs/kbase/link"
    link.symlink_to("/etc/passwd")
    inside = str(site.submit_staging_dir / "inputs/kbase/link")
    assert "leads out" in submit(site, spec, [["true"]], files=[("x", inside)], code=1)
    [closed] = staged(site, [b"x"])
    Path(closed).parent.chmod(0o700)
    assert "cannot be read by JAWS" in submit(site, spec, [["true"]], files=[("x", closed)], code=1)
    Path(closed).parent.chmod(0o755)
    assert "token is not valid" in submit(site, spec, [["true"]], token="bad", code=1)
    assert "not a member" in submit(site, spec, [["true"]], team="others", code=1)
    site.switch(jaws_site_down=["kbase"])
    assert "is down" in submit(site, spec, [["true"]], code=1)
    assert set(site.jaws("status/kbase").values()) == {"DOWN", "UP"}
    assert set(site.jaws("status/jgi").values()) == {"UP"}
    assert site.jaws("status/nowhere")["detail"]["error"]
    assert site.jaws("run/1")["detail"]["error"] == "Run not found: 1"


def test_jaws_runs_containers_and_leaves_their_outputs(site: NerscSite, seqtool_image: Pushed) -> None:
    *sources, alone = staged(site, [f">{n}\nACGT\n".encode() for n in range(len(ODD_NAMES) + 1)])
    files = [[(name, sources[n]) for n, name in enumerate(ODD_NAMES)], [("one.fa", sources[0])], [("one.fa", alone)]]
    spec = run_spec(seqtool_image)
    commands = [["tool", "copy", *(f"/in put/{name}" for name in ODD_NAMES)], ["tool", "count", "/in put/one.fa"]]
    commands += [["stat", "-c", "%h", "/in put/one.fa"]]
    commands[0] += ["--from=/in put", "--out=/out put"]
    commands[1] += ["--out=/out put"]
    run = site.run_ended(run_id(submit(site, spec, commands, files=files, tag="a tag")))
    assert (run["result"], run["tag"], run["site"]) == ("succeeded", "a tag", "kbase")
    assert run["cpu_hours"] > 0
    assert run["output_dir"].startswith(f"{site.submit_outputs_dir}/")
    told = json.loads(Path(run["output_dir"], "outputs.json").read_text())
    assert set(told) == {"cts.outputs", "cts.stdouts", "cts.stderrs"}
    execution = f"{run['output_dir']}/call-container/shard-0/execution"
    assert {p.removeprefix(f"{execution}/__output__/") for p in told["cts.outputs"][0]} == set(ODD_NAMES)
    for number, name in enumerate(ODD_NAMES):
        assert Path(execution, "__output__", name).read_text() == f">{number}\nACGT\n"
    [count] = told["cts.outputs"][1]
    assert count == f"{run['output_dir']}/call-container/shard-1/execution/__output__/count.txt"
    assert Path(count).read_text() == "1\n"
    assert told["cts.stdouts"][0] == f"{execution}/stdout"
    assert told["cts.stderrs"][1].endswith("/shard-1/execution/stderr")
    assert Path(told["cts.stdouts"][2]).read_text() == "3\n"  # hard links: in the cache, and two at the task
    for source in sources:
        assert os.stat(source).st_mode & 0o777 == 0o444
        assert os.stat(source).st_nlink == 1
    words = [entry["status_to"] for entry in site.jaws(f"run/{run['id']}/run_log")]
    assert words[-1] == "done"
    assert {"queued", "running"} < set(words)
    assert run["id"] in [r["id"] for r in site.jaws("search", {"active_only": False, "delta_days": 1})]
    assert run["id"] not in [r["id"] for r in site.jaws("search", {"active_only": True, "delta_days": 1})]


def test_jaws_gives_containers_few_rights_and_reference_data(site: NerscSite, seqtool_image: Pushed) -> None:
    data = site.refdata_dir / "things/v1"
    data.mkdir(parents=True, exist_ok=True)
    (data / "genes").write_text("reference")
    spec = run_spec(seqtool_image, refdata=("things/v1", "/ref"), output_mount_point="/output_files")
    look = "grep -q ' /ref ro' /output_files/mountinfo; cp /ref/genes /output_files; touch /ref/x || echo read-only"
    run = site.run_ended(run_id(submit(site, spec, [["tool", "probe"], ["bash", "-c", look]])))
    assert run["result"] == "succeeded"
    execution = Path(run["output_dir"], "call-container")
    status = dict(line.split(":\t") for line in _output(execution, 0, "status").splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert _output(execution, 0, "cwd").startswith("/mnt/")
    assert _output(execution, 1, "genes") == "reference"
    assert (execution / "shard-1/execution/stdout").read_text() == "read-only\n"


def test_jaws_tells_of_all_containers_that_failed(site: NerscSite, seqtool_image: Pushed) -> None:
    commands = [["tool", "fail", "3"], ["tool", "say", "1"], ["tool", "symlink"], ["no such program"]]
    spec = run_spec(seqtool_image, output_mount_point="/output_files")
    run = site.run_ended(run_id(submit(site, spec, commands)))
    assert run["result"] == "failed"
    assert not Path(run["output_dir"], "outputs.json").exists()
    calls = json.loads(Path(run["output_dir"], "errors.json").read_text())["calls"]["cts.container"]
    assert [(c["shardIndex"], c["returnCode"]) for c in calls] == [(0, 3), (2, 125), (3, 127)]
    assert "exit code 3, as asked" in calls[0]["stderrContents"]
    assert calls[0]["stdoutContents"] == ""
    assert "exited with return code 3" in calls[0]["failures"][0]["message"]
    assert wdl.MARK in calls[1]["stderrContents"]


def test_jaws_tells_of_containers_that_never_started(site: NerscSite, seqtool_image: Pushed) -> None:
    gone = Pushed(seqtool_image.name.replace("seqtool", "gone"), "1.0", f"sha256:{'0' * 64}")
    ids = [
        run_id(submit(site, run_spec(gone), [["true"], ["true"]])),
        run_id(submit(site, run_spec(seqtool_image, refdata=("nothing", "/ref")), [["true"]])),
        run_id(submit(site, run_spec(seqtool_image), [["true"]], change=("127.0.0.1", "docker.io/127.0.0.1"))),
    ]
    for number, shards in zip(ids, (2, 1, 1), strict=True):
        run = site.run_ended(number)
        assert run["result"] == "failed"
        calls = json.loads(Path(run["output_dir"], "errors.json").read_text())["calls"]["cts.container"]
        assert [c["shardIndex"] for c in calls] == list(range(shards))
        assert all(not {"returnCode", "stdoutContents", "stderrContents"} & set(c) for c in calls)
        assert all(c["failures"][0]["message"] for c in calls)


def test_jaws_ends_containers_over_their_runtime_minutes(site: NerscSite, seqtool_image: Pushed) -> None:
    # A WDL has whole minutes: none at all is the shortest time.
    late = submit(site, run_spec(seqtool_image), [["sleep", "50"]], change=("runtime_minutes: 2", "runtime_minutes: 0"))
    run = site.run_ended(run_id(late))
    [call] = json.loads(Path(run["output_dir"], "errors.json").read_text())["calls"]["cts.container"]
    assert "longer than 0 minutes" in call["failures"][0]["message"]
    assert "returnCode" not in call


def test_jaws_cancels(site: NerscSite, seqtool_image: Pushed) -> None:
    running = run_id(submit(site, run_spec(seqtool_image), [["sleep", "100"]]))
    until(lambda: site.containers(running), "its container is there")
    site.switch(hold_runs=True)
    held = run_id(submit(site, run_spec(seqtool_image), [["true"]]))
    time.sleep(0.3)
    assert site.jaws(f"run/{held}")["status"] == "queued"
    for number in (running, held):
        site.jaws(f"run/{number}/cancel", method="PUT")
        assert site.run_ended(number)["result"] == "cancelled"
        assert "too late to cancel" in site.jaws(f"run/{number}/cancel", method="PUT")["detail"]["error"]
    assert not site.containers(running)


def test_jaws_runs_several_at_once(site: NerscSite, seqtool_image: Pushed) -> None:
    site.switch(hold_runs=True)
    ids = [run_id(submit(site, run_spec(seqtool_image), [["tool", "say", "1"]] * 2, tag=str(n))) for n in range(4)]
    assert {site.jaws(f"run/{number}")["status"] for number in ids} == {"queued"}
    site.switch(hold_runs=False)
    assert sorted(site.jaws(f"run/{number}")["status"] for number in ids) == ["queued", *["running"] * 3]
    assert {site.run_ended(number)["result"] for number in ids} == {"succeeded"}


def test_jaws_runs_that_end_in_odd_ways(site: NerscSite, seqtool_image: Pushed) -> None:
    spec = run_spec(seqtool_image)
    for fate, words in (("cancelled_null", "cancelled"), ("system_error", "failed")):
        site.switch(next_run=fate)
        run = site.run_ended(run_id(submit(site, spec, [["true"]])))
        assert run["result"] is None
        assert words in site.jaws(f"run/{run['id']}/run_log")[-1]["comment"]
    site.switch(next_run="never_started", results_late=0.5)
    run = site.run_ended(run_id(submit(site, spec, [["true"]])))
    assert run["result"] == "failed"
    errors = Path(run["output_dir"], "errors.json")
    assert not errors.exists()
    until(errors.exists, "late results come")
    assert "returnCode" not in json.loads(errors.read_text())["calls"]["cts.container"][0]


def test_jaws_submission_whose_answer_is_lost(site: NerscSite, seqtool_image: Pushed) -> None:
    site.switch(submit_fails_after=True, hold_runs=True)
    assert "504" in submit(site, run_spec(seqtool_image), [["true"]], tag="lost", code=1)
    [run] = [r for r in site.control()["runs"] if r["tag"] == "lost"]
    site.switch(submit_fails_after=False, jaws_error=500)
    assert "500" in submit(site, run_spec(seqtool_image), [["true"]], tag="lost", code=1)
    site.switch(jaws_error=None)
    site.jaws(f"run/{run['id']}/cancel", method="PUT")


def test_jaws_runs_and_a_kill(site: NerscSite, seqtool_image: Pushed) -> None:
    running = run_id(submit(site, run_spec(seqtool_image), [["sleep", "100"]]))
    until(lambda: site.containers(running), "its container is there")
    site.switch(hold_runs=True)
    held = run_id(submit(site, run_spec(seqtool_image), [["true"]]))
    site.kill()
    assert not site.containers(running)
    site.start()
    assert site.run_ended(running)["result"] is None
    assert site.run_ended(held)["result"] == "succeeded"


def run_spec(
    image: Pushed, refdata: tuple[str, str] | None = None, output_mount_point: str = "/out put"
) -> wdl.RunSpec:
    return wdl.RunSpec(
        image=image.by_digest,
        cpus=1,
        memory=256 * 2**20,
        runtime=60,
        start_time=60,
        input_mount_point="/in put",
        output_mount_point=output_mount_point,
        refdata=refdata,
    )


def staged(site: NerscSite, contents: Sequence[bytes]) -> list[str]:
    """Input files as a cache has them; returns their paths on the submitting machine."""
    paths = []
    for number, content in enumerate(contents):
        place = f"inputs/kbase/home/cts/cache/{number:02x}/{number:016x}-{len(content)}"
        path = site.staging_dir / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o444)
        paths.append(str(site.submit_staging_dir / place))
    return paths


def submit(
    site: NerscSite,
    spec: wdl.RunSpec,
    commands: Sequence[Sequence[str]],
    *,
    files: Sequence[Any] = (),
    jaws_site: str = "kbase",
    tag: str = "test",
    token: str | None = None,
    team: str | None = None,
    change: tuple[str, str] = ("", ""),
    code: int = 0,
) -> str:
    """`jaws submit`; returns what it prints or says. files: of each container, or of all. change: in the WDL."""
    directory = site.staging_dir / "inputs/kbase/jobs"
    directory.mkdir(parents=True, exist_ok=True)
    per_container = files if files and isinstance(files[0], list) else [list(files)] * len(commands)
    scripts = [wdl.ContainerScript(f, c, {}) for f, c in zip(per_container, commands, strict=True)]
    (directory / "workflow.wdl").write_text(wdl.workflow(spec).replace(*change) if change[0] else wdl.workflow(spec))
    (directory / "inputs.json").write_text(wdl.inputs(scripts))
    config = configparser.ConfigParser(interpolation=None)
    config["USER"] = {"token": token or site.jaws_token_file.read_text(), "default_team": team or site.jaws_team}
    with (directory / "jaws.conf").open("w") as file:
        config.write(file)
    argv = [str(site.jaws_command), "submit", "--tag", tag]
    argv += [str(directory / "workflow.wdl"), str(directory / "inputs.json"), jaws_site]
    environment = {"PATH": os.environ["PATH"], "JAWS_USER_CONFIG": str(directory / "jaws.conf")}
    ran = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert ran.returncode == code, ran.stderr
    return ran.stderr if code else ran.stdout


def run_id(told: str) -> int:
    return int(json.loads(told)["run_id"])


def _output(execution: Path, shard: int, name: str) -> str:
    return (execution / f"shard-{shard}/execution/__output__/{name}").read_text()


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + ENDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {ENDS:.0f} s: {what}"
        time.sleep(0.05)
