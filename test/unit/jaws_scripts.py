"""Runs the script of a container as JAWS does, in a real bash."""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import WDL
from hypothesis import strategies as st

from cdmtaskservice.sites.jaws import wdl

SHA = "sha256:" + "ab" * 32
SPEC = wdl.RunSpec(f"docker.io/tools/x@{SHA}", 2, 10**9, 60.0, 60.0, "/input_files", "/output_files")
IN, OUT = wdl.INPUTS_DIR, wdl.OUTPUTS_DIR

# Keys of S3 have neither ' nor ; nor control characters. What means something to a shell, a WDL or JSON comes often.
_NASTY = [
    *'"$`\\-*?[]#!&|<>(){}~= \xa0\u2028\ufeffé',
    "  ",
    *("~{", "${", "$(id)", ">>>", "%s", "\\n", "\\x41", "🧬", "日本"),
]
_LEGAL = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="';/")
SEGMENTS = (
    st.lists(st.one_of(st.sampled_from(_NASTY), _LEGAL), min_size=1, max_size=12)
    .map("".join)
    .filter(lambda s: s not in (".", "..", ".cts") and len(s.encode()) <= 255)
)
NAMES = st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join)
TEXTS = st.lists(
    st.sampled_from([*_NASTY, *"';\n\r\t\x7f"]) | st.characters(codec="utf-8", exclude_characters="\0"), max_size=12
).map("".join)

SHOW = """\
#!/bin/sh
cat /proc/$$/cmdline >{directory}/arguments
cat /proc/$$/environ >{directory}/environment
"""
"""A program that leaves what it was called with."""


@cache
def loaded(text: str) -> WDL.Tree.Document:
    """A WDL as miniwdl reads it. Raises where it has an error."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "cts.wdl"
        file.write_text(text, encoding="utf-8")
        return WDL.load(str(file))


def command(text: str, files: Sequence[str], script: str) -> str:
    """The command of a WDL with its placeholders replaced as JAWS does."""
    words = []
    for part in loaded(text).tasks[0].command.parts:
        if isinstance(part, str):
            words.append(part)
        elif "sep" in part.options:
            assert str(part.expr) == "files"
            words.append(part.options["sep"].join(files))
        else:
            assert str(part.expr) == "script"
            words.append(script)
    return "".join(words)


def bash(
    directory: Path, text: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command as JAWS does: as a file, in a directory of its own."""
    (directory / "script").write_text(text, encoding="utf-8")
    return subprocess.run(
        ["bash", "script"],
        cwd=directory,
        input=b"what is on JAWS's own stdin\n",
        capture_output=True,
        env=None if environment is None else {"PATH": os.environ["PATH"], **environment},
        timeout=60,
    )


def strings(file: Path) -> list[bytes]:
    return file.read_bytes().split(b"\0")[:-1]


def shower(directory: Path) -> str:
    program = directory / "show"
    program.write_text(SHOW.format(directory=directory))
    program.chmod(0o755)
    return str(program)


def below(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
