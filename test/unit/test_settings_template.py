"""Templates of the settings file: values pass unchanged and never become structure."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cdmtaskservice.settings import SettingsError, load_settings, read_settings_file
from cdmtaskservice.settings.template import render_template, to_toml
from test.unit.test_settings import TEMPLATE, with_env

ANY_TEXT = st.text() | st.text(alphabet="\"'\\\n\r\t #={}[]%\x00\x02\x03\x7fu0", max_size=20)


@hypothesis_settings(deadline=None, max_examples=60)
@given(secret=ANY_TEXT.map(lambda s: s + "!" * 32), key=ANY_TEXT.filter(bool), notes=ANY_TEXT)
def test_any_value_passes_the_template_exactly(secret: str, key: str, notes: str) -> None:
    env = with_env(KBCTS_SERVICE_SIGNING_SECRET=secret, KBCTS_S3_SECRET_KEY=key, KBCTS_SERVICE_NOTES=notes)
    settings = load_settings(TEMPLATE, env)
    assert settings.service.worker_signing_secrets[0].get_secret_value() == secret
    assert settings.s3.secret_key.get_secret_value() == key
    assert settings.service.notes == notes


@hypothesis_settings(deadline=None)
@given(value=ANY_TEXT, other=ANY_TEXT)
def test_any_value_is_safe_in_every_place_of_a_template(value: str, other: str) -> None:
    rendered = render_template(
        "# comment {{ KBCTS_A }}\n"
        "bare = {{ KBCTS_A }}\n"
        'quoted = "{{ KBCTS_A }}"\n'
        'joined = "<{{ KBCTS_A }}|{{ KBCTS_B }}>" # "{{ KBCTS_B }}\n'
        'both = "{{ KBCTS_A }}{{ KBCTS_B }}"\n'
        'ends = """q"""""\n'
        "literal_ends = '''q'''' # {{ KBCTS_A }}\n"
        'long = """\n{{ KBCTS_A }}"{{ KBCTS_B }}"""\n'
        'folded = """x\\\n  {{ KBCTS_A }}"""\n'
        "list = [{{ KBCTS_A }},{{ KBCTS_B }}]\n"
        "whole = {{ [KBCTS_A, 1, true] }}\n"
        "table = {k = {{ KBCTS_A }}}\n"
        "{% set caught %}<{{ KBCTS_A }}>{% endset %}caught = {{ caught }}\n"
        "'literal\\' = 'no {# comment #}value'\n"
        "{{ KBCTS_A }} = 'key'\n",
        {"KBCTS_A": value + "k", "KBCTS_B": other},
    )
    assert not rendered.faults
    a, b = value + "k", other
    data = tomllib.loads(rendered.text)
    expected: dict[str, object] = {
        "bare": a,
        "quoted": a,
        "joined": f"<{a}|{b}>",
        "both": a + b,
        "ends": 'q""',
        "literal_ends": "q'",
        "long": f'{a}"{b}',
        "folded": "x" + a,
        "list": [a, b],
        "whole": [a, 1, True],
        "table": {"k": a},
        "caught": f"<{a}>",
        "literal\\": "no value",
        a: "key",
    }
    assert data == expected
    assert tomllib.loads(to_toml(data)) == data


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a = '{{ KBCTS_A }}'", "single quotes"),
        ("a = '''{{ KBCTS_A }}'''", "single quotes"),
        ("a = {{ KBCTS_A }}{{ KBCTS_A }}", "beside other text"),
        ('a = ""{{ KBCTS_A }}', "beside other text"),
        ("a = x{{ KBCTS_A }}", "beside other text"),
        ("a = {{ KBCTS_A }}x", "beside other text"),
        ('a = "\\{{ KBCTS_A }}"', "backslash"),
        ('a = "{{ [KBCTS_A] }}"', "in a string"),
        ("a = {{ none }}", "no string"),
    ],
)
def test_a_place_that_cannot_hold_a_value_is_a_fault_with_its_line(line: str, fault: str) -> None:
    rendered = render_template(f"\n{line}\n", {"KBCTS_A": ""})
    assert len(rendered.faults) >= 1
    assert "line 2" in rendered.faults[0]
    assert fault in rendered.faults[0]


def test_only_kbcts_variables_are_visible(tmp_path: Path) -> None:
    file = tmp_path / "c.jinja"
    file.write_text("a = {{ HOME }}\n")
    with pytest.raises(SettingsError) as caught:
        read_settings_file(file, {"HOME": "hunter2"})
    (problem,) = caught.value.problems
    assert problem.setting == "a"
    assert "begin with KBCTS_" in problem.wrong
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize(
    "expression",
    [
        "KBCTS_A.__class__.__mro__",
        "cycler.__init__.__globals__.os.environ",
        "lipsum.__globals__",
        "lipsum(n=1)",
        "self.__init__.__globals__",
    ],
)
def test_a_template_cannot_reach_out(expression: str, tmp_path: Path) -> None:
    file = tmp_path / "c.jinja"
    file.write_text(f"a = {{{{ {expression} }}}}\n")
    with pytest.raises(SettingsError):
        read_settings_file(file, {"KBCTS_A": "x"})


@pytest.mark.parametrize(
    "use",
    [
        "a = {{ KBCTS_A }}",
        'a = "{{ KBCTS_A }}"',
        "a = {{ KBCTS_A | upper }}",
        'a = {{ "x" ~ KBCTS_A }}',
        'a = {{ KBCTS_A.split(",") }}',
        "a = {{ 1 if KBCTS_A else 2 }}",
        "a = {{ KBCTS_A | length }}",
        'a = {{ KBCTS_A == "x" }}',
        "{% for x in KBCTS_A %}{% endfor %}",
        "a = {{ KBCTS_A | int + 1 }}",
        "a = {{ KBCTS_A + 1 }}",
    ],
)
def test_every_use_of_a_missing_variable_is_found(use: str, tmp_path: Path) -> None:
    file = tmp_path / "c.jinja"
    file.write_text(use + "\n")
    with pytest.raises(SettingsError) as caught:
        read_settings_file(file, {})
    assert "KBCTS_A" in str(caught.value)


def test_defaults_and_definedness_are_no_use() -> None:
    rendered = render_template(
        'a = {{ KBCTS_A | default("d") }}\n{% if KBCTS_B is defined %}b = {{ KBCTS_B }}{% endif %}', {}
    )
    assert not rendered.missing
    assert tomllib.loads(rendered.text) == {"a": "d"}
