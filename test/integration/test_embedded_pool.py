"""The embedded HTCondor pool: jobs and containers run in it, its daemons go away and come back, and it ends."""

import functools
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdmtaskservice.embedded import processes
from cdmtaskservice.embedded.image import Pushed
from cdmtaskservice.embedded.pool import CondorPool, ToolFailed, missing_pool_parts
from cdmtaskservice.embedded.stack import EmbeddedStack, PartsMissing, RootBusy
from cdmtaskservice.executor.engines import Podman
from cdmtaskservice.executor.runtimes import ContainerSpec, Mount

# The bindings hold the interpreter's lock while they wait, and their configuration is the process's.
SUBMIT = """
import json, sys
import htcondor2
collector = htcondor2.Collector()
schedd = htcondor2.Schedd(collector.locate(htcondor2.DaemonType.Schedd, htcondor2.param["SCHEDD_HOST"]))
description, count = json.loads(sys.argv[1]), int(sys.argv[2])
print(schedd.submit(htcondor2.Submit(description), count=count).cluster())
"""


@pytest.fixture(scope="module")
def pool_parts(parts: Path) -> Path:
    if missing := missing_pool_parts(parts):
        pytest.skip(f"missing: {'; '.join(missing)} (run `make setup`)")
    return parts


@pytest.fixture(scope="module")
def pool(stack: EmbeddedStack, pool_parts: Path) -> Iterator[CondorPool]:
    home = Path(tempfile.mkdtemp(prefix="cts-test-pool-"))
    try:
        with CondorPool(home, pool_parts, stack.registry) as running:
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(autouse=True)
def _daemons_come_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that takes a daemon away and fails does not take it from the tests after it."""
    yield
    if "pool" in request.fixturenames:
        pool: CondorPool = request.getfixturevalue("pool")
        pool.start()
        pool.resume("schedd")
        pool.start_daemon("schedd")


def until(condition: Callable[[], bool], what: str, within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within:.0f} s: {what}"
        time.sleep(0.05)


def submit(pool: CondorPool, description: dict[str, str], count: int = 1, config: Path | None = None) -> str:
    """Submit as a client does; returns the cluster's number."""
    common = {
        "should_transfer_files": "yes",
        "transfer_executable": "false",
        "transfer_output_files": '""',  # else what a job leaves is brought to our directory, as the job user
        "log": os.devnull,
    }
    done = subprocess.run(
        [sys.executable, "-c", SUBMIT, json.dumps(common | description), str(count)],
        env={**os.environ, "CONDOR_CONFIG": str(config or pool.client_config)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def shell(pool: CondorPool, name: str, script: str) -> dict[str, str]:
    """A job that runs a script of /bin/sh with its number in the cluster as the only argument."""
    file = pool.worker_dir / f"{name}.sh"
    file.write_text(script)
    file.chmod(0o755)
    return {"executable": "/bin/sh", "arguments": f"{file} $(Process)"}


def exit_codes(pool: CondorPool, cluster: str, count: int = 1, within: float = 60.0) -> list[int]:
    def over() -> list[str]:
        return pool.tool("condor_history", cluster, "-af", "ExitCode").split()

    def is_over() -> bool:
        assert not (held := pool.tool("condor_q", cluster, "-hold", "-af", "HoldReason")), held
        return len(over()) == count

    until(is_over, f"{count} jobs of cluster {cluster} in the history", within)
    return [int(code) for code in over()]


def queued(pool: CondorPool, cluster: str) -> str:
    """JobStatus of the jobs that are in the queue."""
    return pool.tool("condor_q", cluster, "-af", "JobStatus").strip()


# --- jobs


def test_job_runs(pool: CondorPool) -> None:
    begun = time.monotonic()
    cluster = submit(pool, shell(pool, "seven", "exit 7\n"))
    assert exit_codes(pool, cluster) == [7]
    assert time.monotonic() - begun < 10  # some 2 s here
    assert pool.tool("condor_history", cluster, "-af", "User").strip() == f"{pool.job_user}@pool.test"


def test_input_from_a_url(pool: CondorPool, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("42\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/input.txt"
        job = shell(pool, "from_url", "exit $(cat input.txt)\n")
        assert exit_codes(pool, submit(pool, job | {"transfer_input_files": url})) == [42]
        server.shutdown()


def test_installed_token_is_the_job_users(pool: CondorPool) -> None:
    token = pool.install_token("secret 1")
    assert pool.install_token("secret 2") == token
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.owner() == pool.job_user
    job = shell(pool, "token", f"[ \"$(cat {token})\" = 'secret 2' ] && touch {pool.worker_dir}/written\n")
    assert exit_codes(pool, submit(pool, job)) == [0]


def test_stranger_may_not_submit(pool: CondorPool, tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    token = tmp_path / "tokens/stranger"
    token.touch(mode=0o600)
    token.write_text(pool.token("stranger@pool.test"))
    config = tmp_path / "condor_config"
    tokens = "".join(f"SEC_TOKEN_{kind}DIRECTORY = {tmp_path}/tokens\n" for kind in ("", "SYSTEM_"))
    config.write_text(pool.client_config.read_text() + tokens)
    with pytest.raises(AssertionError, match="HTCondorException"):
        submit(pool, shell(pool, "refused", "exit 0\n"), config=config)


def test_tool_that_fails_says_why(pool: CondorPool) -> None:
    with pytest.raises(ToolFailed, match=r"condor_q.*nonsense"):
        pool.tool("condor_q", "-nonsense")
    with pytest.raises(ToolFailed, match="no such tool"):
        pool.tool("condor_nonsense")


# --- containers


CONTAINER = """\
set -e
exec >{log}.$1 2>&1
mkdir in out
printf '>one\\nACGT\\n' >in/a.fa
{podman} image exists {image} || {podman} pull --quiet {image}
code=0
{run} || code=$?
{podman} container inspect test-$1
{podman} rm --force --time=0 --ignore test-$1
{podman} unshare chown -R -h 0:0 -- "$PWD/out"
cp out/seqstats.tsv {results}/$1.tsv
rm -r out
[ -s pid ]
exit $code
"""


def test_containers_in_jobs(pool: CondorPool, seqtool_image: Pushed) -> None:
    """Eight jobs at once, each with the command line of the executor."""
    results = pool.worker_dir / "results"
    results.mkdir()
    shutil.chown(results, pool.job_user)
    spec = ContainerSpec(
        name="test-$1",
        image=seqtool_image.by_digest,
        args=["stats", "/input_files/a.fa"],
        environment={"NAME": "value"},
        mounts=[Mount("$PWD/in", "/input_files", True), Mount("$PWD/out", "/output_files", False)],
        cpus=1,
        memory=64 * 1024 * 1024,
        pids=64,
        gpus=0,
        network=False,
        belt=60,
        cgroup_parent=None,
        pid_file="$PWD/pid",
    )
    launch = Podman(str(pool.podman), cgroup_parents=False).launch(spec)
    script = CONTAINER.format(
        podman=pool.podman, image=spec.image, run=" ".join(launch.argv), results=results, log=results / "log"
    )
    cluster = submit(pool, shell(pool, "container", script), 8)
    codes = exit_codes(pool, cluster, 8, within=40.0)
    assert codes == [0] * 8, (results / "log.0").read_text()
    for number in range(8):
        table = results / f"{number}.tsv"
        assert table.read_text().splitlines()[1] == "a.fa\t1\t4\t4\t4\t50.00"
        assert table.owner() == pool.job_user


def test_containers_end_with_their_job(pool: CondorPool, seqtool_image: Pushed) -> None:
    """What a job leaves is ended with it, as a control group would do it: conmon and the container too."""
    seconds = f"{100_000 + os.getpid()}"
    run = f"{pool.podman} run --pull=missing --quiet --network=none {seqtool_image.by_digest} sleep {seconds}"
    cluster = submit(pool, shell(pool, "killed", f"{run}\n"))
    until(lambda: len(processes.running(seconds)) >= 3, "podman, its container and the sleep in it")
    pool.tool("condor_rm", cluster)
    until(lambda: not processes.running(seconds), "the end of the container")


# --- daemons go away and come back


def test_suspended_schedd_is_there_but_silent(pool: CondorPool) -> None:
    pool.suspend("schedd")
    [pid] = pool.pids("schedd")
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    config = {"CONDOR_CONFIG": str(pool.client_config)}
    asking = [sys.executable, "-c", SUBMIT.split("description")[0] + "print(schedd.query(limit=1))"]
    client = subprocess.Popen(asking, env={**os.environ, **config}, stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(1.5)
    pool.resume("schedd")
    assert client.communicate(timeout=20)[0].startswith("[")


def test_killed_daemon_comes_back(pool: CondorPool) -> None:
    before = pool.pids("schedd")
    pool.kill("schedd")
    until(lambda: pool.pids("schedd") not in ([], before), "another schedd")
    pool.start_daemon("schedd")
    assert exit_codes(pool, submit(pool, shell(pool, "after_kill", "exit 1\n"))) == [1]


@pytest.mark.parametrize("daemon", ["schedd", "startd", "negotiator", "collector"])
def test_stopped_daemon_stays_away_until_started(pool: CondorPool, daemon: str) -> None:
    pool.stop_daemon(daemon)
    assert pool.pids(daemon) == []
    pool.start_daemon(daemon)
    assert len(pool.pids(daemon)) == 1


def test_restart_keeps_queue_history_and_port(pool: CondorPool) -> None:
    done = submit(pool, shell(pool, "done", "exit 5\n"))
    assert exit_codes(pool, done) == [5]
    held = submit(pool, shell(pool, "held", "exit 6\n") | {"hold": "true"})
    collector, token = pool.collector, pool.install_token("kept")
    pool.stop()
    pool.stop()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(collector.split(":")[1]))):
        pass
    pool.start()
    pool.start()
    assert pool.collector == collector
    assert token.read_text() == "kept"
    assert queued(pool, held) == "5"
    pool.tool("condor_release", held)
    assert exit_codes(pool, held) == [6]
    assert exit_codes(pool, done) == [5]


# --- one owner, and the end


def test_one_home_has_one_owner(pool: CondorPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdmtaskservice.embedded.pool._STOP_WITHIN", 0.1)
    with pytest.raises(RootBusy):
        CondorPool(pool.home, pool._parts, "127.0.0.1:1").start()


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(PartsMissing, match=r"HTCondor.*make setup"):
        CondorPool(tmp_path, tmp_path / "nowhere", "127.0.0.1:1").start()


OWNER = """
import sys, time
from pathlib import Path
from cdmtaskservice.embedded.pool import CondorPool
pool = CondorPool(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
pool.start()
print(pool.client_config, pool.worker_dir, pool.podman, *pool.pids("schedd"), flush=True)
time.sleep(300)
"""


def test_nothing_outlives_a_killed_owner(
    pool_parts: Path, stack: EmbeddedStack, seqtool_image: Pushed, tmp_path: Path
) -> None:
    """With parts that the job user could not reach by their path, and a home that is too long for sockets."""
    closed = tmp_path / "closed"
    for name in ("condor", "debian"):
        shutil.copytree(pool_parts / name, closed / "parts" / name, symlinks=True, copy_function=link_or_copy)
    closed.chmod(0o700)
    home = closed / ("long" * 30) / "home"
    arguments = [str(home), str(closed / "parts"), stack.registry]
    owner = subprocess.Popen([sys.executable, "-c", OWNER, *arguments], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    config, worker, podman, schedd = owner.stdout.readline().split()
    pool = CondorPool(*map(Path, arguments[:2]), stack.registry)  # not started: for its paths
    assert (str(pool.client_config), str(pool.worker_dir)) == (config, worker)
    script = f"""
    {podman} run --name=kept --quiet --detach --network=none {seqtool_image.by_digest} sleep 300 && touch {worker}/runs
    sleep 300
    """
    submit(pool, shell(pool, "sleeps", script))
    until(lambda: (Path(worker) / "runs").exists(), "a container in a job")
    inside = same_namespace(int(schedd))
    assert len(inside) > 10
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    until(lambda: not any(map(is_running, inside)), f"the end of {inside}")
    until(lambda: not Path(worker).exists(), "the removal of the pool's directory")
    with CondorPool(home, closed / "parts", stack.registry) as again:
        assert "kept" not in again.tool("condor_q", "-af", "Cmd")


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def same_namespace(pid: int) -> list[int]:
    """The processes in the namespace of process IDs in which this one is."""
    wanted = os.readlink(f"/proc/{pid}/ns/pid")
    found = []
    for entry in Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            if os.readlink(entry) == wanted:
                found.append(int(entry.parts[2]))
        except OSError:  # it has ended meanwhile
            continue
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_processes_are_told_by_an_argument() -> None:
    marks = [f"mark-{os.getpid()}-{number}" for number in range(2)]
    sleepers = [subprocess.Popen(["sh", "-c", "read never", mark], stdin=subprocess.PIPE) for mark in marks]
    try:
        deadline = time.monotonic() + 10
        # A process that has just become another program may have no arguments for a moment.
        while [processes.running(mark) for mark in marks] != [[sleeper.pid] for sleeper in sleepers]:
            assert time.monotonic() < deadline
        processes.suspend(marks[0], within=5.0)
        assert Path(f"/proc/{sleepers[0].pid}/stat").read_text().split()[2] == "T"
        processes.send([sleeper.pid for sleeper in sleepers], signal.SIGKILL)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.communicate()
    assert processes.running(marks[0]) == []
