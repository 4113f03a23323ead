"""Reading the settings file and the environment, and saying all that is wrong with them at once."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

from cdmtaskservice.settings.models import Settings
from cdmtaskservice.settings.section import ENV_PREFIX, AllSettings
from cdmtaskservice.settings.template import RenderedTemplate, render_template

_MASK = "********"
_LIST_SECTIONS = frozenset({"sites"})
Location = tuple[str | int, ...]
T = TypeVar("T", bound=AllSettings)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the settings.

    setting: its dotted name, such as `s3.part_size`; the file or the variable where it is no setting's fault.
    value: what it was set to, as text; None where it is secret, may be secret, or is not one value.
    """

    setting: str
    wrong: str
    todo: str
    value: str | None = None

    def __str__(self) -> str:
        head = self.setting if self.value is None else f"{self.setting} = {self.value}"
        todo = f" {self.todo[:1].upper()}{self.todo[1:]}" if self.todo else ""
        return f"{head}: {self.wrong}.{todo}"


class SettingsError(Exception):
    """The settings cannot be used. Carries every problem that was found, none of which shows a secret."""

    def __init__(self, file: Path, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{file}: {count}:\n" + "\n".join(f"  - {p}" for p in problems))


@dataclass(frozen=True)
class SettingsFile:
    """A settings file as read: its text with the template filled, and the tables in it. Both hold secrets."""

    text: str
    data: Mapping[str, object]


def load_settings(file: Path, environ: Mapping[str, str]) -> Settings:
    """The service's settings in `file`, see `load`."""
    return load(Settings, file, environ)


def load(root: type[T], file: Path, environ: Mapping[str, str]) -> T:
    """The settings in `file`, with `KBCTS_<SECTION>__<KEY>` of `environ` put over them.

    root: which settings, of the service or of something beside it.

    file: TOML (`.toml`), or a template of TOML (`.jinja`) that sees the variables `KBCTS_*` of `environ`.

    Raises SettingsError with all problems at once.
    """
    problems, rendered, data = _read(file, environ)
    if data is None:
        raise SettingsError(file, problems)
    unset = dict(_unset_settings(data, rendered))
    problems += _missing_variables(rendered, unset)
    overrides, origins = _overrides(root, environ, problems)
    for key in [k for k in data if k.startswith("_")]:
        # pydantic-settings would take these for its own arguments.
        problems.append(_unknown_key(root, (key,)))
    merged = _merge({k: v for k, v in data.items() if not k.startswith("_")}, overrides)
    try:
        settings = root.model_validate(merged)
    except ValidationError as exc:
        problems += _validation_problems(root, exc, origins, set(unset))
    else:
        if not problems:
            return settings
    raise SettingsError(file, problems)


def read_settings_file(file: Path, environ: Mapping[str, str]) -> SettingsFile:
    """The file with its template filled, not yet checked against the settings that there are.

    Raises SettingsError where the file cannot be read, is no TOML, or uses variables that are not set.
    """
    problems, rendered, data = _read(file, environ)
    problems += _missing_variables(rendered, dict(_unset_settings(data or {}, rendered)))
    if problems or data is None:
        raise SettingsError(file, problems)
    return SettingsFile(rendered.text, data)


def mask_secrets(data: Mapping[str, object]) -> dict[str, object]:
    """A copy for showing: secrets are masked, and so is every key that is no setting, since nobody knows what it is."""
    masked = _masked(data, ())
    assert isinstance(masked, dict)
    return masked


def _read(file: Path, environ: Mapping[str, str]) -> tuple[list[Problem], RenderedTemplate, dict[str, object] | None]:
    rendered = RenderedTemplate("", {}, {}, ())
    try:
        text = file.read_text("utf-8")
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        return [Problem(str(file), f"cannot be read: {reason}", "name a readable file")], rendered, None
    except UnicodeDecodeError as exc:
        return [Problem(str(file), f"is not UTF-8 at byte {exc.start}", "save it as UTF-8")], rendered, None
    if file.suffix == ".jinja":
        visible = {k: v for k, v in environ.items() if k.startswith(ENV_PREFIX)}
        rendered = render_template(text, visible)
    elif file.suffix == ".toml":
        rendered = RenderedTemplate(text, {}, {}, ())
    else:
        wrong = "ends in neither .toml nor .jinja"
        return [Problem(str(file), wrong, "name it .toml, or .toml.jinja for a template")], rendered, None
    problems = [Problem(str(file), fault, "correct the template") for fault in rendered.faults]
    if problems:
        return problems + _missing_variables(rendered, {}), rendered, None
    try:
        return problems, rendered, tomllib.loads(rendered.text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        wrong = f"is not TOML: {exc}" if isinstance(exc, ValueError) else "is nested too deeply"
        if file.suffix == ".jinja":
            wrong += ", as counted after the template was filled"
        problems.append(Problem(str(file), wrong, "correct the file"))
        return problems + _missing_variables(rendered, {}), rendered, None


def _unset_settings(data: object, rendered: RenderedTemplate) -> Iterator[tuple[Location, tuple[str, ...]]]:
    """Which settings hold tokens of which missing variables."""
    if not rendered.missing:
        return
    token = re.compile("|".join(re.escape(t) for t in rendered.missing))

    def walk(value: object, at: Location) -> Iterator[tuple[Location, tuple[str, ...]]]:
        if isinstance(value, str):
            if tokens := token.findall(value):
                yield at, tuple(rendered.missing[t] for t in tokens)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(inner, (*at, key))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                yield from walk(inner, (*at, index))

    yield from walk(data, ())


def _missing_variables(rendered: RenderedTemplate, unset: Mapping[Location, Sequence[str]]) -> list[Problem]:
    problems = []
    for name in dict.fromkeys(rendered.missing.values()):
        used_in = [_dotted(at) for at, names in unset.items() if name in names]
        line = f", named on line {rendered.lines[name]}," if name in rendered.lines else ""
        if name.startswith(ENV_PREFIX):
            wrong = f"the environment variable {name}{line} is not set"
            todo = f'set it, or give a default in the template: {{{{ {name} | default("...") }}}}'
        else:
            wrong = f"the template uses {name}{line} but sees only variables that begin with {ENV_PREFIX}"
            todo = f"rename the variable to {ENV_PREFIX}{name.upper()}"
        problems += [Problem(setting, wrong, todo) for setting in used_in or [name]]
    return problems


class _GivenEnvironment(EnvSettingsSource):
    """pydantic-settings' reading of the environment, over the variables given and with no exception of its own."""

    def __init__(self, root: type[AllSettings], variables: Mapping[str, str]) -> None:
        super().__init__(root)
        self.env_vars = variables

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: str | bytes | bytearray) -> object:
        """JSON where it is JSON; anything else stays text, and validation says what is wrong with it."""
        try:
            decoded: object = json.loads(value)
        except ValueError:
            return value
        # A list of one number, say, is no JSON list: `5` is as good as text.
        return decoded if isinstance(decoded, (list, dict)) else value


def _overrides(
    root: type[AllSettings], environ: Mapping[str, str], problems: list[Problem]
) -> tuple[dict[str, object], dict[Location, str]]:
    """What the environment sets, and the variable that set each. Unknown sections are added to `problems`."""
    variables: dict[str, str] = {}
    origins: dict[Location, str] = {}
    for name, value in environ.items():
        section, found, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if not name.startswith(ENV_PREFIX) or not found or not section:
            continue
        known = [s for s in root.model_fields if s not in _LIST_SECTIONS]
        if section in _LIST_SECTIONS:
            problems.append(
                Problem(name, f"{section} cannot be set by the environment", "use a template of the settings file")
            )
        elif section not in known:
            problems.append(Problem(name, f"there is no section {section}", _instead(section, known)))
        else:
            variables[name.lower()] = value
            origins[(section, *key.split("__"))] = name
    overrides = dict(_GivenEnvironment(root, variables)())
    for at, name in origins.items():
        if not _reaches(overrides, at):
            problems.append(Problem(name, f"there is no setting {_dotted(at)}", "correct or unset the variable"))
    return overrides, origins


def _reaches(tables: object, location: Location) -> bool:
    for part in location:
        if not isinstance(tables, Mapping) or part not in tables:
            return False
        tables = tables[part]
    return True


def _merge(under: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key, {})
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _validation_problems(
    root: type[BaseModel], exc: ValidationError, origins: Mapping[Location, str], unset: Set[Location]
) -> Iterator[Problem]:
    """All that validation found, but for what only follows from something else that is reported."""
    errors = [(_without_tags(e["loc"]), e) for e in exc.errors(include_url=False)]
    for location, error in errors:
        has_no_value = any(location[: len(at)] == at for at in unset)
        lost_its_items = error["type"] == "too_short" and any(
            other[: len(location)] == location != other for other, _ in errors
        )
        if not has_no_value and not lost_its_items:
            yield _problem_of(root, error, origins)


def _problem_of(root: type[BaseModel], error: ErrorDetails, origins: Mapping[Location, str]) -> Problem:
    location, field = _without_tags(error["loc"]), _field_at(root, error["loc"])
    setting, kind = _dotted(location), error["type"]
    if origin := origins.get(location):
        setting += f" (from {origin})"
    if kind == "extra_forbidden":
        return _unknown_key(root, error["loc"], setting)
    if kind == "union_tag_invalid":
        expected = error["ctx"]["expected_tags"].replace("'", "")
        wrong = "is no kind of site that there is"
        return Problem(f"{setting}.kind", wrong, f"use one of: {expected}", _shown(error["ctx"]["tag"]))
    if kind == "union_tag_not_found":
        return Problem(f"{setting}.kind", "is missing", f"use one of: {', '.join(sorted(_site_kinds()))}")
    described = " ".join((field.description if field and field.description else "").split())
    if kind == "missing":
        return Problem(setting, "is missing", f"add it: {described}" if described else "add it")
    secret = field is None or _is_secret(field)
    wrong = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    if kind == "too_short":
        least = error["ctx"]["min_length"]
        one = "character" if isinstance(error["input"], (str, SecretStr)) else "item"
        wrong = f"must have at least {least} {one}{'s' if least != 1 else ''}"
    wrong = wrong[:1].lower() + wrong[1:]
    return Problem(setting, wrong, described, None if secret else _shown(error["input"]))


def _unknown_key(root: type[BaseModel], location: Location, setting: str | None = None) -> Problem:
    parents = _models_at(root, location[:-1])
    known = sorted({name for model in parents for name in model.model_fields})
    return Problem(setting or _dotted(_without_tags(location)), "is no setting", _instead(str(location[-1]), known))


def _instead(name: str, known: Sequence[str]) -> str:
    if close := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {close[0]}?"
    return f"remove it; there are {', '.join(known)}"


def _shown(value: object) -> str | None:
    """A single value as it would stand in the file, shortened; None for tables and lists."""
    if not isinstance(value, (str, int, float)):
        return None
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value).lower()
    text = re.sub(r"//[^/\s]*@", "//...@", text)
    return text if len(text) <= 100 else text[:100] + "..."


