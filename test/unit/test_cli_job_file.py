"""Job files: what is written is what is read, and what is wrong is told with its line."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.cli.job_file import JobFile, JobFileError, read_job
from cdmtaskservice.domain.jobs import JobInput

GOOD = """\
# all reads of the run
cluster: local
image: registry.example.org/tools/seqtool:1.0
name: 2024-01-01
params:
  args: [stats, -k, 31, -v, 1.10, no, "-o", 010, {type: input_files, input_files_format: space_separated_list}]
  environment:
    DEBUG: true
    LEVEL: 010
    EMPTY:
    OFF: off
  declobber: true
num_containers: 2
cpus: 1
memory: 2GB
runtime: 10:00
input_files:
  - cts-data/ann/a.fa
  - cts-data/ann/b.fa
output_dir: cts-data/ann/out
tags: [yes, 1_000, 0x1F, 12:30:45, null, ~]
input_roots: [""]
"""


def refused(data: str | bytes, name: str = "job.yaml") -> str:
    with pytest.raises(JobFileError) as told:
        read_job(data.encode() if isinstance(data, str) else data, name)
    return str(told.value)


def test_what_has_no_quotes_is_what_was_written() -> None:
    job = read_job(GOOD.encode(), "job.yaml").job
    assert job["name"] == "2024-01-01"
    assert job["runtime"] == "10:00", "and not 600"
    listed = {"type": "input_files", "input_files_format": "space_separated_list"}
    assert job["params"]["args"] == ["stats", "-k", "31", "-v", "1.10", "no", "-o", "010", listed]
    assert job["params"]["environment"] == {"DEBUG": "true", "LEVEL": "010", "EMPTY": "", "OFF": "off"}
    assert job["tags"] == ["yes", "1_000", "0x1F", "12:30:45", "null", "~"]
    assert (job["num_containers"], job["cpus"], job["memory"]) == (2, 1, "2GB")
    assert job["params"]["declobber"] is True
    assert job["input_roots"] == [""]
    JobInput.model_validate({**job, "runtime": "PT10M", "params": {}})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("-1", -1),
        ("0", 0),
        ("1.5", 1.5),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("10:00", "10:00"),
        ("yes", "yes"),
        ("true", "true"),
        ("1e3", "1e3"),
        (".inf", ".inf"),
        ("2GB", "2GB"),
        ("PT5M", "PT5M"),
        ("", None),
        ("null", None),
        ("'4'", "4"),
        ('"2GB"', "2GB"),
        ("9" * 30, "9" * 30),
    ],
)
def test_numbers_are_numbers_only_where_a_job_has_some(text: str, value: object) -> None:
    for field in ("cpus", "gpus", "num_containers", "memory", "runtime"):
        read = read_job(f"{field}: {text}\n".encode(), "job.yaml").job[field]
        assert (read, type(read)) == (value, type(value))
    name = read_job(f"name: {text}\n".encode(), "job.yaml").job["name"]
    assert name == (value if value is None or text[:1] in "'\"" else text)


def test_truths_are_what_they_are_called() -> None:
    for text, value in (("true", True), ("false", False), ("yes", "yes"), ("True", "True"), ("'true'", "true")):
        assert read_job(f"params: {{declobber: {text}}}".encode(), "j.yaml").job["params"]["declobber"] == value
    assert read_job(b"name: true", "j.yaml").job["name"] == "true"
    assert read_job(b"no: a\non: b\n1: c\n", "j.yaml").job == {"no": "a", "on": "b", "1": "c"}


def test_a_value_of_an_option_is_as_in_a_file() -> None:
    read = read_job(b"name: x\ncpus: 1\n", "j.yaml")
    for name, text in (("cpus", "4"), ("name", "no"), ("memory", "2GB")):
        read.set(name, text)
    assert read.job == {"cpus": 4, "name": "no", "memory": "2GB"}
    assert read.line(["name"]) is None


@pytest.mark.parametrize("text", ["10:00", "1:00:00", "'00:30'", " 0:10.5"])
def test_what_could_be_minutes_or_hours_is_refused(text: str) -> None:
    read = read_job(f"name: 10:00\nruntime: {text}\n".encode(), "j.yaml")
    with pytest.raises(JobFileError, match=r"line 2: runtime: .* could be minutes or hours"):
        read.refuse_guesses()
    read.set("runtime", "PT10M")
    read.refuse_guesses()
    read.set("runtime", "10:00")
    with pytest.raises(JobFileError, match=r"^runtime: '10:00'"):
        read.refuse_guesses()


def test_text_over_several_lines_and_references() -> None:
    job = read_job(b"name: >-\n  all\n  reads\ncluster: &c local\nimage: *c\n", "j.yaml").job
    assert job == {"name": "all reads", "cluster": "local", "image": "local"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is empty"),
        ("  \n# nothing\n", "it is no job"),
        ("- a\n- b\n", "it is no job"),
        ("just words", "it is no job"),
        ("cluster: a\nimage: b\ncluster: c\n", "line 3: 'cluster' is there twice, first in line 1"),
        ("params:\n  args: [a]\n  args: [b]\n", "line 3: 'args' is there twice, first in line 2"),
        ("cluster: a\n---\ncluster: b\n", "line 3: a second document begins; a file is one job"),
        ("cluster: a\nimage: [b\n", "line 3, column 1: it is no YAML: while parsing a flow sequence did not find"),
        ("cluster: a\n\timage: b\n", "line 2, column 1: it is no YAML"),
        ("cluster: a\n image: b\n", "line 2, column 7: it is no YAML"),
        ("cluster: !mine a\n", "line 1: the tag '!mine' means nothing here"),
        ("cluster: !!python/name:os.system a\n", "line 1: the tag '!!python/name:os.system' means nothing here"),
        ("cluster: *nobody\n", "line 1, column 10: it is no YAML: found undefined alias"),
        ("a: &a\n  - *a\n", "line 1: a value refers to itself"),
        ("? [a]\n: b\n", "line 1: a name must be text"),
        ("a: &a {b: c}\nparams:\n  <<: *a\n", "line 3: '<<' is not understood"),
        ("b: c\na: \x01\n", "line 2: it is no YAML: "),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, told: str) -> None:
    assert refused(text).startswith(told)
    assert refused(text, "-").startswith(told)


@pytest.mark.parametrize("name", ["job.yaml", "job.json"])
def test_what_is_too_deep(name: str) -> None:
    assert "it is" in refused("[" * 100_000, name)
    assert "it is" in refused("[" * 100_000 + "]" * 100_000, name)


def test_small_files_that_are_huge_jobs() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "more values than any job" in refused("\n".join(lines))


def test_what_is_no_text() -> None:
    assert refused(b"cluster: a\nname: \xff\n") == "line 2: it is not UTF-8 text"
    assert read_job("\ufeffname: ä\n".encode(), "job.yaml").job == {"name": "ä"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"cluster": "a",\n "image" "b"}', "line 2, column 10: it is no JSON: Expecting ':' delimiter"),
        ('{"cluster": "a"\n', "line 2, column 1: it is no JSON"),
        ('{"cluster": "a",\n "cluster": "b"}', "the object that begins in line 1 has 'cluster' twice"),
        ('{"params":\n {"args": [], "x": {},\n "args": []}}', "the object that begins in line 2 has 'args' twice"),
        ('{"cpus": NaN}', "it is no JSON: NaN is no number"),
        ('{"cluster": "a"} {"cluster": "b"}', "line 1, column 18: it is no JSON: Extra data"),
    ],
)
def test_json_that_is_none(text: str, told: str) -> None:
    assert refused(text, "job.json").startswith(told)
    assert refused(text, "-").startswith(told)


def test_json_is_what_json_says() -> None:
    job = {"cpus": 2, "name": "no", "runtime": 1.5, "params": {"args": ["010", 5], "declobber": False}, "x": None}
    for name in ("job.json", "-", "job"):
        assert read_job(json.dumps(job, indent=1).encode(), name).job == job
    assert refused("[1]", "job.json").startswith("it is no job")
    assert refused("cluster: a", "job.json").startswith("line 1, column 1: it is no JSON")


def test_yaml_that_looks_like_json() -> None:
    assert read_job(b"{cluster: local, cpus: 2}", "-").job == {"cluster": "local", "cpus": 2}
    assert read_job(b"cluster: {a: b}", "-").job == {"cluster": {"a": "b"}}


@pytest.mark.parametrize("name", ["job.yaml", "job.json"])
def test_every_value_has_its_line(name: str) -> None:
    yaml = "cluster: a\nparams:\n  args:\n    - b\n    - type:\n        c\ninput_files:\n  - d\n"
    as_json = (
        '{"cluster": "a",\n"params":\n  {"args":\n    ["b",\n    {"type":\n        "c"}]},\n"input_files":\n  ["d"]}'
    )
    read = read_job((yaml if name == "job.yaml" else as_json).encode(), name)
    known = {("cluster",): 1, ("params",): 2, ("params", "args"): 3, ("params", "args", 0): 4}
    known |= {("params", "args", 1): 5, ("params", "args", 1, "type"): 5, ("input_files", 0): 8}
    assert {place: read.line(place) for place in known} == known
    assert read.line(["params", "args", 1, "nothing"]) == 5
    assert read.line(["nothing"]) is None
    assert JobFile({}).line(["a"]) is None


def test_json_that_yaml_cannot_read_has_no_lines_and_is_read() -> None:
    assert read_job(b'{\n\t"cluster": "a"}', "job.json").job == {"cluster": "a"}


_text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
_plain = st.recursive(
    _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(_text.filter(lambda name: name not in {"cpus", "params"}), _plain, max_size=4))
def test_texts_in_quotes_come_back(job: dict[str, Any]) -> None:
    written = json.dumps(job, ensure_ascii=False)
    assert read_job(written.encode(), "job.json").job == job
    # JSON writes what is beyond the first plane as two escapes, which are none in YAML.
    if all(ord(c) < 0x10000 for c in written):
        assert read_job(json.dumps(job).encode(), "job.yaml").job == job


@given(st.binary(max_size=60))
def test_any_bytes_are_a_job_or_told(data: bytes) -> None:
    for name in ("-", "a.json", "a.yaml"):
        with contextlib.suppress(JobFileError):
            assert isinstance(read_job(data, name).job, dict)


def test_ten_thousand_files_are_read_at_once() -> None:
    files = "".join(f"  - file: cts-data/ann/{n}.fa\n    data_id: {n}\n" for n in range(10_000))
    before = time.perf_counter()
    job = read_job(f"cluster: a\ninput_files:\n{files}".encode(), "j.yaml").job
    assert job["input_files"][9] == {"file": "cts-data/ann/9.fa", "data_id": "9"}
    # Each line's number counted anew would take minutes.
    assert time.perf_counter() - before < 20
