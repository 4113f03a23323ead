"""What the pages tell people to type: commands are run or at least read by their shell, code is run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cdmtaskservice.s3.checksum import crc64nvme

REPO = Path(__file__).parents[2]
DOCS = sorted([REPO / "README.md", *(REPO / "docs").rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in that language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [p for p in DOCS if blocks(p, "bash")], ids=lambda p: str(p.relative_to(REPO)))
def test_commands_can_be_read(page: Path):
    for block in blocks(page, "bash"):
        read = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, timeout=10)
        assert (read.returncode, read.stderr) == (0, ""), block


def test_the_checksum_of_a_local_file(tmp_path: Path):
    [code] = [b for b in blocks(REPO / "docs/user-guide.md", "python") if "awscrt" in b]
    data = b">a\nACGT\n" * 400_000
    (tmp_path / "reads.fasta").write_bytes(data)
    run = [sys.executable, "-c", code, str(tmp_path / "reads.fasta")]
    assert subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout.strip() == crc64nvme(data)


def test_the_commands_for_local_accounts(tmp_path: Path):
    [block] = [b for b in blocks(REPO / "docs/admin-guide.md", "bash") if "cts token" in b]
    said = []
    for line in block.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "cts"
        run = [sys.executable, "-m", "cdmtaskservice.cli", *arguments]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    token, listed, revoked = said
    assert token.startswith("ctsl.")
    assert "ann-laptop" in listed
    assert revoked == ""


def test_the_targets_that_pages_name_exist():
    targets = set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {t for p in DOCS for t in re.findall(r"(?:^|`)make ([a-z]+)", p.read_text(encoding="utf-8"), re.MULTILINE)}
    assert named
    assert named <= targets
