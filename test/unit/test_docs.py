"""The documentation holds what it says: examples are run, tables are compared with the code, links lead somewhere."""

import datetime
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cdmtaskservice.domain.arguments import PlacedFile, Rendered, check_renderable, render
from cdmtaskservice.domain.errors import ErrorType
from cdmtaskservice.domain.jobs import InputFile, JobInput
from cdmtaskservice.domain.parameters import (
    InputFilesFormat,
    ManifestFileFormat,
    Parameter,
    Parameters,
    ParameterType,
    ParameterWithFlag,
)
from cdmtaskservice.domain.placement import place_inputs, split_files
from cdmtaskservice.domain.records import Transition
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.events.kafka import message
from cdmtaskservice.settings import Settings
from cdmtaskservice.settings.sites import LocalSite
from cdmtaskservice.store.database import INDEXES
from test.unit.metrics_page import SYSTEMS, full_page, kinds

REPO = Path(__file__).parents[2]
DOCS = sorted([REPO / "README.md", REPO / "CHANGELOG.md", *(REPO / "docs").rglob("*.md")])
GUIDE = (REPO / "docs/user-guide.md").read_text(encoding="utf-8")
ADMIN = (REPO / "docs/admin-guide.md").read_text(encoding="utf-8")

EXAMPLE_FILES = [("cts-data/ann/a.fa", "id-a"), ("cts-data/ann/b.fa", "id-b"), ("cts-data/ann/c.fa", "id-c")]
"""The input files of the guide's tables of parameters, with their data IDs; over two containers."""


@dataclass(frozen=True)
class Block:
    """A fenced block: the words behind its fence, and its text."""

    words: tuple[str, ...]
    text: str


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    found = re.findall(r"^```(\w[^\n]*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(tuple(words.split()), text) for words, text in found]


def table(page: str, name: str) -> list[list[str]]:
    """The rows of the table under the mark `checked: name`, cells without the backquotes around them."""
    _, mark, rest = page.partition(f"<!-- checked: {name} -->\n")
    assert mark, f"there is no table {name}"
    lines = list(itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines()))
    assert len(lines) > 2, f"the table {name} is empty"
    return [[re.sub(r"^`(.*)`$", r"\1", cell.strip()) for cell in line.strip("|").split("|")] for line in lines[2:]]


def jobs() -> dict[str, JobInput]:
    """The jobs of the guide by name."""
    return {b.words[2]: JobInput.model_validate_json(b.text) for b in blocks(GUIDE) if b.words[:2] == ("json", "job")}


def started_with(job: JobInput, container: int) -> tuple[Rendered, list[PlacedFile]]:
    """What a container of a job gets, as the service finds it out."""
    places = place_inputs(job.files, job.input_roots or ())
    placed = [PlacedFile(p, f.data_id) for p, f in zip(places, job.input_files, strict=True)]
    check_renderable(job.params, placed, job.num_containers)
    share = split_files(len(placed), job.num_containers)[container]
    files = placed[share.start : share.stop]
    return render(job.params, container, files), files


def shown() -> list[tuple[str, str, int, str]]:
    """(what, job, container, text) of every block that shows what a container gets."""
    kinds = {"args", "environment", "files", "manifest"}
    return [(b.words[1], b.words[2], int(b.words[3]), b.text) for b in blocks(GUIDE) if kinds & set(b.words[1:2])]


def example(parameters: dict[str, Any], container: int) -> Rendered:
    """What a container gets in the job of the guide's tables of parameters."""
    share = split_files(len(EXAMPLE_FILES), 2)[container]
    files = [PlacedFile(path.rpartition("/")[2], data_id) for path, data_id in EXAMPLE_FILES]
    return render(Parameters.model_validate(parameters), container, files[share.start : share.stop])


def test_every_job_has_its_arguments_shown():
    assert set(jobs()) == {job for what, job, _, _ in shown() if what == "args"} != set()


@pytest.mark.parametrize(("what", "job", "container", "text"), shown(), ids=lambda v: str(v)[:15].replace("\n", " "))
def test_containers_get_what_is_shown(what: str, job: str, container: int, text: str):
    asked = jobs()[job]
    rendered, files = started_with(asked, container)
    real = {
        "args": "".join(f"{a}\n" for a in rendered.args),
        "environment": "".join(f"{name}={value}\n" for name, value in rendered.environment.items()),
        "files": "".join(f"{asked.params.input_mount_point}/{f.path}\n" for f in files),
        "manifest": rendered.manifest.content if rendered.manifest else "",
    }
    assert text == real[what]


@pytest.mark.parametrize("row", table(GUIDE, "arguments"), ids=lambda row: row[0])
def test_arguments(row: list[str]):
    parameter, *expected = row
    for container, arguments in enumerate(expected):
        assert list(example({"args": [json.loads(parameter)]}, container).args) == json.loads(arguments)


