"""Replies as frozen dataclasses.

A field's annotation says how it is read: times become aware datetimes, durations timedeltas, lists tuples. What a newer
service sends besides is kept in `raw`, and nothing breaks of it.
"""

from __future__ import annotations

import datetime
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self, TypeVar

from cdmtaskservice.client.errors import UnexpectedReply

T = TypeVar("T")

_DURATION = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d{1,9})?)S)?)?"
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """Base of what the service sends."""

    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What the service has sent, with fields that this client does not know."""

    @classmethod
    def read(cls, raw: object) -> Self:
        """Of a JSON object. Raises UnexpectedReply where a field is missing, or is not what it must be."""
        if not isinstance(raw, Mapping):
            raise UnexpectedReply(f"The service has sent a {type(raw).__name__} instead of {cls.__name__}")
        values: dict[str, Any] = {}
        for name, (reader, needed) in _fields_of(cls).items():
            value = raw.get(name)
            if value is None:
                if needed:
                    raise UnexpectedReply(f"The service has sent {cls.__name__} without {name}")
                continue
            try:
                values[name] = reader(value)
            except (ValueError, TypeError, OverflowError):
                raise UnexpectedReply(f"The service has sent {cls.__name__} with an odd {name}") from None
        return cls(**values, raw=raw)


def read_list(model: type[M], raw: Any, name: str) -> list[M]:
    """The models in the list `name` of a JSON object. Raises UnexpectedReply."""
    return [model.read(entry) for entry in member(raw, name, list)]


def member(raw: Any, name: str, kind: type[T]) -> T:
    """What a JSON object has under `name`. Raises UnexpectedReply where it is missing, or of another type."""
    found = raw.get(name) if isinstance(raw, Mapping) else None
    if not isinstance(found, kind):
        raise UnexpectedReply(f"The service has sent a reply without {name}")
    return found


def parse_time(text: str) -> datetime.datetime:
    """A time of ISO 8601, in UTC where it has no timezone. Raises ValueError."""
    time = datetime.datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


def parse_duration(value: str | float) -> datetime.timedelta:
    """A duration of seconds, or of ISO 8601 in weeks, days, hours, minutes and seconds. Raises ValueError."""
    if not isinstance(value, str):
        return datetime.timedelta(seconds=value)
    match = _DURATION.fullmatch(value)
    parts = {name: float(n) for name, n in match.groupdict().items() if n is not None} if match else {}
    if not parts:
        raise ValueError(f"{value!r} is no duration")
    return datetime.timedelta(**parts)


_known: dict[type[Model], Mapping[str, tuple[Callable[[Any], Any], bool]]] = {}


def _fields_of(model: type[Model]) -> Mapping[str, tuple[Callable[[Any], Any], bool]]:
    """By field how it is read, and whether it must be there."""
    if model not in _known:
        _known[model] = _found_fields(model)
    return _known[model]


def _found_fields(model: type[Model]) -> Mapping[str, tuple[Callable[[Any], Any], bool]]:
    hints = typing.get_type_hints(model)
    return {
        f.name: (_reader(hints[f.name]), f.default is MISSING and f.default_factory is MISSING)
        for f in fields(model)
        if f.name != "raw" and f.init
    }


def _reader(hint: Any) -> Callable[[Any], Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        kinds = [a for a in arguments if a is not type(None)]
        return _reader(kinds[0]) if len(kinds) == 1 else _either(kinds)
    if origin is tuple:
        entry = _reader(arguments[0])
        return lambda value: tuple(entry(v) for v in _checked(value, list))
    if origin in {dict, Mapping} or hint is dict:
        entry = _reader(arguments[1]) if arguments else _as_it_is
        return lambda value: {str(k): entry(v) for k, v in _checked(value, dict).items()}
    if hint is datetime.datetime:
        return lambda value: parse_time(_checked(value, str))
    if hint is datetime.timedelta:
        return parse_duration
    if isinstance(hint, type) and issubclass(hint, Model):
        return hint.read
    if hint is float:
        return float
    if hint in {str, int, bool}:
        return lambda value: _checked(value, hint)
    return _as_it_is


def _either(kinds: list[Any]) -> Callable[[Any], Any]:
    """A model where it is an object, else what it is."""
    models = [k for k in kinds if isinstance(k, type) and issubclass(k, Model)]
    return lambda value: models[0].read(value) if models and isinstance(value, dict) else value


def _as_it_is(value: Any) -> Any:
    return value


def _checked(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(kind.__name__)
    return value


M = TypeVar("M", bound=Model)
