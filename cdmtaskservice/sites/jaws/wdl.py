"""The workflow that a job is at JAWS: WDL 1.0, the same for every job but for image, resources and mounts.

Nothing that a user wrote stands in the WDL: what a container is to do is a line of shell, in which every string is
quoted in plain ASCII, and reaches it as an input. So no name, argument or value is read by WDL, JSON or shell as
anything but itself. Facts on JAWS's runtime keys and directories: docs/sites/jaws.md.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WORKFLOW, TASK = "cts", "container"
INPUTS_DIR, OUTPUTS_DIR = "__input__", "__output__"
"""Directories of a container's working directory that are mounted at its mount points."""
MARK = "CTS: "
"""Begins a line on stderr by which the script says what is wrong with what the program did."""

_REFUSED = 125
"""The script's exit code where the program's outputs cannot be taken."""
_OVER_TIME = 124
"""The script's exit code where the program ran for too long."""
_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")

# In the command, ~{…} is replaced by JAWS; nothing else in it is. Directories are relative to the working directory,
# where JAWS has made those that are mounted; outside of JAWS they may be missing.
_WDL = """\
version 1.0

workflow {workflow} {{
    input {{
        Array[Array[File]] files
        Array[String] scripts
    }}
    scatter (n in range(length(scripts))) {{
        call {task} {{ input: files = files[n], script = scripts[n] }}
    }}
    output {{
        Array[Array[File]] outputs = {task}.outputs
        Array[File] stdouts = {task}.out
        Array[File] stderrs = {task}.err
    }}
}}

task {task} {{
    input {{
        Array[File] files
        String script
    }}
    command <<<
# The script's own variables must not be those of the image's environment.
cts_files=('~{{sep="' '" files}}')
say() {{ printf '\\n{mark}%s\\n' "$1" >&2; }}
for cts_tool in mkdir ln cp sleep find head env; do
    if ! command -v "$cts_tool" >/dev/null; then
        say "the image has no $cts_tool, which running it at this site takes"
        exit {refused}
    fi
done
mkdir -p {inputs} {outputs}
# A hard link takes no room; a copy is for where the two places are different file systems.
place() {{
    case $2 in */*) mkdir -p "{inputs}/${{2%/*}}" ;; esac
    # JAWS may start a container again in the same directory.
    if ! [ "$1" -ef "{inputs}/$2" ] && ! ln "$1" "{inputs}/$2" 2>/dev/null && ! cp "$1" "{inputs}/$2"; then
        say "the input file $2 could not be put into its place"
        exit {refused}
    fi
}}
run() {{
    # Each in a process group of its own: what the program has started ends with it, and it ignores no signal.
    set -m
    : >.cts_over_time
    ( exec -- "$@" ) </dev/null &
    cts_program=$!
    ( sleep {runtime}
      echo over >.cts_over_time
      kill -TERM -- "-$cts_program"
      sleep {grace}
      kill -KILL -- "-$cts_program" ) >/dev/null 2>&1 &
    cts_watch=$!
    {{ wait "$cts_program"; }} 2>/dev/null
    cts_code=$?
    {{ kill -KILL -- "-$cts_program"; kill -KILL -- "-$cts_watch"; wait "$cts_watch"; }} 2>/dev/null
    if [ -s .cts_over_time ]; then
        say "it ran longer than its limit of {runtime} seconds and was ended"
        exit {over_time}
    fi
    [ "$cts_code" -eq 0 ] || exit "$cts_code"
    cts_odd=$(find {outputs} ! -type f ! -type d | head -n 1)
    if [ -n "$cts_odd" ]; then
        say "only regular files can be outputs, and in the output directory ${{cts_odd#{outputs}/}} is none"
        exit {refused}
    fi
    cts_breaks=$'\\n\\r'
    if [ -n "$(LC_ALL=C find {outputs} -name "*[$cts_breaks]*" | head -n 1)" ]; then
        say "the name of an output has a line break in it"
        exit {refused}
    fi
    find {outputs} -type f >.cts_outputs || exit {refused}
}}
~{{script}}
    >>>
    output {{
        Array[File] outputs = read_lines(".cts_outputs")
        File out = stdout()
        File err = stderr()
    }}
    runtime {{
{runtime_keys}
    }}
}}
"""

