"""The dashboard and the alerts ask for numbers that there are, and leave none out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdmtaskservice.domain.states import JobState
from test.unit.metrics_page import full_page, kinds, samples

FOLDER = Path(__file__).parents[2] / "docs/grafana"
BOARD: dict[str, Any] = json.loads((FOLDER / "cts.json").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
PAGE = full_page()
OF_PROMETHEUS = {"job", "instance"}
"""Labels that every number gets from Prometheus itself."""


def labels() -> dict[str, set[str]]:
    """By the name of a sample, its labels."""
    found: dict[str, set[str]] = {}
    for sample in samples(PAGE):
        found.setdefault(sample.name, set()).update(sample.labels)
    return found


def queries() -> list[tuple[str, str]]:
    """(where, expression) of all that is asked of Prometheus."""
    shown = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
    choices = [(v["name"], v["definition"]) for v in BOARD["templating"]["list"] if v["type"] == "query"]
    return [*shown, *choices, *((rule["alert"], rule["expr"]) for rule in RULES)]


@pytest.mark.parametrize(("where", "expression"), queries(), ids=lambda text: text[:40])
def test_what_is_asked_for_is_there(where: str, expression: str) -> None:
    known = labels()
    names = re.findall(r"\bcts_\w+", expression)
    assert names, where
    for name in names:
        assert name in known, f"{where} asks for {name}"
    allowed = set().union(*(known[name] for name in names)) | OF_PROMETHEUS
    matched = set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', expression))
    grouped = {word for group in re.findall(r"\bby \(([^)]*)\)", expression) for word in re.findall(r"\w+", group)}
    assert matched | grouped <= allowed, f"{where} asks for labels that {names} do not have"


@pytest.mark.parametrize(("where", "expression"), queries(), ids=lambda text: text[:40])
def test_expressions_are_whole(where: str, expression: str) -> None:
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing), where
    for name, kind in kinds(PAGE).items():
        if kind == "counter":
            # Whatever only grows is of use by its rate alone.
            assert not re.search(rf"(?<!rate\()\b{name}\b", expression), where


@pytest.mark.parametrize(("where", "expression"), queries(), ids=lambda text: text[:40])
def test_states_outcomes_and_systems_are_real(where: str, expression: str) -> None:
    states = {s.value for s in JobState}
    for operator, told in re.findall(r'state(=~|!~|=)"([^"]+)"', expression):
        wanted = told.split("|") if operator != "=" else [told]
        assert all(any(re.fullmatch(w, s) for s in states) for w in wanted), where
    known = {(label, s.labels[label]) for s in samples(PAGE) for label in ("outcome", "system") if label in s.labels}
    for label, told in re.findall(r'(outcome|system)=~?"([^"]+)"', expression):
        assert {(label, word) for word in told.split("|")} <= known, where


def test_every_number_is_on_the_dashboard() -> None:
    asked = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    left_out = [name for name in kinds(PAGE) if not re.search(rf"\b{name}(_bucket|_count|_sum)?\b", asked)]
    assert left_out == []


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert BOARD["schemaVersion"] >= 39
    assert BOARD["uid"]
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    for panel in PANELS:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["title"]
        assert {"h", "w", "x", "y"} == set(panel["gridPos"])
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            if re.search(r"histogram_quantile|_seconds\{", target["expr"]) and "time()" not in target["expr"]:
                assert unit == "s", panel["title"]
            if "_bytes" in target["expr"]:
                assert unit == "bytes", panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_variables_that_are_used_are_there() -> None:
    declared = {v["name"] for v in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD))) - {"__rate_interval", "__all"}
    assert used == declared


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_say_what_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["alert"].startswith("Cts")
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}
    grouped = {word for group in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for word in re.findall(r"\w+", group)}
    used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert used <= (grouped or OF_PROMETHEUS)


def test_there_are_alerts_for_what_matters() -> None:
    asked = " ".join(rule["expr"] for rule in RULES)
    for name in ("look_lag", "messages_owed", "store_up", "jobs_waiting", "5xx", "external_call", "site_available"):
        assert name in asked