def _dotted(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"


def _site_kinds() -> set[str]:
    kinds: set[str] = set()
    for model in _models_in(Settings.model_fields["sites"].annotation):
        literal: object = model.model_fields["kind"].annotation
        kinds.update(get_args(literal))
    return kinds


def _without_tags(location: Location) -> Location:
    """The location without the kind that pydantic puts behind the number of a site."""
    if len(location) > 2 and location[0] == "sites" and location[2] in _site_kinds():
        return location[:2] + location[3:]
    return location


def _models_at(root: type[BaseModel], location: Location) -> list[type[BaseModel]]:
    """The models that a table at this location may have; several for a site of any kind."""
    if not location:
        return [root]
    field = _field_at(root, location)
    return list(_models_in(field.annotation)) if field else []


def _field_at(root: type[BaseModel], location: Location) -> FieldInfo | None:
    """The setting at this location, or that holds the list which the location points into."""
    models: list[type[BaseModel]] = [root]
    field = None
    for part in _without_tags(location):
        if isinstance(part, int):
            continue
        field = next((m.model_fields[part] for m in models if part in m.model_fields), None)
        if field is None:
            return None
        models = list(_models_in(field.annotation))
    return field


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _is_secret(field: FieldInfo) -> bool:
    """Whether its value may be secret: it is, or it is a whole table where a single value must be a mistake."""

    def holds_secret(annotation: object) -> bool:
        return annotation is SecretStr or any(holds_secret(inner) for inner in get_args(annotation))

    return holds_secret(field.annotation) or any(_models_in(field.annotation))


def _masked(value: object, at: Location) -> object:
    if isinstance(value, Mapping):
        return {key: _masked(inner, (*at, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, (*at, index)) for index, inner in enumerate(value)]
    field = _field_at(Settings, at)
    return _MASK if field is None or _is_secret(field) else value
