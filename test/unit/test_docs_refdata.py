"""The page about reference data says what the code does."""

from __future__ import annotations

import ast
import datetime
import json
import re
import tomllib
from datetime import timedelta
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ByteSize, TypeAdapter
from pydantic_core import PydanticUndefined
from typer.testing import CliRunner

from cdmtaskservice.api.models import AdminRefdataStatus, RefdataTransfer
from cdmtaskservice.api.worker_models import RefdataProgressAnswer, RefdataWork
from cdmtaskservice.cli import refdata as commands
from cdmtaskservice.domain.refdata import _FORMATS, RefdataRecord, StagingRecord, archive_format
from cdmtaskservice.domain.refdata_calls import RefdataProgress, RefdataUpdate, RefdataWorkRequest
from cdmtaskservice.domain.states import RefdataState
from cdmtaskservice.executor import archive_tree, archives, directory_lock, pieces, zstd
from cdmtaskservice.executor.manifest import write_manifest
from cdmtaskservice.reconciler import stagings, tasks
from cdmtaskservice.settings import RefdataServiceFile, RefdataServiceSettings, Settings, load
from cdmtaskservice.settings.models import RefdataSettings
from cdmtaskservice.settings.values import Duration
from cdmtaskservice.sites import refdata as plans
from cdmtaskservice.stager import stores

REPO = Path(__file__).parents[2]
PACKAGE = REPO / "cdmtaskservice"
PAGE = (REPO / "docs/refdata.md").read_text(encoding="utf-8")
GUIDE = (REPO / "docs/user-guide.md").read_text(encoding="utf-8")
CODE = (
    *(PACKAGE / "executor").rglob("*.py"),
    *(PACKAGE / "reconciler").glob("*.py"),
    *(PACKAGE / "sites").rglob("*.py"),
    *(PACKAGE / "stager").glob("*.py"),
    *(PACKAGE / "services").glob("refdata*.py"),
    *(PACKAGE / "domain").glob("refdata*.py"),
)


def tables(page: str, name: str) -> list[list[str]]:
    """The rows of all tables under the mark `checked: name`, without the backquotes around a whole cell."""
    parts = page.split(f"<!-- checked: {name} -->\n")[1:]
    assert parts, f"there is no table {name}"
    return [
        [re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in line.strip("|").split("|")]
        for part in parts
        for line in list(takewhile(lambda line: line.startswith("|"), part.splitlines()))[2:]
    ]


