"""The embedded stack itself: its parts serve, go away and come back, and containers are held to their limits."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiobotocore.session import get_session
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from motor.motor_asyncio import AsyncIOMotorClient

from cdmtaskservice.embedded.engine import storage_driver
from cdmtaskservice.embedded.image import (
    ImageSpec,
    Pushed,
    RegistryRefused,
    build_image,
    push,
    push_index,
    shell_image,
)
from cdmtaskservice.embedded.part import Launcher, Part, PartFailed
from cdmtaskservice.embedded.stack import EmbeddedStack, PartsMissing, RootBusy, create_topic

CONFINED = ("--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges")


@dataclass(frozen=True)
class Ran:
    code: int
    stdout: str
    stderr: str
    outputs: Path
    seconds: float


Seqtool = Callable[..., Ran]


@pytest.fixture
def seqtool(stack: EmbeddedStack, seqtool_image: Pushed, tmp_path: Path) -> Seqtool:
    """Run the seqtool image, confined, with /input_files and /output_files; `options` go to podman."""
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    (inputs / "sub").mkdir(parents=True)
    outputs.mkdir()
    (inputs / "a.fa").write_text(">one\nACGT\nAC\n>two\nGG\n")
    (inputs / "sub" / "b.fa").write_text(">only\nAAAA\n")

    def run(*arguments: str, options: Sequence[str] = (), image: str = seqtool_image.by_digest) -> Ran:
        mounts = (
            *("--mount", f"type=bind,src={inputs},dst=/input_files,ro=true"),
            *("--mount", f"type=bind,src={outputs},dst=/output_files"),
        )
        begun = time.monotonic()
        done = subprocess.run(
            [stack.podman, "run", "--rm", "--quiet", *CONFINED, *mounts, *options, image, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Ran(done.returncode, done.stdout, done.stderr, outputs, time.monotonic() - begun)

    return run


# --- the parts serve, and come back with what they held


async def put_and_get(stack: EmbeddedStack, key: str) -> bytes:
    account = stack.s3
    async with get_session().create_client(
        "s3",
        endpoint_url=account.url,
        aws_access_key_id=account.access_key,
        aws_secret_access_key=account.secret_key,
        region_name="us-east-1",
    ) as client:
        existing = [bucket["Name"] for bucket in (await client.list_buckets())["Buckets"]]
        if "embedded" not in existing:
            await client.create_bucket(Bucket="embedded")
        if "Contents" not in await client.list_objects_v2(Bucket="embedded", Prefix=key):
            await client.put_object(Bucket="embedded", Key=key, Body=key.encode())
        answer = await client.get_object(Bucket="embedded", Key=key)
        return bytes(await answer["Body"].read())


async def test_s3_store_survives_a_kill(stack: EmbeddedStack) -> None:
    before = stack.s3
    assert await put_and_get(stack, "kept") == b"kept"
    stack.s3_store.kill()
    assert stack.s3_store.pid is None
    stack.s3_store.start()
    assert stack.s3 == before
    assert await put_and_get(stack, "kept") == b"kept"


@pytest.mark.parametrize("end", [Part.stop, Part.kill])
async def test_database_survives(stack: EmbeddedStack, end: Callable[[Part], None]) -> None:
    uri = stack.mongo_uri
    client: AsyncIOMotorClient = AsyncIOMotorClient(uri, serverSelectionTimeoutMS=5_000)  # type: ignore[type-arg]
    try:
        things = client[f"embedded_{end.__name__}"].things
        await things.insert_one({"_id": 1, "value": "kept"})
        end(stack.database)
        stack.database.start()
        assert stack.mongo_uri == uri
        assert await things.find_one({"_id": 1}) == {"_id": 1, "value": "kept"}
    finally:
        client.close()


async def test_broker_survives_a_stop(stack: EmbeddedStack) -> None:
    await create_topic(stack.kafka_bootstrap, "embedded")
    await create_topic(stack.kafka_bootstrap, "embedded")  # again: no effect
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka_bootstrap) as producer:
        await producer.send_and_wait("embedded", b"kept")
    stack.broker.stop()
    stack.broker.start()
    consumer = AIOKafkaConsumer("embedded", bootstrap_servers=stack.kafka_bootstrap, auto_offset_reset="earliest")
    async with consumer:
        assert (await consumer.getone()).value == b"kept"


def test_suspended_part_is_there_but_silent(stack: EmbeddedStack) -> None:
    stack.s3_store.suspend()
    with socket.create_connection(("127.0.0.1", stack.s3_store.port), timeout=0.3) as caller:
        caller.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        with pytest.raises(TimeoutError):
            caller.recv(1)
        stack.s3_store.resume()
        caller.settimeout(10)
        assert caller.recv(9).startswith(b"HTTP/1.")


def test_restore_brings_back_what_is_away(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Part, "ready_within", 5.0)
    stack.broker.stop()
    stack.database.suspend()
    before = stack.s3_store.pid
    stack.restore()
    assert stack.broker.pid is not None
    assert stack.s3_store.pid == before


def test_part_that_cannot_start_says_why(tmp_path: Path) -> None:
    class Broken(Part):
        name = "broken"

        def command(self, ports: object) -> list[str]:
            return ["sh", "-c", "echo the reason; exit 1"]

    launcher = Launcher()
    part = Broken(tmp_path / "broken", tmp_path / "broken.log", launcher)
    with pytest.raises(PartFailed, match="the reason"):
        part.start()
    assert part.pid is None
    launcher.close()


def test_part_gives_way_to_whoever_has_its_port(tmp_path: Path) -> None:
    with socket.socket() as other, socket.socket() as free:
        other.bind(("127.0.0.1", 0))
        other.listen()
        free.bind(("127.0.0.1", 0))
        offers = iter([other.getsockname()[1], free.getsockname()[1]])
        free.close()

        class Server(Part):
            name = "server"

            def new_ports(self) -> dict[str, int]:
                return {"main": next(offers)}

            def command(self, ports: object) -> list[str]:
                return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(self.port)]

        launcher = Launcher()
        part = Server(tmp_path / "server", tmp_path / "server.log", launcher)
        part.start()
        assert part.port != other.getsockname()[1]
        part.stop()
        launcher.close()


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(PartsMissing, match=r"container tools.*make setup"):
        EmbeddedStack(tmp_path, parts=tmp_path / "nowhere").start()


# --- two of them, and the end


def test_one_root_has_one_owner(stack: EmbeddedStack) -> None:
    intruder = EmbeddedStack(stack.root, stack.parts)
    with pytest.raises(RootBusy):
        intruder.start()
    intruder.close()


def test_two_stacks_at_once(stack: EmbeddedStack, seqtool_image: Pushed, tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path / "second", stack.parts) as second:
        assert second.registry != stack.registry
        with pytest.raises(RegistryRefused):
            push(second.registry, "NOT-ALLOWED", "1", build_image(ImageSpec()))
        other = push(second.registry, "tools/seqtool", "1.0", build_image(shell_image(stack.parts, b"#!/bin/sh\n")))
        both = [
            subprocess.Popen([where.podman, "run", "--rm", "-q", "--network=none", image.by_digest, "help"], stdout=-3)
            for where, image in ((stack, seqtool_image), (second, other))
        ]
        assert [process.wait(30) for process in both] == [0, 0]
    assert not second.image_registry.pid
    assert mounts_below(tmp_path) == []


def test_nothing_outlives_a_killed_owner(stack: EmbeddedStack, seqtool_image: Pushed, tmp_path: Path) -> None:
    root = tmp_path / "owned"
    script = f"""
