"""`collect`: what a JAWS run has left, read and checksummed where it lies.

A run that succeeded has `outputs.json` in its output directory, with the paths of all outputs and logs; one that failed
has `errors.json`, which holds the exit codes and the logs themselves of the containers that failed. Only files below
that directory are taken, through no link.

Plan: `output_dir`, `paths` (pairs of prefixes: what files are called where JAWS runs, and here), `workflow`, `task`
(names in the WDL), `outputs_dir` (a step of the path: what follows it is the output's own), `containers` (how many),
`failed` (whether the run did), `roots` (directories that are never empty), `part_size`, `connections`, `mark` (begins a
line by which the run's own script says what it found wrong).
Result: `containers`, by number, each with `exit_code` (or null), `failure` (why it failed, for administrators, or
null), `error` (the same for the job's owner, where there is something to tell, or null), `outputs` and `logs`: each
`root`, `path` below it, `name` (an output's path below the output mount point, or a log's stream), `size`,
`crc64nvme` and, where it is to be uploaded in parts, `parts`, each `size`, `crc64nvme`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from ..failures import ABSENT, ContainerFailure
from ..outputs import MOST_OUTPUTS, look
from ..upload import Pending, Source, checksummed
from ..verdict import LOGS_SAY_WHY, exited
from .task import Task, require_mounted, write_aside

STREAMS = ("stdout", "stderr")

_MOST_WORDS = 4000
"""The most characters of what JAWS says of a failure that are passed on."""


def work(task: Task) -> Mapping[str, object]:
    """Collect what the run of the plan left."""
    task.stop.check()
    plan = task.plan
    try:
        containers = _failed(plan, task.directory) if plan["failed"] else _succeeded(plan)
    except ContainerFailure as failure:
        if failure.again == ABSENT:
            require_mounted(plan["roots"])
        raise
    sources = [s for c in containers for s in (*c.outputs, *c.logs)]
    read = checksummed(sources, plan["part_size"], plan["connections"], task.stop)
    pending = {id(p.source): p for p in read}
    return {"containers": [c.told(pending) for c in containers]}


class _Container:
    """What one container left."""

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.failure: str | None = None
        self.error: str | None = None
        self.outputs: list[Source] = []
        self.logs: list[Source] = []
        self.names: dict[int, str] = {}
        """What outputs are called, by the identity of their source."""

    def told(self, pending: Mapping[int, Pending]) -> Mapping[str, object]:
        return {
            "exit_code": self.exit_code,
            "failure": self.failure,
            "error": self.error,
            "outputs": [_told(self.names[id(s)], pending[id(s)]) for s in self.outputs],
            "logs": [_told(str(s.stream), pending[id(s)]) for s in self.logs],
        }


def _told(name: str, pending: Pending) -> Mapping[str, object]:
    source = pending.source
    return {"root": source.root, "path": source.output.path, "name": name, **pending.content}


def _succeeded(plan: Mapping[str, Any]) -> Sequence[_Container]:
    told = _read(plan, "outputs.json")
    files = {key: told.get(f"{plan['workflow']}.{key}") for key in ("outputs", "stdouts", "stderrs")}
    good = all(isinstance(v, list) and len(v) == plan["containers"] for v in files.values())
    if not good or not all(isinstance(o, list) for o in files["outputs"] or ()):
        raise ContainerFailure(
            "JAWS did not tell of the job's outputs as it should.",
            f"outputs.json does not have {plan['containers']} entries of {', '.join(files)} each: {str(told)[:1000]}",
        )
    containers = []
    for number, (outputs, stdout, stderr) in enumerate(zip(*files.values())):
        if len(outputs) > MOST_OUTPUTS:
            raise ContainerFailure(
                f"Container {number} has left {len(outputs)} output files, more than the {MOST_OUTPUTS} that one "
                "container may leave. Pack them into archives, or use more containers."
            )
        container = _Container()
        container.exit_code = 0
        for path in outputs:
            source = Source(plan["output_dir"], look(plan["output_dir"], _below(plan, path)))
            _, mark, name = f"/{source.output.path}".partition(f"/{plan['outputs_dir']}/")
            if not mark:
                raise ContainerFailure("JAWS told of a file that is no output.", f"{path} is not of the job's outputs")
            container.outputs.append(source)
            container.names[id(source)] = name
        for stream, path in zip(STREAMS, (stdout, stderr)):
            root = plan["output_dir"]
            container.logs.append(Source(root, look(root, _below(plan, path)), stream))
        containers.append(container)
    return containers


def _failed(plan: Mapping[str, Any], directory: str) -> Sequence[_Container]:
    # What is no Unicode can be neither written nor stored.
    told = json.loads(json.dumps(_read(plan, "errors.json"), ensure_ascii=False).encode("utf-8", "replace"))
    calls = told.get("calls")
    failed = calls.get(f"{plan['workflow']}.{plan['task']}", []) if isinstance(calls, dict) else []
    containers = [_Container() for _ in range(plan["containers"])]
    logs = tempfile.mkdtemp(prefix="logs-", dir=directory)  # another process may be doing the same
    for call in failed:
        number = call.get("shardIndex")
        if not isinstance(number, int) or not 0 <= number < len(containers):
            continue
        container = containers[number]
        code = call.get("returnCode")
        container.exit_code = code if isinstance(code, int) else None
        container.failure = _failure(call)
        container.logs = []  # of several tries the last one counts
        for stream in STREAMS:
            text = call.get(f"{stream}Contents")
            if isinstance(text, str):
                write_aside(os.path.join(logs, f"{number}.{stream}"), text)
                container.logs.append(Source(logs, look(logs, f"{number}.{stream}"), stream))
        container.error = _error(container, call.get("stderrContents"), plan["mark"])
    if not any(c.failure for c in containers):
        for container in containers:
            container.failure = f"JAWS failed the run as a whole: {json.dumps(told)[:_MOST_WORDS]}"
    return containers


def _failure(call: Mapping[str, Any]) -> str:
    """What JAWS says of it, with the causes below."""
    words = []
    todo = list(call.get("failures") or ())
    while todo:
        failure = todo.pop(0)
        if isinstance(failure, dict):
            words.append(str(failure.get("message") or ""))
            todo = [*(failure.get("causedBy") or ()), *todo]
    return " / ".join(w for w in words if w)[:_MOST_WORDS] or "JAWS does not say why"


def _error(container: _Container, stderr: object, mark: str) -> str | None:
    """The words of the run's own script, or how the program ended."""
    text = stderr if isinstance(stderr, str) else ""
    marked = next((line[len(mark) :] for line in reversed(text.split("\n")) if line.startswith(mark)), None)
    if marked or not container.exit_code:
        return marked or None
    return exited(container.exit_code, text, *([LOGS_SAY_WHY] if container.logs else []))