def shown(*words: str) -> Any:
    """The JSON of the block with these words behind its fence."""
    [text] = re.findall(rf"^```json {' '.join(words)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[:1]
    return json.loads(text)


@cache
def texts() -> str:
    """All that stands in strings of the code, a line for each piece between the values of an f-string."""
    nodes = (node for file in CODE for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    return "\n".join(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))


@pytest.mark.parametrize("row", tables(PAGE, "texts"), ids=lambda row: row[0][:40])
def test_texts_that_are_explained_are_the_codes(row: list[str]) -> None:
    for text in row[0].split(" / "):
        for piece in text.split("…"):
            assert piece.strip() in texts(), piece


def test_every_state_is_explained() -> None:
    wanted = [s.value for s in RefdataState]
    assert [row[0] for row in tables(PAGE, "states")] == wanted
    assert [row[0] for row in tables(GUIDE, "refdata states")] == wanted
    told = {word for row in tables(PAGE, "states") for word in re.findall(r"`(\w+)`", f"`{row[2]}`")}
    assert told <= {*wanted, ""}


def test_every_format_is_listed_in_order() -> None:
    assert [row[0] for row in tables(PAGE, "formats")] == [suffix for suffix, _ in _FORMATS]
    streamed = {row[0]: row[2].startswith("while it comes") for row in tables(PAGE, "formats")}
    assert streamed == {suffix: form in archives.STREAMED for suffix, form in _FORMATS}
    forms = {f"`{form}`" for _, form in _FORMATS}
    assert [form for form in forms if form not in PAGE] == []


def test_the_fixed_limits_of_archives_are_told() -> None:
    named, deep = archive_tree._LONGEST_NAME, archive_tree._DEEPEST
    assert f"{named} bytes, {archive_tree._LONGEST_PATH} bytes, {deep} directories" in PAGE
    assert f"({archives._TAR_HEADERS >> 20} MiB for an entry)" in PAGE
    assert f"({archives._ZIP_LIST >> 20} MiB of a zip)" in PAGE
    assert zstd._LIBRARY in PAGE


@pytest.mark.parametrize(
    ("name", "model"), [("refdata settings", RefdataSettings), ("service settings", RefdataServiceSettings)]
)
def test_every_setting_stands_there_with_its_default(name: str, model: type[BaseModel]) -> None:
    told = {setting: default for setting, default, _ in tables(PAGE, name)}
    assert set(told) == set(model.model_fields)
    for setting, field in model.model_fields.items():
        assert _same(told[setting], field.default), f"{setting}: {told[setting]!r} is not {field.default!r}"


def _same(told: str, default: object) -> bool:
    if default is PydanticUndefined:
        return told == ""
    if isinstance(default, timedelta):
        return TypeAdapter(Duration).validate_python(told) == default
    if isinstance(default, ByteSize):
        return TypeAdapter(ByteSize).validate_python(told) == default
    return told == str(default)


def test_the_settings_file_is_whole_and_loads(tmp_path: Path) -> None:
    [example] = re.findall(r"<!-- settings -->\n```toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "c.toml"
    file.write_text(example)
    service = load(RefdataServiceFile, file, {}).refdata_service
    data = tomllib.loads(example)
    [store_model] = [a for a in get_args(RefdataServiceSettings.model_fields["stores"].annotation) if a is not ...]
    assert set(data["refdata_service"]) == set(RefdataServiceSettings.model_fields)
    assert set(data["refdata_service"]["stores"][0]) == set(store_model.model_fields)
    assert set(data) == set(RefdataServiceFile.model_fields)
    for name, field in RefdataServiceSettings.model_fields.items():
        if field.default is not PydanticUndefined:
            assert getattr(service, name) == field.default, name


def test_the_template_of_the_settings_has_the_same() -> None:
    template = (REPO / "refdata-service.toml.jinja").read_text(encoding="utf-8")
    names = set(re.findall(r"^([a-z_]+) = ", template, re.MULTILINE))
    [example] = re.findall(r"<!-- settings -->\n```toml\n(.*?)```", PAGE, re.DOTALL)
    assert set(re.findall(r"^([a-z_]+) = ", example, re.MULTILINE)) == names


def test_times_and_numbers_are_those_of_the_code() -> None:
    refdata = Settings.model_fields["refdata"].default
    record = RefdataRecord("i", "b/db.tar.gz", "c", 10**11, True, "a", datetime.datetime.now(datetime.UTC))
    hours = plans.time_limit(record, refdata.patience.total_seconds()) / 3600
    assert f"or {hours:.0f}." in PAGE
    assert "five times that" in PAGE.replace("\n", " ")
    assert 1 + plans._LARGEST_RATIO == 5
    assert f"at {plans._SLOWEST // 10**6} MB a second" in PAGE
    assert "a refusal by S3 (403) is repeated five times" in PAGE.replace("\n", " ")
    assert (tasks._MOST_REFUSALS, tasks._MOST_ABSENT, tasks._MOST_CRASHES) == (5, 8, 10)
    assert stagings._ORPHANED == 600.0
    assert f"Up to {stores._MOST_PROCESSES} processes" in PAGE


STAGING = StagingRecord("ID", "here", RefdataState.COMPLETE, ())


def test_files_below_the_directory_are_called_so() -> None:
    for name in (pieces.ARCHIVE, pieces.RECORD, directory_lock.LOCK):
        assert f"`{name}`" in PAGE
    plan = plans.remove(STAGING, "")
    [manifest] = plan["manifests"]
    for ending in ("jsonl", "removed"):
        assert f"`{manifest['root'].strip('/')}/{manifest['name']}.{ending}`" in PAGE
    assert f"`{plan['trees'][0]['root'].strip('/')}/ID/`" in PAGE


@pytest.mark.parametrize("model", [AdminRefdataStatus, RefdataTransfer])
def test_every_field_of_a_reply_is_described(model: type[BaseModel]) -> None:
    told = {n for row in tables(PAGE, f"fields {model.__name__}") for n in re.findall(r"`?([a-z_]+)`?", row[0])}
    assert told == set(model.model_fields)


def test_the_manifest_is_as_it_is_written(tmp_path: Path) -> None:
    written = tmp_path / "m"
    header = shown("manifest")
    write_manifest(str(written), header, [])
    assert [json.loads(line) for line in written.read_text().splitlines()] == [header]
    assert {"id", "file", "crc64nvme", "size", "unpack", "files", "bytes"} == set(header)


def test_the_wire_is_as_the_models_have_it() -> None:
    RefdataWorkRequest.model_validate(shown("work", "request"))
    RefdataProgress.model_validate(shown("progress", "request"))
    RefdataProgressAnswer.model_validate(shown("progress", "answer"))
    for state in ("complete", "error"):
        RefdataUpdate.model_validate(shown("update", state))
    for model in (RefdataWorkRequest, RefdataProgress, RefdataUpdate):
        assert [name for name in model.model_fields if f"`{name}`" not in PAGE and f'"{name}"' not in PAGE] == []


def test_the_work_order_is_one() -> None:
    answer = shown("work", "answer")
    [order] = RefdataWork.model_validate(answer).work
    plan = order.plan
    assert archive_format(plan["file"]) == plan["unpack"]
    settings = Settings.model_fields["refdata"].default
    record = RefdataRecord(
        plan["id"], plan["file"], plan["crc64nvme"], plan["size"], True, "a", datetime.datetime.now(datetime.UTC)
    )
    limits = plans.StagingLimits(
        settings.connections,
        settings.piece_size,
        settings.patience.total_seconds(),
        settings.max_files,
        settings.max_unpacked,
    )
    assert plan == plans.stage(record, plan["root"], plan["url"], limits)
    assert set(plans.remove(STAGING, "/r")) == {"trees", "manifests", "expired"}


def test_commands_that_the_page_names_exist() -> None:
    named = set(re.findall(r"cts refdata ([a-z]+)", PAGE))
    known = {c.name or (c.callback.__name__ if c.callback else "") for c in commands.app.registered_commands}
    assert named == known
    helped = CliRunner().invoke(commands.app, ["watch", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert "Exit code 1 where it ended in error" in helped


def test_log_events_that_the_page_names_exist() -> None:
    code = "".join(p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*.py"))
    named = re.findall(r"`([a-z_]+)`", PAGE.partition("The service's log has ")[2].partition("\n\n")[0])
    assert len(named) > 10
    assert [n for n in named if f'"{n}"' not in code] == []
