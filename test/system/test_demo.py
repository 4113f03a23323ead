"""`cts demo` itself, as a process: both jobs go as they should at every site, what it tells to try
works, and nothing is left behind."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cdmtaskservice.embedded.pool import missing_pool_parts

WITHIN = 120.0
"""Seconds for the demo; alone on two cores it takes some 15."""


def demo(directory: Path, parts: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the demo, its parts among them."""
    return subprocess.Popen(
        [sys.executable, "-m", "cdmtaskservice.cli", "demo", "--dir", str(directory), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CTS_PARTS": str(parts), "COLUMNS": "200"},
    )


def left_over(directory: Path) -> list[str]:
    """Command lines of processes that have something to do with the demo in this directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(directory) in line and entry.name != str(os.getpid()):
            found.append(line)
    return found


def check_story(text: str) -> None:
    """What is told whatever the site: two jobs, their states, checksums, and an exit code."""
    assert text.count("POST /jobs →") == 2
    assert text.count("Kafka: complete") == 1
    assert text.count("✓ cts-data/ann/results/run1/") == 4
    assert "exit_codes: [7]" in text
    assert "seqtool: failing with exit code 7, as asked" in text


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose name is short enough for unix sockets below it."""
    with tempfile.TemporaryDirectory(prefix="cts-demo-") as directory:
        yield Path(directory)


@pytest.mark.parametrize("site", ["local", "htcondor", "jaws"])
def test_the_demo(site: str, parts: Path, short_dir: Path):
    if site == "htcondor" and (missing := missing_pool_parts(parts)):
        pytest.skip(f"missing: {'; '.join(missing)} (run `make setup`)")
    running = demo(short_dir, parts, *(["--site", site] if site != "local" else []))
    text, _ = running.communicate(timeout=WITHIN)
    assert running.returncode == 0, text
    assert text.endswith("demo: complete\n")
    check_story(text)
    assert ("HTCondor pool" in text) == (site == "htcondor")
    assert left_over(short_dir) == []


def test_what_a_demo_that_stays_tells_to_try(parts: Path, short_dir: Path):
    """Every command that it prints is run as it stands, in one shell, and the page is there."""
    running = demo(short_dir, parts, "--keep")
    assert running.stdout is not None
    told: list[str] = []
    try:
        for line in running.stdout:  # the last of what it prints
            told.append(line.rstrip())
            if "Authorization: Bearer" in line:
                break
        text = "\n".join(told)
        page = re.search(r"http://\S+/ui", text)
        assert page, text
        assert httpx.get(page[0], follow_redirects=True).status_code == 200
        assert "ann, a scientist" in text
        assert f"What is below {short_dir} stays then." in text
        begin = next(n for n, line in enumerate(told) if line.startswith("In another terminal"))
        commands = [line for line in told[begin + 1 :] if " # " in line] + [told[-1]]
        assert len(commands) > 10
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("CTS_", "AWS_"))}
        work = short_dir / "work"
        work.mkdir()
        (work / "README.md").write_text("mine")
        script = "\n".join(["set -euo pipefail", *commands])
        done = subprocess.run(
            ["bash", "-c", script], cwd=work, env=clean, capture_output=True, text=True, timeout=WITHIN
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert sorted(p.relative_to(work).as_posix() for p in work.rglob("*.tsv")) == [
            f"results/{n}/seqstats.tsv" for n in range(2)
        ]
        assert "seqtool: 1 files summarised" in done.stdout
    finally:
        running.send_signal(signal.SIGINT)
        rest, _ = running.communicate(timeout=WITHIN)
    assert "all that it had started has ended" in rest
    assert left_over(short_dir) == []
