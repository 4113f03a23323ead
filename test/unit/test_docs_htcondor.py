"""The page about HTCondor sites says what the code does."""

import re
import tomllib
from pathlib import Path

import pytest

from cdmtaskservice.settings import HTCondorSite, load_settings, read_settings_file
from cdmtaskservice.settings.template import to_toml
from cdmtaskservice.sites.htcondor.ads import _EXIT_CODES
from cdmtaskservice.sites.htcondor.holds import HOLDS
from test.unit.test_settings import REQUIRED, TEMPLATE

PAGE = (Path(__file__).parents[2] / "docs/sites/htcondor.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"<!-- settings -->\n```toml\n(.*?)```", PAGE, re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_table_of_holds_is_that_of_the_code() -> None:
    told = {int(code): (name, remedy, words) for code, name, remedy, words in rows("Holds")}
    assert told == {code: (hold.name, hold.remedy.value, hold.told) for code, hold in HOLDS.items()}


def test_every_exit_code_that_is_told_in_words_is_listed() -> None:
    listed = {int(code) for cells in rows("Exit codes") for code in cells[0].split(",")}
    assert set(_EXIT_CODES) <= listed


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_settings_load(example: str, tmp_path: Path) -> None:
    data = dict(read_settings_file(TEMPLATE, REQUIRED).data)
    file = tmp_path / "c.toml"
    file.write_text(to_toml(data | tomllib.loads(example)))
    [site] = load_settings(file, {}).sites
    assert isinstance(site, HTCondorSite)


def test_the_full_example_has_every_setting() -> None:
    full = set().union(*(tomllib.loads(example)["sites"][0] for example in EXAMPLES))
    assert full == set(HTCondorSite.model_fields)


def test_every_setting_that_the_page_names_is_one() -> None:
    assert len(EXAMPLES) == 2
    for name in re.findall(r"setting `([a-z_]+)`", PAGE):
        assert name in HTCondorSite.model_fields, name
