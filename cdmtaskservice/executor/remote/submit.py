"""`submit`: a run's files, and the one `jaws submit` of its attempt.

Plan: `directory` (for the files), `files` (each `name`, `content`), `command` (the arguments that submit the run),
`environment`, `timeout` (seconds), `not_after` (seconds since the epoch: nobody waits for what begins later).
Result: `run_id`.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress

from ..failures import LATER, ContainerFailure
from .task import Task, make_open, write_aside

_TOLD = 4000
"""The most characters of the command's words that are passed on."""


def work(task: Task) -> Mapping[str, object]:
    """Lay out the files, then submit: once, whatever happens."""
    # First of all: another process of this task must neither touch the files nor say what came of it.
    task.begin_once()
    task.stop.check()
    plan = task.plan
    for file in plan["files"]:
        path = os.path.join(plan["directory"], file["name"])
        make_open(os.path.dirname(path))
        write_aside(path, file["content"])
        os.chmod(path, 0o640)
    if time.time() > plan["not_after"]:
        raise ContainerFailure("The job could not be submitted to JAWS.", "NERSC began the submission too late", LATER)
    task.stop.check()
    try:
        ran = subprocess.run(
            plan["command"],
            env={**os.environ, **plan["environment"]},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=plan["timeout"],
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        # It may have been heard all the same: whoever reads this looks for the run before trying anew.
        raise ContainerFailure(
            "The job could not be submitted to JAWS.", f"{type(error).__name__}: {error}", LATER
        ) from error
    said = ran.stdout.decode("utf-8", "replace")
    run_id = _run_id(said)
    if ran.returncode or run_id is None:
        words = f"{said}\n{ran.stderr.decode('utf-8', 'replace')}"[-_TOLD:]
        raise ContainerFailure(
            "The job could not be submitted to JAWS.", f"jaws submit ended with {ran.returncode}: {words}", LATER
        )
    return {"run_id": run_id}


def _run_id(said: str) -> str | None:
    """The run that the command tells of, in JSON, perhaps after other words."""
    for start in (i for i, c in enumerate(said) if c == "{"):
        with suppress(ValueError):
            body, _ = json.JSONDecoder().raw_decode(said[start:])
            if isinstance(body, dict) and body.get("run_id") is not None:
                return str(body["run_id"])
    return None