_GRACE = 10
"""Seconds between SIGTERM and SIGKILL for a program that runs for too long."""


@dataclass(frozen=True)
class ContainerScript:
    """One container. files: its input files by their place below the input mount point, with the paths at which JAWS
    finds them. command: the program and its arguments."""

    files: Sequence[tuple[str, str]]
    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class RunSpec:
    """What all containers of a run share. memory: bytes. runtime, start_time: seconds.

    refdata: where reference data lies below JAWS's directory for it, and its mount point.
    """

    image: str
    cpus: int
    memory: int
    runtime: float
    start_time: float
    input_mount_point: str
    output_mount_point: str
    refdata: tuple[str, str] | None = None


def workflow(spec: RunSpec) -> str:
    """The WDL of a run."""
    keys: dict[str, str | int] = {
        "docker": image_for_jaws(spec.image),
        "runtime_minutes": math.ceil((spec.runtime + spec.start_time) / 60),
        "memory": f"{spec.memory} B",
        "cpu": spec.cpus,
        "dynamic_input": f"{INPUTS_DIR}:{spec.input_mount_point}",
        "dynamic_output": f"{OUTPUTS_DIR}:{spec.output_mount_point}",
    }
    if spec.refdata:
        keys["dynamic_refdata"] = f"{spec.refdata[0]}:{spec.refdata[1]}"
    return _WDL.format(
        workflow=WORKFLOW,
        task=TASK,
        inputs=INPUTS_DIR,
        outputs=OUTPUTS_DIR,
        mark=MARK,
        runtime=math.ceil(spec.runtime),
        grace=_GRACE,
        over_time=_OVER_TIME,
        refused=_REFUSED,
        runtime_keys="\n".join(f"        {key}: {_literal(value)}" for key, value in keys.items()),
    )


def inputs(containers: Sequence[ContainerScript]) -> str:
    """The workflow's inputs, as JSON."""
    return json.dumps(
        {
            f"{WORKFLOW}.files": [[path for _, path in c.files] for c in containers],
            f"{WORKFLOW}.scripts": [script(c) for c in containers],
        }
    )


def script(container: ContainerScript) -> str:
    """What a container does, in one line of printable ASCII for bash."""
    steps = [f'place "${{cts_files[{n}]}}" {quoted(place)}' for n, (place, _) in enumerate(container.files)]
    command = [quoted(word) for word in container.command]
    if container.environment:
        # Not exported, since the script itself is no place for a PATH of the job's.
        command = ["env", *(f"{name}={quoted(value)}" for name, value in container.environment.items()), *command]
    return "; ".join([*steps, " ".join(["run", *command])])


def quoted(text: str) -> str:
    """A word of bash that is this text, byte for byte, in printable ASCII."""
    if _SAFE.fullmatch(text):
        return text
    if text.isascii() and text.isprintable() and "'" not in text:
        return f"'{text}'"
    return "$'" + "".join(_escaped(byte) for byte in text.encode()) + "'"


def image_for_jaws(image: str) -> str:
    """The image's name as JAWS's container engines want it."""
    return image.removeprefix("docker.io/")


def _escaped(byte: int) -> str:
    character = chr(byte)
    if 0x20 <= byte < 0x7F and character not in "\\'":
        return character
    return f"\\x{byte:02x}"


def _literal(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    if not re.fullmatch(r"[ -!#-}]*", value) or "~{" in value or "${" in value or "\\" in value:
        raise ValueError(f"{value!r} cannot stand in a WDL")
    return f'"{value}"'