import subprocess, sys, time
from pathlib import Path
from cdmtaskservice.embedded.image import push_seqtool
from cdmtaskservice.embedded.stack import EmbeddedStack
stack = EmbeddedStack(Path({str(root)!r}), Path({str(stack.parts)!r}))
stack.start()
image = push_seqtool(stack.registry, stack.parts)
subprocess.run([stack.podman, "run", "-d", "-q", "--network=none", image.by_digest, "sleep", "300"], check=True)
pids = [part.pid for part in (stack.s3_store, stack.database, stack.broker, stack.image_registry)]
print(*pids, subprocess.run([stack.podman, "inspect", "-l", "--format", "{{{{.State.Pid}}}}"],
    capture_output=True, text=True, check=True).stdout, flush=True)
time.sleep(300)
"""
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    container = owner.stdout.readline()
    pids = [int(word) for word in owner.stdout.readline().split()]
    assert len(pids) == 5, container
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 20
    while any(map(is_running, pids)) or mounts_below(tmp_path):
        assert time.monotonic() < deadline, "still there: " + str([pid for pid in pids if is_running(pid)])
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """A zombie, whose parent has not looked yet, runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def mounts_below(directory: Path) -> list[str]:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [mount for mount in mounts if mount.startswith(f"{directory}/")]