@pytest.mark.parametrize("row", table(GUIDE, "environment"), ids=lambda row: row[0])
def test_environment(row: list[str]):
    parameter, *expected = row
    for container, value in enumerate(expected):
        rendered = example({"environment": {"DATA": json.loads(parameter)}}, container)
        assert rendered.environment == {"DATA": json.loads(value)}


def test_every_legal_parameter_is_in_the_tables():
    assert {_kind(json.loads(row[0])) for row in table(GUIDE, "arguments")} == set(_legal(ParameterWithFlag))
    assert {_kind(json.loads(row[0])) for row in table(GUIDE, "environment")} == set(_legal(Parameter))


def _kind(parameter: dict[str, str]) -> tuple[str | None, ...]:
    """What tells parameters apart: the flag counts by whether it joins."""
    flag = parameter.get("flag")
    sort = None if flag is None else "=" if flag.endswith("=") else " "
    formats = (parameter.get("input_files_format"), parameter.get("manifest_file_format"))
    return parameter["type"], *formats, sort


def _legal(model: type[ParameterWithFlag | Parameter]) -> Iterator[tuple[str | None, ...]]:
    """All kinds that the model takes."""
    flags = (None, "-i", "--in=") if "flag" in model.model_fields else (None,)
    lists = [{"type": "input_files", "input_files_format": f.value} for f in InputFilesFormat]
    manifests = [{"type": "manifest_file", "manifest_file_format": f.value} for f in ManifestFileFormat]
    assert {p["type"] for p in (*lists, *manifests, {"type": "container_number"})} == {t.value for t in ParameterType}
    for parameter, flag in itertools.product((*lists, *manifests, {"type": "container_number"}), flags):
        candidate = parameter if flag is None else {**parameter, "flag": flag}
        try:
            model.model_validate(candidate)
        except ValidationError:
            continue
        yield _kind(candidate)


@pytest.mark.parametrize("row", table(GUIDE, "placement"), ids=lambda row: f"{row[0]} {row[1]}")
def test_placement(row: list[str]):
    roots, file, place = row
    wanted = None if roots == "none" else json.loads(roots)
    params: dict[str, Any] = {"cluster": "c", "image": "i", "params": {}, "output_dir": "cts-data/out"}
    job = JobInput.model_validate({**params, "input_files": [file], "input_roots": wanted})
    assert place_inputs(job.files, job.input_roots or ()) == [place]


@pytest.mark.parametrize("row", table(GUIDE, "splitting"), ids=lambda row: f"{row[0]} over {row[1]}")
def test_splitting(row: list[str]):
    files, containers, shares = row
    assert [len(r) for r in split_files(int(files), int(containers))] == [int(n) for n in shares.split(",")]


@pytest.mark.parametrize("model", [JobInput, InputFile, Parameters])
def test_every_field_is_described(model: type[JobInput | InputFile | Parameters]):
    assert {row[0] for row in table(GUIDE, f"fields {model.__name__}")} == set(model.model_fields)


def test_defaults_are_the_models():
    job = next(iter(jobs().values()))
    defaults = {row[0]: row[2] for row in table(GUIDE, "fields JobInput")}
    fields = type(job).model_fields
    assert int(defaults["num_containers"]) == fields["num_containers"].default
    assert int(defaults["cpus"]) == fields["cpus"].default
    assert int(defaults["gpus"]) == fields["gpus"].default
    assert defaults["memory"] == f"{fields['memory'].default // 10**6} MB"
    assert defaults["runtime"] == f"{fields['runtime'].default.total_seconds():g} s"
    mounts = {row[0]: row[1] for row in table(GUIDE, "fields Parameters") if row[1]}
    plain = Parameters().model_dump(mode="json")
    assert mounts.pop("declobber") == json.dumps(plain["declobber"])
    assert mounts == {name: plain[name] for name in mounts}


def test_every_state_is_explained_in_order():
    assert [row[0] for row in table(GUIDE, "states")] == [s.value for s in _states_as_told()]


def _states_as_told() -> list[JobState]:
    errors = [s for s in JobState if s.value.startswith("error")]
    ends = [JobState.CANCELING, JobState.CANCELED]
    return [*(s for s in JobState if s not in {*errors, *ends}), *errors, *ends]


def test_every_error_is_in_the_table():
    told = [(int(code), text, int(status)) for code, text, status, *_ in table(GUIDE, "errors")]
    assert told == [(e.code, e.text, int(e.status)) for e in ErrorType]


