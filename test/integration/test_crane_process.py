"""How crane is run: programs that stand in for it hang, flood, and tell what they were given."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cdmtaskservice.domain.errors import DependencyUnavailableError, ImageFetchError
from cdmtaskservice.registry.crane import Crane, ImageFacts
from cdmtaskservice.registry.names import ImageName

DIGEST = "sha256:" + "a" * 64
NAME = ImageName.parse("r.example/x/y:1")
PINNED = ImageName.parse(f"r.example/x/y@{DIGEST}")
CONFIG = '{"os": "linux", "architecture": "amd64", "config": {"Entrypoint": ["/bin/x"]}}'
GOOD = f"""
echo "$*" >> "$here/calls"
case $1 in
  digest) echo {DIGEST};;
  config) echo '{CONFIG}';;
esac
"""

Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Write a program that stands in for crane; `$here` is its directory."""

    def write(body: str) -> Path:
        file = tmp_path / "crane"
        file.write_text(f'#!/bin/sh\nhere=$(dirname "$0")\n{body}')
        file.chmod(0o755)
        return file

    return write


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.01)


def pids(directory: Path) -> list[int]:
    file = directory / "pids"
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


async def test_the_configuration_is_asked_of_the_digest(program: Program, tmp_path: Path) -> None:
    facts = await Crane(program(GOOD)).resolve(NAME)
    assert facts == ImageFacts("r.example/x/y", DIGEST, "1", ("/bin/x",))
    assert (tmp_path / "calls").read_text().splitlines() == [
        "digest -- r.example/x/y:1",
        f"config --platform=linux/amd64 -- r.example/x/y@{DIGEST}",
    ]


@pytest.mark.parametrize("name", ["--help", "-v", "--tarball=x", "$(id)", "; id"])
async def test_no_name_is_ever_an_option_or_a_command(program: Program, tmp_path: Path, name: str) -> None:
    # Such names do not come out of ImageName.parse; they would do no harm if they did.
    await Crane(program(GOOD)).resolve(ImageName(name, "1"))
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"digest -- {name}:1",
        f"config --platform=linux/amd64 -- {name}@{DIGEST}",
    ]


