"""The settings of sites."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdmtaskservice.settings import load_settings, read_settings_file
from cdmtaskservice.settings.template import to_toml
from test.unit.test_settings import REQUIRED, TEMPLATE, problems_of


def site_file(tmp_path: Path, *changes: dict[str, object]) -> Path:
    """A plain settings file with a site for each of the changes to the template's."""
    data = dict(read_settings_file(TEMPLATE, REQUIRED).data)
    sites = data["sites"]
    assert isinstance(sites, list)
    file = tmp_path / "c.toml"
    file.write_text(to_toml(data | {"sites": [sites[0] | change for change in changes]}))
    return file


def test_several_sites(tmp_path: Path) -> None:
    change = {"name": "b", "notes": "one", "cpus": 7, "memory_per_node": 5_000_000, "python": "/usr/bin/python3"}
    first, second = load_settings(site_file(tmp_path, {"name": "a", "notes": ["x", "y"]}, change), {}).sites
    assert (first.name, first.notes, first.memory_per_node) == ("a", ("x", "y"), 4_000_000_000)
    assert (second.name, second.notes, second.cpus_at_once) == ("b", ("one",), 7)
    assert (second.memory_per_node, second.python) == (5_000_000, Path("/usr/bin/python3"))


def test_site_names_are_unique(tmp_path: Path) -> None:
    problem = problems_of(site_file(tmp_path, {"name": "a"}, {"name": "b"}, {"name": "a"}), {})["sites"]
    assert "a stands there more than once" in problem.wrong


def test_an_unknown_kind_of_site_names_the_kinds_that_there_are(tmp_path: Path) -> None:
    problem = problems_of(site_file(tmp_path, {"kind": "abacus"}), {})["sites[0].kind"]
    assert problem.value == '"abacus"'
    assert problem.todo == "use one of: local, htcondor, jaws"
    data = dict(read_settings_file(TEMPLATE, REQUIRED).data)
    (tmp_path / "none.toml").write_text(to_toml(data | {"sites": [{"name": "x"}]}))
    assert problems_of(tmp_path / "none.toml", {})["sites[0].kind"].wrong == "is missing"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("name", "a/b"),
        ("name", ""),
        ("nodes", 2),
        ("cpus_per_node", 0),
        ("memory_per_node", 10),
        ("max_runtime", 0),
        ("cpus", 1),
        ("work_dir", "relative"),
        ("container_runtime", "rkt"),
        ("python", "python3"),
        ("wrok_dir", "/x"),
    ],
)
def test_wrong_site_settings_name_the_site_by_its_place(setting: str, value: object, tmp_path: Path) -> None:
    problems = problems_of(site_file(tmp_path, {"name": "a"}, {"name": "b"} | {setting: value}), {})
    assert set(problems) == {f"sites[1].{setting}"}
