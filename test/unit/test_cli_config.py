"""`cts config`."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cdmtaskservice.cli.main import app
from cdmtaskservice.settings import load_settings
from test.unit.test_settings import REQUIRED, SECRET, TEMPLATE

runner = CliRunner()


@pytest.fixture(autouse=True)
def _no_variables_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("KBCTS_")]:
        monkeypatch.delenv(name)


def test_check_of_good_settings_sums_them_up_without_secrets() -> None:
    done = runner.invoke(app, ["config", "check", str(TEMPLATE)], env=REQUIRED)
    assert done.exit_code == 0, done.output
    assert "service\tlistens on 127.0.0.1:5000" in done.stdout
    assert "site local\tlocal, 1 x 2 CPUs, 4 GB" in done.stdout
    assert "hunter2" not in done.output
    assert "cts:pw" not in done.output


def test_check_of_bad_settings_names_all_problems_and_is_1() -> None:
    env = REQUIRED | {"KBCTS_SERVICE_PORT": "x", "KBCTS_MONGO_URI": "hunter2", "KBCTS_MANGO__URI": "hunter2"}
    del env["KBCTS_S3_ENDPOINT"]
    done = runner.invoke(app, ["config", "check", str(TEMPLATE)], env=env)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "4 problems" in done.stderr
    for told in ("service.port", "mongo.uri", "KBCTS_S3_ENDPOINT", "KBCTS_MANGO__URI"):
        assert told in done.stderr
    assert "hunter2" not in done.output


def test_render_prints_with_secrets_masked() -> None:
    done = runner.invoke(app, ["config", "render", str(TEMPLATE)], env=REQUIRED)
    assert done.exit_code == 0
    assert 'secret_key = "********"' in done.stdout
    assert 'endpoint = "https://s3.example:9000/"' in done.stdout
    assert "hunter2" not in done.output
    assert "cts:pw" not in done.output


def test_the_same_as_json(tmp_path: Path) -> None:
    def told(*arguments: str) -> Any:
        done = runner.invoke(app, ["config", *arguments, "--json"], env=REQUIRED)
        assert done.exit_code == 0, done.output
        assert "hunter2" not in done.output
        return json.loads(done.stdout)

    assert told("check", str(TEMPLATE))["settings"]["site local"] == "local, 1 x 2 CPUs, 4 GB"
    assert told("render", str(TEMPLATE))["s3"]["secret_key"] == "********"
    output = tmp_path / "out.toml"
    assert told("render", str(TEMPLATE), "--output", str(output)) == {"written": str(output)}
    assert "hunter2" in output.read_text()


def test_render_to_a_file_keeps_secrets_and_is_private(tmp_path: Path) -> None:
    output = tmp_path / "out.toml"
    output.write_text("old")
    output.chmod(0o644)
    done = runner.invoke(app, ["config", "render", str(TEMPLATE), "--output", str(output)], env=REQUIRED)
    assert done.exit_code == 0
    assert done.output == ""
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert load_settings(output, {}) == load_settings(TEMPLATE, REQUIRED)
    assert SECRET in output.read_text()
    assert list(tmp_path.iterdir()) == [output]


def test_render_without_the_variables_is_1_and_writes_nothing(tmp_path: Path) -> None:
    done = runner.invoke(app, ["config", "render", str(TEMPLATE), "-o", str(tmp_path / "out.toml")])
    assert done.exit_code == 1
    assert "KBCTS_MONGO_URI" in done.stderr
    assert not list(tmp_path.iterdir())


def test_render_to_where_nothing_can_be_written_is_1(tmp_path: Path) -> None:
    target = tmp_path / "no" / "out.toml"
    done = runner.invoke(app, ["config", "render", str(TEMPLATE), "-o", str(target)], env=REQUIRED)
    assert done.exit_code == 1
    assert "cannot be written: No such file" in done.stderr


def test_check_of_a_reference_data_services_file(tmp_path: Path) -> None:
    file = tmp_path / "refdata.toml"
    file.write_text(
        '[refdata_service]\nservice_url = "https://cts.example"\ntoken_file = "/etc/token"\n'
        '[[refdata_service.stores]]\nsite = "kbase"\ndirectory = "/refdata"\n'
    )
    done = runner.invoke(app, ["config", "check", str(file)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "site kbase\tdata in /refdata" in done.stdout
    file.write_text("[refdata_service]\nservice_urls = 1\n")
    done = runner.invoke(app, ["config", "check", str(file)])
    assert done.exit_code == 1
    assert "refdata_service.service_urls: is no setting. Did you mean service_url?" in done.stderr