async def test_crane_sees_no_secrets(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBCTS_S3_SECRET", "hush")
    monkeypatch.setenv("DOCKER_CONFIG", "/some/where")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    await Crane(program('env > "$here/env"\n' + GOOD)).resolve(PINNED)
    seen = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert seen["DOCKER_CONFIG"] == "/some/where"
    assert seen["OTEL_TRACES_EXPORTER"] == "none"
    assert seen["HTTPS_PROXY"] == "http://proxy.example"
    assert seen["PATH"] == os.environ["PATH"]
    # The shell that stands in for crane adds PWD, SHLVL and _ by itself.
    allowed = {"DOCKER_CONFIG", "OTEL_TRACES_EXPORTER", "PATH", "HOME", "XDG_RUNTIME_DIR", "PWD", "SHLVL", "_"}
    proxies = {k for k in seen if k.upper().endswith("_PROXY")}
    assert set(seen) <= allowed | proxies | {"SSL_CERT_FILE", "SSL_CERT_DIR"}


# It ignores polite signals, and starts a helper as crane does for credentials.
HANGING = """
trap '' TERM INT HUP
sleep 300 &
echo $$ $! >> "$here/pids"
wait
"""


async def test_a_timeout_leaves_no_process_behind(program: Program, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ImageFetchError, match=r"did not answer within 0\.5 s"):
        await Crane(program(HANGING), timeout=0.5).resolve(PINNED)
    assert time.monotonic() - start < 5
    await until(lambda: not any(map(is_running, pids(tmp_path))))
    assert len(pids(tmp_path)) == 2
    with pytest.raises(ChildProcessError):
        os.waitpid(pids(tmp_path)[0], os.WNOHANG)


async def test_a_helper_that_outlives_crane_is_stopped_too(program: Program, tmp_path: Path) -> None:
    helper = 'sleep 300 &\necho $! >> "$here/pids"\nexit 0\n'
    with pytest.raises(ImageFetchError, match="did not answer"):
        await Crane(program(helper), timeout=0.5).resolve(PINNED)
    await until(lambda: not any(map(is_running, pids(tmp_path))))
    assert len(pids(tmp_path)) == 1


async def test_a_helper_that_left_the_group_keeps_nobody_waiting(program: Program, tmp_path: Path) -> None:
    helper = 'setsid sh -c "echo \\$\\$ >> $here/pids; exec sleep 300" &\nwhile ! test -s "$here/pids"; do :; done\n'
    start = time.monotonic()
    try:
        with pytest.raises(ImageFetchError, match="did not answer"):
            await Crane(program(helper), timeout=0.5).resolve(PINNED)
        assert time.monotonic() - start < 10
        assert is_running(pids(tmp_path)[0])
    finally:
        os.kill(pids(tmp_path)[0], signal.SIGKILL)
    await until(lambda: not is_running(pids(tmp_path)[0]))


async def test_a_cancellation_leaves_no_process_behind(program: Program, tmp_path: Path) -> None:
    looking = asyncio.create_task(Crane(program(HANGING), timeout=60).resolve(PINNED))
    await until(lambda: len(pids(tmp_path)) == 2)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    await until(lambda: not any(map(is_running, pids(tmp_path))))


async def test_only_so_many_run_at_once(program: Program, tmp_path: Path) -> None:
    (tmp_path / "running").mkdir()
    counting = 'mkdir "$here/running/$$"; ls "$here/running" | wc -l >> "$here/counts"; sleep 0.2\n'
    crane = Crane(program(counting + GOOD + 'rmdir "$here/running/$$"\n'), concurrency=2)
    await asyncio.gather(*(crane.resolve(PINNED) for _ in range(6)))
    assert max(map(int, (tmp_path / "counts").read_text().split())) == 2


async def test_waiting_for_a_turn_has_an_end_too(program: Program, tmp_path: Path) -> None:
    crane = Crane(program(HANGING), timeout=0.5, concurrency=1)
    ends = await asyncio.gather(*(crane.resolve(PINNED) for _ in range(3)), return_exceptions=True)
    kinds = sorted(type(e).__name__ for e in ends)
    assert "DependencyUnavailableError" in kinds
    assert set(kinds) == {"DependencyUnavailableError", "ImageFetchError"}


async def test_a_flood_of_output_fills_no_memory_and_is_an_error(program: Program) -> None:
    flood = "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2\n"
    with pytest.raises(ImageFetchError, match="is larger than 4194304 bytes"):
        await Crane(program(flood)).resolve(PINNED)
    with pytest.raises(ImageFetchError, match="There is no image"):
        await Crane(program(flood + 'echo >&2; echo "Error: GET x: MANIFEST_UNKNOWN: no" >&2; exit 1')).resolve(PINNED)


@pytest.mark.parametrize("printed", ["", "sha512:00", "sha256:ABC", "two words", "\\\\0377"])
async def test_what_is_no_digest_is_not_taken_for_one(program: Program, printed: str) -> None:
    with pytest.raises(ImageFetchError, match="only sha256 digests are taken"):
        await Crane(program(f"printf '{printed}'")).resolve(NAME)


@pytest.mark.parametrize(
    "printed", ["", "{}", "[]", "null", '{"os": 1, "architecture": "amd64"}', CONFIG.replace('["/bin/x"]', '"x"')]
)
async def test_what_is_no_configuration_is_not_taken_for_one(program: Program, printed: str) -> None:
    with pytest.raises(ImageFetchError, match="is not that of a container image"):
        await Crane(program(f"echo '{printed}'")).resolve(PINNED)


async def test_a_missing_crane_is_clear_at_the_start_and_later(tmp_path: Path, program: Program) -> None:
    file = program(GOOD)
    file.chmod(0o644)
    for executable, words in (
        (tmp_path / "nowhere", "nowhere' cannot be run: No such file or directory. Install crane"),
        ("crane-that-is-not-on-path", "cannot be run: No such file or directory"),
        (file, "cannot be run: Permission denied"),
    ):
        crane = Crane(executable)
        with pytest.raises(DependencyUnavailableError, match=words):
            await crane.check()
        with pytest.raises(DependencyUnavailableError, match=words):
            await crane.resolve(NAME)


async def test_a_program_that_is_not_crane_is_found_out(program: Program) -> None:
    with pytest.raises(DependencyUnavailableError, match="exited with 3: what version"):
        await Crane(program("echo what version >&2; exit 3")).check()
    with pytest.raises(DependencyUnavailableError, match="did not end in time"):
        await Crane(program("exec sleep 300"), timeout=0.2).check()
    await Crane(program(GOOD)).check()
