"""`cts` itself: quick to start, right exit codes, commands that hand over to their parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cdmtaskservice.cli.main import app
from cdmtaskservice.settings import Problem, SettingsError

runner = CliRunner()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from cdmtaskservice.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as e: code = e.code\n"
        "heavy = {'fastapi', 'htcondor2', 'pydantic', 'motor', 'aiokafka', 'aiobotocore', 'jinja2', 'structlog',\n"
        "    'httpx', 'yaml', 'awscrt', 'rich.table', 'rich.console', 'cdmtaskservice.client'}\n"
        "sys.exit(f'{code} {heavy & set(sys.modules)}' if code or heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in ("serve", "demo", "config", "token", "version"):
        assert command in done.stdout
    assert "╭" not in done.stdout, "boxes are for terminals"
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["serve"], ["config"], ["config", "check"], ["token", "create", "x"], ["token", "list"]],
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert runner.invoke(app, arguments).exit_code == 2


def test_version() -> None:
    done = runner.invoke(app, ["version"])
    assert done.exit_code == 0
    assert done.stdout.strip()[0].isdigit()


def fake_part(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def test_serve_hands_over(monkeypatch: pytest.MonkeyPatch) -> None:
    called = SimpleNamespace()
    fake_part(monkeypatch, "cdmtaskservice.cli.serve", serve=lambda file: setattr(called, "file", file))
    assert runner.invoke(app, ["serve", "--config", "a/b.toml"]).exit_code == 0
    assert called.file == Path("a/b.toml")


def test_serve_with_bad_settings_says_so_and_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(file: Path) -> None:
        raise SettingsError(file, [Problem("mongo.uri", "is missing", "add it")])

    fake_part(monkeypatch, "cdmtaskservice.cli.serve", serve=serve)
    done = runner.invoke(app, ["serve", "-c", "b.toml"])
    assert done.exit_code == 1
    assert "mongo.uri: is missing. Add it" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"keep": False, "directory": None, "site": "local"}),
        (
            ["--keep", "--dir", "/d", "--site", "htcondor"],
            {"keep": True, "directory": Path("/d"), "site": "htcondor"},
        ),
    ],
)
def test_demo_hands_over(arguments: list[str], expected: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, object] = {}
    fake_part(monkeypatch, "cdmtaskservice.cli.demo", run=lambda **given: called.update(given))
    assert runner.invoke(app, ["demo", *arguments]).exit_code == 0
    assert called == expected
    refused = runner.invoke(app, ["demo", "--site", "mars"])
    assert refused.exit_code == 2
    assert "htcondor" in refused.stderr


def test_what_becomes_of_a_demos_data_is_said() -> None:
    told = " ".join(runner.invoke(app, ["demo", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout.split())
    assert "Go on running until Ctrl-C." in told
    assert "a temporary directory that is removed" in told
