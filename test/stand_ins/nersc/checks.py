"""What JAWS refuses when a run is submitted."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path

import WDL

_LOADING = threading.Lock()
_VERSION = "1.0"
_READ, _ENTER = 0o044, 0o011
"""Bits of a mode, one of which others than the owner need."""


class RefusedError(Exception):
    """The submission is not taken; the text says why."""


def check(wdl: str, inputs: str, allowed: Path) -> None:
    """A workflow and its inputs, whose files must lie below `allowed`. Raises: RefusedError."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "workflow.wdl"
        file.write_text(wdl, encoding="utf-8", newline="")
        document = load(file)
    workflow = document.workflow
    assert workflow is not None
    try:
        told = json.loads(inputs)
    except ValueError as e:
        raise RefusedError(f"The inputs are no JSON: {e}") from e
    if not isinstance(told, dict):
        raise RefusedError("The inputs are no JSON object")
    try:
        values = WDL.values_from_json(
            told, workflow.available_inputs, workflow.required_inputs, namespace=workflow.name
        )
    except (WDL.Error.InputError, WDL.Error.ValidationError) as e:
        raise RefusedError(f"The inputs do not fit the workflow: {e}") from e

    def staged(value: WDL.Value.File | WDL.Value.Directory) -> str:
        path = Path(value.value)
        if not path.is_absolute() or ".." in path.parts or not path.is_relative_to(allowed):
            raise RefusedError(f"The input {path} is not below {allowed}")
        if not path.resolve().is_relative_to(allowed.resolve()):
            raise RefusedError(f"The input {path} leads out of {allowed}")
        if not path.is_file():
            raise RefusedError(f"The input {path} is not there, or is no file")
        _readable(path, allowed)
        return str(value.value)

    WDL.Value.rewrite_env_paths(values, staged)


def _readable(path: Path, allowed: Path) -> None:
    """JAWS is another user, in the service's group or not. Raises: RefusedError."""
    ways = [p for p in path.parents if p.is_relative_to(allowed)]
    for step, bits in [(path, _READ), *((way, _ENTER) for way in ways)]:
        if not step.stat().st_mode & bits:
            raise RefusedError(f"The input {path} cannot be read by JAWS: {step} has mode {step.stat().st_mode:o}")


def load(file: Path) -> WDL.Tree.Document:
    """A WDL document with a workflow. Raises: RefusedError."""
    try:
        with _LOADING:
            document = WDL.load(str(file))
    except WDL.Error.MultipleValidationErrors as e:
        raise RefusedError(f"The WDL is invalid: {'; '.join(_words(x) for x in e.exceptions)}") from e
    except (WDL.Error.SyntaxError, WDL.Error.ValidationError, WDL.Error.ImportError) as e:
        raise RefusedError(f"The WDL is invalid: {_words(e)}") from e
    if document.workflow is None:
        raise RefusedError("The WDL has no workflow")
    if document.wdl_version != _VERSION:
        raise RefusedError(f"Only WDL {_VERSION} is supported, and this is {document.wdl_version}")
    return document


def _words(error: Exception) -> str:
    pos = getattr(error, "pos", None)
    return f"(Ln {pos.line} Col {pos.column}) {error}" if pos is not None else str(error)
