"""The page about JAWS sites says what the code does."""

from __future__ import annotations

import ast
import asyncio
import re
import tomllib
from datetime import timedelta
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import cast

import pytest
from pydantic import TypeAdapter
from pydantic_core import PydanticUndefined

from cdmtaskservice.domain.states import JobState
from cdmtaskservice.executor.remote.__main__ import KINDS
from cdmtaskservice.reconciler import jaws_jobs, jaws_submission, tasks
from cdmtaskservice.settings import JawsSettings, JawsSite, NerscSettings, load_settings, read_settings_file
from cdmtaskservice.settings.section import Section
from cdmtaskservice.settings.template import to_toml
from cdmtaskservice.settings.values import Duration
from cdmtaskservice.sites.base import Finding, SiteInfo, SiteUnreachableError
from cdmtaskservice.sites.jaws import wdl
from cdmtaskservice.sites.jaws.check import check
from cdmtaskservice.sites.jaws.config import JawsConfig, JawsSiteConfig, NerscConfig
from cdmtaskservice.sites.jaws.plans import tag
from cdmtaskservice.sites.jaws.platform import JawsPlatform
from test.unit.test_settings import REQUIRED, TEMPLATE

REPO = Path(__file__).parents[2]
PAGE = (REPO / "docs/sites/jaws.md").read_text(encoding="utf-8")
[EXAMPLE] = re.findall(r"<!-- settings -->\n```toml\n(.*?)```", PAGE, re.DOTALL)
CODE = (
    *(REPO / "cdmtaskservice/sites/jaws").glob("*.py"),
    *(REPO / "cdmtaskservice/executor").rglob("*.py"),
    *(REPO / "cdmtaskservice/reconciler").glob("jaws_*.py"),
    REPO / "cdmtaskservice/reconciler/tasks.py",
)
MODELS: dict[str, type[Section]] = {"nersc": NerscSettings, "jaws": JawsSettings, "site": JawsSite}


def tables(name: str) -> list[list[str]]:
    """The rows of all tables under the mark `checked: name`, without the backquotes around a whole cell."""
    parts = PAGE.split(f"<!-- checked: {name} -->\n")[1:]
    assert parts, f"there is no table {name}"
    return [
        [re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in line.strip("|").split("|")]
        for part in parts
        for line in list(takewhile(lambda line: line.startswith("|"), part.splitlines()))[2:]
    ]


@cache
def texts() -> str:
    """All that stands in strings of the code, a line for each piece between the values of an f-string."""
    nodes = (node for file in CODE for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    return "\n".join(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))


@pytest.mark.parametrize("section", MODELS)
def test_every_setting_stands_there_with_its_default(section: str) -> None:
    model = MODELS[section]
    told = {name: default for name, default, _ in tables(f"{section} settings")}
    assert set(told) == set(model.model_fields)
    for name, field in model.model_fields.items():
        assert _same(told[name], field.default), f"{section}.{name}: {told[name]!r} is not {field.default!r}"


def _same(told: str, default: object) -> bool:
    if default is None or default is PydanticUndefined:
        return told == ""
    if isinstance(default, timedelta):
        return TypeAdapter(Duration).validate_python(told) == default
    return told == ("none" if default == () else str(default))


def test_the_example_loads_and_has_every_setting(tmp_path: Path) -> None:
    example = tomllib.loads(EXAMPLE)
    assert set(example["nersc"]) == set(NerscSettings.model_fields)
    assert set(example["jaws"]) == set(JawsSettings.model_fields)
    assert set().union(*example["sites"]) == set(JawsSite.model_fields)
    data = dict(read_settings_file(TEMPLATE, REQUIRED).data)
    file = tmp_path / "c.toml"
    file.write_text(to_toml(data | example))
    settings = load_settings(file, {})
    assert [(s.kind, s.name) for s in settings.sites] == [("jaws", "perlmutter-jaws"), ("jaws", "lawrencium-jaws")]
    defaults = {"nersc": settings.nersc, "jaws": settings.jaws}
    shown = {"python", "executable"}
    for section, values in defaults.items():
        for name, field in type(values).model_fields.items():
            if field.default is not None and name not in shown:
                assert getattr(values, name) == field.default, f"{section}.{name} is shown with another value"