def _in(plan: Mapping[str, Any], name: str) -> str:
    return os.path.join(plan["output_dir"], name)


def _read(plan: Mapping[str, Any], name: str) -> dict[str, Any]:
    path = _in(plan, name)
    try:
        with open(path, encoding="utf-8") as file:
            told = json.load(file)
    except (FileNotFoundError, ValueError) as error:
        # It may be on its way.
        raise ContainerFailure("JAWS has left no results.", f"{path}: {error}", ABSENT) from error
    return told if isinstance(told, dict) else {}


def _below(plan: Mapping[str, Any], path: object) -> str:
    """The path of a file that JAWS told of, below the output directory."""
    if not isinstance(path, str):
        raise ContainerFailure("JAWS did not tell of the job's outputs as it should.", f"{path!r} is told as a file")
    found = path
    if found.startswith("/"):
        for there, here in plan["paths"]:
            if found.startswith(f"{there}/"):
                found = here + found[len(there) :]
                break
        root = os.path.normpath(plan["output_dir"])
        if not found.startswith(f"{root}/"):
            raise ContainerFailure(
                "JAWS told of a file outside of the job's results.", f"{path} is not below {plan['output_dir']}"
            )
        found = found[len(root) + 1 :]
    steps = [s for s in found.split("/") if s not in ("", ".")]
    if ".." in steps or not steps:
        raise ContainerFailure("JAWS told of a file outside of the job's results.", f"{path!r} is no plain path")
    return "/".join(steps)
