"""Amounts of memory, durations and times, as requests give them and replies show them.

| type | Python | a request gives | a reply shows |
|---|---|---|---|
| `Memory` | int, bytes | bytes, or a number with a decimal unit, `"10MB"`, `"1.5 GB"` | an integer of bytes |
| `Runtime` | timedelta | seconds, or an ISO 8601 duration, `"PT5M"` | the shortest ISO 8601, `"PT5M"` |
| `UtcTime` | aware datetime, UTC | ISO 8601 with a timezone | ISO 8601 in UTC with `Z` |
"""

from __future__ import annotations

import datetime
import math
import re
from decimal import Decimal
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from cdmtaskservice.domain.wording import shown

MIN_MEMORY = 1_000_000
MAX_MEMORY = 2**63 - 1  # the largest integer that the store holds
MIN_RUNTIME = datetime.timedelta(seconds=1)

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGTPE", start=1):
    _UNITS[_letter] = _UNITS[f"{_letter}B"] = 1000**_power
    _UNITS[f"{_letter}IB"] = 1024**_power

_MEMORY = re.compile(r"([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})\s*([A-Za-z]{0,3})")
# Years and months have no length; everything else is pydantic's to read.
_CALENDAR = re.compile(r"[+-]?P[^T]*[YM]", re.IGNORECASE)


def parse_memory(value: object) -> int:
    """An amount of memory in bytes.

    value: a number of bytes, or text: a number, a fraction allowed, and a unit: `B`, the decimal `K`, `M`, `G`, `T`,
        `P`, `E` with or without `B`, or the binary `KiB` and so on. The case does not matter and blanks are allowed.
        Fractions of a byte are dropped.

    Raises ValueError for anything else, and where it is less than 1 MB or more than the store's largest integer.
    """
    size = _bytes(value)
    if size < MIN_MEMORY:
        raise ValueError(f"memory of {shown(value)} is {size} bytes: at least 1MB ({MIN_MEMORY} bytes) is needed")
    if size > MAX_MEMORY:
        raise ValueError(f"memory of {shown(value)} is more than the largest possible {MAX_MEMORY} bytes")
    return size


def memory_in_words(size: float) -> str:
    """`900 GB (900000000000 bytes)`."""
    for power, unit in ((5, "PB"), (4, "TB"), (3, "GB"), (2, "MB")):
        if size >= 1000**power:
            return f"{size / 1000**power:.4g} {unit} ({size:.0f} bytes)"
    return f"{size:.0f} bytes"


def runtime_in_words(seconds: float) -> str:
    """`2 hours (7200 seconds)`."""
    for length, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.4g} {unit} ({seconds:.12g} seconds)"
    return f"{seconds:.12g} seconds"


def format_duration(duration: datetime.timedelta) -> str:
    """The shortest ISO 8601 form in whole days, hours, minutes and seconds: `PT5M`, `PT1M30S`, `PT0.5S`, `P1DT1H`.

    Never years, months or weeks. `duration` must not be negative; microseconds are kept.
    """
    minutes, seconds = divmod(duration.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{duration.microseconds:06}".rstrip("0") if duration.microseconds else ""
    date = f"{duration.days}D" if duration.days else ""
    time = f"{hours}H" if hours else ""
    time += f"{minutes}M" if minutes else ""
    time += f"{seconds}{fraction}S" if seconds or fraction else ""
    if not date and not time:
        return "PT0S"
    return f"P{date}{f'T{time}' if time else ''}"


def to_utc(time: datetime.datetime) -> datetime.datetime:
    """An aware time in UTC. Raises ValueError where it lies outside of the years 1 to 9999 there."""
    try:
        return time.astimezone(datetime.UTC)
    except OverflowError:
        raise ValueError(f"the time {time.isoformat()} lies outside of the years 1 to 9999 in UTC") from None


def _bytes(value: object) -> int:
    if isinstance(value, str):
        return _bytes_of_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"memory must be a number of bytes or text such as '10MB', not {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"memory must be a finite number of bytes, not {value}")
    return int(value)


def _bytes_of_text(text: str) -> int:
    match = _MEMORY.fullmatch(text.strip())
    factor = _UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(
            f"memory of {shown(text)} is not understood: give a number of bytes, or a number with a decimal unit, such "
            "as '10MB' or '2GB'"
        )
    return int(Decimal(match[1]) * factor)


def _read_duration(value: object, read: ValidatorFunctionWrapHandler) -> datetime.timedelta:
    if isinstance(value, bool):
        raise ValueError(f"a duration must be seconds or ISO 8601 such as 'PT5M', not {value}")
    if isinstance(value, str) and _CALENDAR.match(value):
        raise ValueError(
            f"the duration {shown(value)} has years or months, whose length is not fixed: give days, hours, minutes or "
            "seconds; minutes stand behind a T, as in 'PT5M'"
        )
    try:
        duration: datetime.timedelta = read(value)
    except ValidationError:
        raise ValueError(
            f"the duration {shown(value)} is not understood: give seconds, or ISO 8601 such as 'PT1H'"
        ) from None
    return duration


def _not_negative(duration: datetime.timedelta) -> datetime.timedelta:
    if duration < datetime.timedelta():
        raise ValueError(f"a duration of {duration.total_seconds()} s is negative: it must be 0 or more")
    return duration


def _at_least_a_second(duration: datetime.timedelta) -> datetime.timedelta:
    if duration < MIN_RUNTIME:
        raise ValueError(f"a runtime of {duration.total_seconds()} s is too short: at least 1 second is needed")
    return duration


Memory = Annotated[
    int,
    BeforeValidator(parse_memory),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": MIN_MEMORY, "maximum": MAX_MEMORY},
                {"type": "string", "examples": ["10MB", "2GB"]},
            ]
        },
        mode="validation",
    ),
]

_ISO_DURATION = WithJsonSchema({"type": "string", "format": "duration", "examples": ["PT5M"]}, mode="serialization")
_AS_ISO = PlainSerializer(format_duration, return_type=str, when_used="json")

Duration = Annotated[
    datetime.timedelta,
    WrapValidator(_read_duration, json_schema_input_type=Annotated[float, Field(ge=0)] | datetime.timedelta),
    AfterValidator(_not_negative),
    _AS_ISO,
    _ISO_DURATION,
]
"""A duration of no least length, zero included."""

Runtime = Annotated[
    datetime.timedelta,
    WrapValidator(_read_duration, json_schema_input_type=Annotated[float, Field(ge=1)] | datetime.timedelta),
    AfterValidator(_at_least_a_second),
    _AS_ISO,
    _ISO_DURATION,
]

UtcTime = Annotated[AwareDatetime, AfterValidator(to_utc)]