@pytest.mark.parametrize(("jaws_site", "most"), [("kbase", "PT47H45M"), ("jgi", "PT71H45M")])
def test_the_example_leaves_time_to_start(jaws_site: str, most: str) -> None:
    """A container's longest runtime and `start_time` together are no more than JAWS accepts."""
    example = tomllib.loads(EXAMPLE)
    duration = TypeAdapter(Duration).validate_python
    [site] = [s for s in example["sites"] if s["jaws_site"] == jaws_site]
    assert duration(site["max_runtime"]) + duration(example["jaws"]["start_time"]) <= duration(most)


class _NothingAnswers:
    async def check(self) -> None:
        raise SiteUnreachableError("away")

    async def close(self) -> None:
        pass


class _Platform:
    nersc = central = _NothingAnswers()


async def _findings(tmp_path: Path) -> list[Finding]:
    nersc = NerscConfig("http://a", "http://t", "u", tmp_path, "/code")
    jaws = JawsConfig("http://j", "u", tmp_path, "t", "jaws", "/s", "/S", "/o", "/O", "/x")
    info = SiteInfo("s", "jaws", nodes=1, cpus_per_node=1, memory_per_node=1, max_runtime=1)
    config = JawsSiteConfig(info, "kbase", nersc, jaws, "http://c", 1)
    return [f async for f in check(config, cast(JawsPlatform, _Platform()), 1.0)]


def test_every_step_of_the_check_is_listed_in_order(tmp_path: Path) -> None:
    assert [row[0] for row in tables("steps")] == [f.step for f in asyncio.run(_findings(tmp_path))]


def test_every_state_of_a_job_is_in_the_flow_in_order() -> None:
    states = [row[0] for row in tables("flow") if row[0]]
    ways = [s for s in JobState if not s.is_terminal]
    wanted = [s.value for s in ways if s is not JobState.CANCELING] + [JobState.CANCELING.value]
    assert sorted(states) == sorted(wanted)
    known = {s.value for s in JobState}
    assert {word for row in tables("flow") for word in re.findall(r"[a-z_]+", row[2])} - {"or"} <= known


def test_every_task_is_described() -> None:
    assert [row[0] for row in tables("tasks")] == list(KINDS)


def test_the_patience_of_a_job_is_that_of_the_code() -> None:
    wanted = [
        tasks._MOST_REFUSALS,
        tasks._MOST_CRASHES,
        tasks._MOST_ABSENT,
        jaws_jobs._MOST_WRONG,
    ]
    assert [int(row[1]) for row in tables("patience")] == wanted
    assert f"{jaws_submission._SETTLED:.0f} seconds after a failure" in PAGE


def test_the_scripts_exit_codes_are_listed() -> None:
    codes = {code.strip() for row in tables("exit codes") for code in row[0].split(",")}
    assert {str(wdl._OVER_TIME), str(wdl._REFUSED)} <= codes
    assert f"begins with `{wdl.MARK}`" in PAGE


def test_tags_are_what_the_page_says() -> None:
    assert tag("JOB", "ATTEMPT") in PAGE


@pytest.mark.parametrize("row", tables("texts"), ids=lambda row: row[0][:40])
def test_texts_that_are_explained_are_the_codes(row: list[str]) -> None:
    for text in row[0].split(" / "):
        for piece in text.split("…"):
            assert piece.strip() in texts(), piece


def test_log_events_that_the_page_names_exist() -> None:
    named = re.findall(r"`([a-z_]+)`", PAGE.partition("Events of note")[2].partition("\n\n")[0])
    assert len(named) > 5
    assert [n for n in named if n not in texts().splitlines()] == []


def test_sections_of_the_page_lie_in_the_settings() -> None:
    for section, name in re.findall(r"`(nersc|jaws)\.([a-z_]+)`", PAGE):
        assert name in MODELS[section].model_fields or name == "conf", f"{section}.{name}"
