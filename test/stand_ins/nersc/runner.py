"""`python -m test.stand_ins.nersc.runner DIRECTORY`: one run, in a process of its own, which miniwdl wants.

The directory has `workflow.wdl`, `inputs.json` and `order.json` of `runs.py`. What comes of it goes to the order's
output directory as JAWS leaves it, and then to `ended.json`.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import WDL
import WDL.runtime.task
import WDL.runtime.task_container
import WDL.runtime.workflow
from WDL.runtime.error import CommandFailed, RunFailed
from WDL.runtime.workflow import run_local_workflow

from .checks import load
from .container import JawsContainer, Surroundings

_AT_ONCE = 2
"""Containers of a run."""
_LOG = logging.getLogger("wdl")


class _Failures:
    """Failed calls, by their IDs. miniwdl goes on as if they had come to nothing, so that all others run too."""

    def __init__(self) -> None:
        self.calls: dict[str, BaseException] = {}

    def outputs_of(self, future: Future[Any], call_id: str, call: WDL.Tree.Call, _: logging.Logger) -> Any:
        """Stands for miniwdl's function of the same arguments."""
        try:
            return future.result()[1]
        except Exception as e:
            self.calls[call_id] = e
            return WDL.runtime.workflow._null_call_outputs(call)


def main(directory: Path) -> None:
    """Run it."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    order = json.loads((directory / "order.json").read_text())
    output_dir = Path(order["output_dir"])
    output_dir.mkdir(parents=True, exist_ok=True)
    JawsContainer.surroundings = Surroundings(
        order["podman"], order["labels"], order["name"], order["refdata_dir"], order["never_start"]
    )
    failures = _Failures()
    _change_miniwdl(failures)
    workflow = load(directory / "workflow.wdl").workflow
    assert workflow is not None
    error: BaseException | None = None
    try:
        outputs = _run(directory, workflow)
    except WDL.Error.RuntimeError as e:
        error = e
    if failures.calls:
        _write(output_dir / "errors.json", {"calls": _told_calls(workflow.name, failures.calls)})
    elif error is not None:
        words = _innermost(error)
        _write(output_dir / "errors.json", {"calls": {}, "failures": [{"message": str(words), "causedBy": []}]})
    else:
        copied = WDL.Value.rewrite_env_paths(
            outputs, lambda v: _copy(directory, output_dir, v.value, order["relative"])
        )
        _write(output_dir / "outputs.json", WDL.values_to_json(copied, workflow.name))
    result = "failed" if failures.calls or error is not None else "succeeded"
    shutil.rmtree(directory / "wdl", ignore_errors=True)
    _write(directory / "ended.json", {"result": result, "cpu_hours": JawsContainer.core_seconds / 3600})


def _change_miniwdl(failures: _Failures) -> None:
    WDL.runtime.task_container._backends["jaws"] = JawsContainer
    setattr(WDL.runtime.workflow, "_resolve_call_future_outputs", failures.outputs_of)  # noqa: B010
    # It would make the files writable that inputs are hard links to.
    setattr(WDL.runtime.task, "chmod_R_plus", lambda *_, **__: None)  # noqa: B010


def _run(directory: Path, workflow: WDL.Tree.Workflow) -> WDL.Env.Bindings[WDL.Value.Base]:
    told = json.loads((directory / "inputs.json").read_text(encoding="utf-8"))
    inputs = WDL.values_from_json(told, workflow.available_inputs, workflow.required_inputs, namespace=workflow.name)
    options: Any = {
        "scheduler": {
            "container_backend": "jaws",
            "fail_fast": False,
            "task_concurrency": _AT_ONCE,
            "scatter_tag_max": 0,
        },
        "file_io": {"copy_input_files": True, "chown": False},
        "task_runtime": {"memory_limit_multiplier": 1.0},
        "podman": {"exe": [JawsContainer.surroundings.podman]},
    }
    config = WDL.runtime.config.Loader(_LOG, filenames=[], overrides=options)
    _, outputs = run_local_workflow(config, workflow, inputs, run_dir=f"{directory}/wdl/.")
    return outputs


def _copy(directory: Path, output_dir: Path, path: str, relative: bool) -> str:
    """Copy an output to where Cromwell would have it; returns its path."""
    steps = Path(path).resolve().relative_to((directory / "wdl").resolve()).parts
    call, shard = _call(steps[0])
    inner = Path(*steps[2:]) if steps[1] == "work" else Path(steps[1].removesuffix(".txt"))
    place = Path(f"call-{call}", *([f"shard-{shard}"] if shard >= 0 else []), "execution", inner)
    target = output_dir / place
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return f"./{place}" if relative else str(target)


def _told_calls(workflow: str, calls: Mapping[str, BaseException]) -> dict[str, list[dict[str, Any]]]:
    told: dict[str, list[dict[str, Any]]] = {}
    for call_id, error in sorted(calls.items(), key=lambda item: _call(item[0])):
        call, shard = _call(call_id)
        told.setdefault(f"{workflow}.{call}", []).append(_told_failure(f"{workflow}.{call}", shard, error))
    return told


def _told_failure(name: str, shard: int, error: BaseException) -> dict[str, Any]:
    cause = _innermost(error)
    told: dict[str, Any] = {"shardIndex": shard, "attempt": 1, "executionStatus": "Failed"}
    message = str(cause)
    directory = error.run_dir if isinstance(error, RunFailed) else ""
    if directory in JawsContainer.started:
        code = JawsContainer.started[directory]
        if code is not None:
            told["returnCode"] = code
        if isinstance(cause, CommandFailed):
            message = (
                f"Job {name}:{shard if shard >= 0 else 'NA'}:1 exited with return code {code} which has not been "
                "declared as a valid return code. See 'continueOnReturnCode' runtime attribute for more details."
            )
        for stream in ("stdout", "stderr"):
            text = Path(directory, f"{stream}.txt").read_text(encoding="utf-8", errors="replace")
            told[f"{stream}Contents"] = text
    return {**told, "failures": [{"message": message, "causedBy": []}]}


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, RunFailed) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _call(call_id: str) -> tuple[str, int]:
    """The name and the shard of a call, "call-NAME-SHARD"; -1 outside of a scatter."""
    found = re.fullmatch(r"call-(\w+?)(?:-(\d+))?", call_id)
    assert found, call_id
    return found[1], int(found[2]) if found[2] else -1


def _write(path: Path, value: Any) -> None:
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(value, indent=4))
    aside.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
