"""docs/cli.md, and every line of `cts` on any page, held against the program."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cdmtaskservice.cli.job_file import JobFileError, read_job
from cdmtaskservice.cli.main import app
from cdmtaskservice.cli.submit import EXAMPLE, SETTABLE
from cdmtaskservice.cli.terminal import EXIT_CODES
from test.unit.test_docs import DOCS, REPO, blocks, table

PAGE = (REPO / "docs/cli.md").read_text(encoding="utf-8")
ROOT: Any = get_command(app)
COMMANDS = "".join(rf"|{name}" for name in ROOT.commands)[1:]


def leaves(command: Any = ROOT, path: str = "") -> Iterator[str]:
    """The full names of all commands."""
    for name, below in command.commands.items():
        full = f"{path} {name}".strip()
        if hasattr(below, "commands"):
            yield from leaves(below, full)
        else:
            yield full


def parse(words: list[str]) -> None:
    """Raises what `cts` would say of wrong usage."""
    command = ROOT
    while hasattr(command, "commands"):
        if not words and command is not ROOT and "list" not in command.commands:
            return
        if not words or (words[0] not in command.commands and words[0].startswith("-")):
            if command is ROOT:
                assert words[0] in {
                    o for p in command.get_params(ROOT.make_context("cts", [], resilient_parsing=True)) for o in p.opts
                }
                return
            words = ["list", *words]
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    command.make_context("cts", list(words))


def lines() -> Iterator[tuple[str, str, bool]]:
    """(page, line, whether it is an example) of every call of `cts` in the pages: others may leave something out."""
    for page in DOCS:
        text = page.read_text(encoding="utf-8")
        for block in blocks(text):
            if block.words[0] == "bash":
                for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
                    for call in re.findall(r"(?:^|\$\(|; |\) )(?:\.venv/bin/)?(cts [^|;)]*)", line):
                        yield page.name, call, True
        for call in re.findall(rf"`(cts (?:{COMMANDS})[^`]*)`", text):
            yield page.name, call, False


@pytest.mark.parametrize(("page", "line", "example"), sorted(set(lines())))
def test_every_call_can_be_made(page: str, line: str, example: bool) -> None:
    words = shlex.split(line.replace("…", ""), comments=True)
    while words and (words[-1] in {"<", ">"} or (len(words) > 1 and words[-2] in {"<", ">"})):
        words.pop()
    try:
        parse(words[1:])
    except Exception as exc:
        if example or type(exc).__name__ not in {"MissingParameter", "NoArgsIsHelpError"}:
            raise


def test_every_command_is_listed() -> None:
    told = [name for row in table(PAGE, "commands") for name in re.findall(r"([a-z0-9 -]+)", row[0]) if name.strip()]
    assert sorted(name.strip() for name in told) == sorted(leaves())


def test_every_command_of_administrators_is_described() -> None:
    told = {" ".join(row[0].split()[1:3]) for row in table(PAGE, "admin")}
    assert {name for name in leaves() if name.startswith("admin ")} < told


def test_exit_codes_are_those_of_the_program() -> None:
    assert [(int(code), words) for code, words in table(PAGE, "exit codes")] == [(c.value, w) for c, w in EXIT_CODES]


def test_the_example_is_what_is_printed() -> None:
    _, _, rest = PAGE.partition("<!-- checked: example -->\n```yaml\n")
    assert rest.partition("```")[0] == EXAMPLE


@pytest.mark.parametrize("row", table(PAGE, "values"), ids=lambda row: row[0])
def test_values_are_read_as_the_page_says(row: list[str]) -> None:
    read: Any = read_job(row[0].encode(), "job.yaml").job
    while isinstance(read, dict):
        [read] = read.values()
    assert read == json.loads(row[2])


def test_what_the_page_says_is_refused() -> None:
    read = read_job(b"runtime: 10:00", "job.yaml")
    with pytest.raises(JobFileError):
        read.refuse_guesses()


def test_the_fields_that_can_be_set_are_named() -> None:
    text = PAGE.partition("`--set` changes")[2].partition(".")[0]
    assert set(re.findall(r"`([a-z_]+)`", text)) == SETTABLE


def test_variables_are_those_of_the_program() -> None:
    code = "".join(
        p.read_text(encoding="utf-8")
        for room in ("cli", "client")
        for p in (REPO / "cdmtaskservice" / room).glob("*.py")
    )
    named = {name for row in table(PAGE, "environment") for name in re.findall(r"CTS_\w+", row[1])}
    assert named == set(re.findall(r"\bCTS_[A-Z_]*[A-Z]\b", code))


def test_every_command_prints_json() -> None:
    """But for those that the page excepts."""
    without = set()
    for name in leaves():
        command = ROOT
        for word in name.split():
            command = command.commands[word]
        if "--json" not in {option for p in command.params for option in p.opts}:
            without.add(name)
    assert without == {"logs", "serve", "refdata serve", "demo"}


def test_times_are_those_of_the_program() -> None:
    from cdmtaskservice.cli import completion, jobs, s3

    assert f"the last {jobs.FEW}" in PAGE
    assert (completion._PATIENCE, s3._ADDED_AT_ONCE) == (2.0, 3)
    assert "within two seconds" in PAGE
    assert "three at a time" in PAGE


@pytest.mark.parametrize(
    ("printed", "code", "called"),
    [
        ("an-id", 0, ["outputs an-id --download results"]),
        ("an-id", 3, ["watch an-id"]),
        ("", 3, []),
        ("an-id", 4, []),
    ],
)
def test_the_script_knows_the_job(printed: str, code: int, called: list[str], tmp_path: Path) -> None:
    """It is run with a `cts` that submits nothing, and notes what it is called with else."""
    [script] = [b.text for b in blocks(PAGE) if "case $?" in b.text]
    cts = 'cts() { if [ "$1" = submit ]; then printf "$PRINTED"; return "$CODE"; fi; echo "$*" >> called; }'
    (tmp_path / "called").touch()
    env = {"PATH": os.environ["PATH"], "PRINTED": printed, "CODE": str(code)}
    done = subprocess.run(
        ["bash", "-u", "-c", f"{cts}\n{script}"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "called").read_text().splitlines() == called
    assert ("submit it again later" in done.stdout) == (not printed)


def test_page_is_short_enough_to_be_read() -> None:
    assert len(Path(REPO / "docs/cli.md").read_text(encoding="utf-8").split()) < 3000