def test_the_kafka_message_has_the_real_fields():
    [block] = [b for b in blocks(GUIDE) if b.words == ("json", "kafka")]
    body = json.loads(block.text)
    time = TypeAdapter(datetime.datetime).validate_python(body["time"])
    assert json.loads(message(body["job_id"], Transition(JobState(body["state"]), time, body["trans_id"]))) == body


def test_the_error_is_one():
    from cdmtaskservice.api.models import ErrorReply

    [block] = [b for b in blocks(GUIDE) if b.words == ("json", "error")]
    error = ErrorReply.model_validate_json(block.text).error
    kind = next(e for e in ErrorType if e.code == error.appcode)
    assert (error.httpcode, error.httpstatus, error.apperror) == (kind.status, kind.status.phrase, kind.text)


@pytest.mark.parametrize("page", DOCS, ids=lambda p: str(p.relative_to(REPO)))
def test_code_in_pages_can_be_read(page: Path):
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.words[0] == "python":
            compile(block.text, str(page), "exec")
        elif block.words[0] == "json":
            json.loads(block.text)


@pytest.mark.parametrize("page", DOCS, ids=lambda p: str(p.relative_to(REPO)))
def test_links_lead_somewhere(page: Path):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in _anchors(file.read_text(encoding="utf-8")), f"{page.name} links to {link}"


def _anchors(text: str) -> set[str]:
    """The anchors that headings make, as Git hosts name them."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", DOCS, ids=lambda p: str(p.relative_to(REPO)))
def test_requests_that_pages_name_exist(page: Path):
    routes = {
        f"{method.upper()} {re.sub(r'{[^}]*}', '*', path)}"
        for path, methods in json.loads((REPO / "test/openapi.json").read_text(encoding="utf-8"))["paths"].items()
        for method in methods
    }
    routes |= {"GET /docs", "GET /openapi.json"}
    below = "/external_exec/jobs/*/container/*"
    for method, path in re.findall(r"`(GET|PUT|POST|DELETE) (/[^`\s?]*)[^`]*`", page.read_text(encoding="utf-8")):
        named = f"{method} {re.sub(r'{[^}]*}', '*', path)}"
        relative = f"{method} {below}{re.sub(r'{[^}]*}', '*', path)}"
        assert named in routes or relative in routes, f"{page.name} names {method} {path}"


def _settings() -> set[str]:
    """All settings, dotted; those of sites by `sites`."""
    names = {f"sites.{name}" for name in LocalSite.model_fields}
    for section, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {})
        names |= {f"{section}.{name}" for name in inner}
        names |= {f"auth.roles.{name}" for name in getattr(inner.get("roles"), "annotation", Settings).model_fields}
    return names


@pytest.mark.parametrize("page", DOCS, ids=lambda p: str(p.relative_to(REPO)))
def test_settings_that_pages_name_exist(page: Path):
    sections = "|".join(Settings.model_fields)
    named = re.findall(rf"`((?:{sections})\.[a-z_.]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if name not in _settings() and not name.endswith((".py", ".toml"))] == []


def test_every_section_of_the_settings_is_described():
    assert {row[0] for row in table(ADMIN, "settings")} == set(Settings.model_fields)


def test_every_role_is_described():
    defaults = Settings.model_fields["auth"].annotation.model_fields["roles"].default
    wanted = {f"auth.roles.{name}": value for name, value in defaults.model_dump().items()}
    told = {row[0]: row[1] for row in table(ADMIN, "roles")}
    assert told == {name: value[0] if isinstance(value, tuple) else value for name, value in wanted.items()}


def test_every_collection_is_described():
    assert {row[0] for row in table(ADMIN, "collections")} == {*INDEXES, "sites"}


def test_every_metric_is_described():
    told = [name for row in table(ADMIN, "metrics") for name in re.findall(r"cts_\w+", row[0])]
    assert sorted(told) == sorted(kinds(full_page()))
    systems = next(row[1] for row in table(ADMIN, "metrics") if row[0] == "cts_external_call_seconds")
    assert re.findall(r"`(\w+)`", systems.partition("(")[2].partition(")")[0]) == list(SYSTEMS)


def test_log_events_that_the_guide_names_exist():
    code = "".join(p.read_text(encoding="utf-8") for p in (REPO / "cdmtaskservice").rglob("*.py"))
    _, _, named = ADMIN.partition("Of note: ")
    events = re.findall(r"`([a-z0-9_]+)`", named.partition("\n\n")[0])
    assert len(events) > 5
    assert [e for e in events if f'"{e}"' not in code] == []


def test_every_decision_is_listed_and_whole():
    folder = REPO / "docs/decisions"
    listed = set(re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8")))
    assert listed == {p.name for p in folder.glob("0*.md")}
    for page in folder.glob("0*.md"):
        headings = re.findall(r"^## (\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequence"], page.name