def test_storage_driver_of_an_ordinary_directory(tmp_path: Path) -> None:
    assert storage_driver(tmp_path) in ("overlay", "vfs")


# --- images


def test_same_input_same_digest(parts: Path) -> None:
    spec = shell_image(parts, b"#!/bin/sh\n")
    one, other = (build_image(replace(spec, env=env)) for env in ({"B": "2", "A": "1"}, {"A": "1", "B": "2"}))
    assert one == other
    assert build_image(replace(spec, user="nobody")).digest != one.digest


def crane(stack: EmbeddedStack, *arguments: str) -> str:
    done = subprocess.run([stack.crane, *arguments], capture_output=True, text=True, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else f"failed: {done.stderr}"


def test_crane_sees_what_was_pushed(stack: EmbeddedStack) -> None:
    changes = {"env": {"A": "1"}, "user": "1000", "workdir": "/tmp", "command": ["/bin/true"]}
    spec = replace(shell_image(stack.parts), **changes)
    pushed = push(stack.registry, "tools/plain", "v1", build_image(spec))
    assert crane(stack, "digest", pushed.by_tag) == pushed.digest
    config = json.loads(crane(stack, "config", pushed.by_digest))["config"]
    assert config == {"Env": ["A=1"], "User": "1000", "WorkingDir": "/tmp", "Cmd": ["/bin/true"]}
    assert "MANIFEST_UNKNOWN" in crane(stack, "digest", f"{pushed.name}:v2")


def test_index_and_foreign_architecture(stack: EmbeddedStack) -> None:
    images = [build_image(ImageSpec(entrypoint=["/x"], architecture=name)) for name in ("s390x", "amd64")]
    both = push_index(stack.registry, "tools/both", "v1", images)
    assert crane(stack, "digest", both.by_tag) == both.digest
    assert json.loads(crane(stack, "config", both.by_tag))["architecture"] == "amd64"
    foreign = push_index(stack.registry, "tools/foreign", "v1", images[:1])
    assert "no child with platform" in crane(stack, "config", foreign.by_tag)


# --- containers


def test_seqtool_within_limits(seqtool: Seqtool) -> None:
    limits = ("--memory=64m", "--cpus=1", "--pids-limit=32", "--cgroup-parent=/cts-embedded-test")
    ran = seqtool("stats", "/input_files/a.fa", "-i", "/input_files/sub/b.fa", options=limits)
    assert (ran.code, ran.stderr) == (0, "")
    assert (ran.outputs / "seqstats.tsv").read_text().splitlines() == [
        "file\tsequences\tbases\tshortest\tlongest\tgc_percent",
        "a.fa\t2\t8\t2\t6\t62.50",
        "b.fa\t1\t4\t4\t4\t0.00",
    ]
    assert ran.seconds < 10  # some 0.2 s here


def test_container_is_confined(seqtool: Seqtool) -> None:
    ran = seqtool("probe")
    status = (ran.outputs / "status").read_text().split()
    for name, value in (("CapEff:", "0" * 16), ("CapBnd:", "0" * 16), ("NoNewPrivs:", "1"), ("Seccomp:", "2")):
        assert status[status.index(name) + 1] == value


def test_memory_limit_kills(seqtool: Seqtool) -> None:
    limits = ("--memory=64m", "--memory-swap=64m")
    assert seqtool("hog", "20", options=limits).code == 0
    assert seqtool("hog", "500", options=limits).code == 137


def test_process_limit_holds(seqtool: Seqtool) -> None:
    assert seqtool("procs", "20", options=("--pids-limit=32",)).code == 0
    assert seqtool("procs", "60", options=("--pids-limit=32",)).code != 0


def test_cpu_limit_holds(seqtool: Seqtool) -> None:
    ran = seqtool("spin", "2", options=("--cpus=0.3",))
    assert float(ran.stderr.split()[1]) < 1.2


def test_arguments_and_environment_arrive_byte_for_byte(seqtool: Seqtool) -> None:
    arguments = ["", "a b", "--x=", "*", "$HOME", "new\nline", "ünï"]
    ran = seqtool("args", *arguments)
    assert (ran.outputs / "args.bin").read_bytes() == b"".join(word.encode() + b"\0" for word in arguments)
    seqtool("env", options=("--env=ODD=a b\nc=ü",))
    assert b"ODD=a b\nc=\xc3\xbc" in (ran.outputs / "environ.bin").read_bytes().split(b"\0")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["fail", "7"], 7, "exit code 7"),
        (["stats"], 2, "no input files"),
        (["stats", "/input_files/none.fa"], 3, "cannot read"),
        (["stats", "/bin/busybox"], 4, "is not FASTA"),
        (["stats", "--wrong", "x"], 2, "unknown option"),
        (["nonsense"], 2, "unknown command"),
    ],
)
def test_seqtool_failures(seqtool: Seqtool, arguments: list[str], code: int, told: str) -> None:
    ran = seqtool(*arguments)
    assert ran.code == code
    assert told in ran.stderr


def test_seqtool_outputs(seqtool: Seqtool) -> None:
    ran = seqtool("copy", "--in=/input_files/a.fa,/input_files/sub/b.fa")
    assert ran.code == 0, ran.stderr
    assert (ran.outputs / "sub/b.fa").read_text() == ">only\nAAAA\n"
    assert seqtool("write", "deep/file.txt", "10000").code == 0
    assert (ran.outputs / "deep/file.txt").stat().st_size == 10_000
    for hostile in ("symlink", "fifo", "hardlink", "names"):
        assert seqtool(hostile).code == 0
    assert os.readlink(ran.outputs / "link") == "/etc/passwd"
    assert (ran.outputs / "pipe").is_fifo()
    assert (ran.outputs / "first").stat().st_nlink == 2
    assert b"not-utf8-\xff" in os.listdir(os.fsencode(ran.outputs))


def test_image_without_entrypoint_runs_a_command(stack: EmbeddedStack, seqtool: Seqtool) -> None:
    plain = push(stack.registry, "tools/shell", "v1", build_image(shell_image(stack.parts)))
    assert seqtool("echo", "hello", image=plain.by_tag).stdout == "hello\n"
    assert seqtool(image=plain.by_tag).code == 125
    assert seqtool("absent", image=plain.by_tag).code == 127


def test_seqtool_digest_is_that_of_its_script(stack: EmbeddedStack, seqtool_image: Pushed) -> None:
    layer = json.loads(crane(stack, "manifest", seqtool_image.by_digest))["layers"][0]["digest"]
    blob = subprocess.run([stack.crane, "blob", f"{seqtool_image.name}@{layer}"], capture_output=True, check=True)
    assert "sha256:" + hashlib.sha256(blob.stdout).hexdigest() == layer


@pytest.fixture(scope="module", autouse=True)
def _no_group_left_behind() -> Iterator[None]:
    """A parent control group stays when its containers are gone: whoever named it removes it."""
    yield
    for group in Path("/sys/fs/cgroup").glob("**/cts-embedded-test"):
        for inner in (*group.glob("*/"), group):
            inner.rmdir()
