from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cdmtaskservice.domain.quantities import (
    Duration,
    Memory,
    Runtime,
    UtcTime,
    format_duration,
    memory_in_words,
    runtime_in_words,
)

MEMORY: TypeAdapter[int] = TypeAdapter(Memory)
RUNTIME: TypeAdapter[datetime.timedelta] = TypeAdapter(Runtime)
DURATION: TypeAdapter[datetime.timedelta] = TypeAdapter(Duration)
TIME: TypeAdapter[datetime.datetime] = TypeAdapter(UtcTime)


@pytest.mark.parametrize(
    ("given_", "size"),
    [
        (1_000_000, 1_000_000),
        ("1000000", 1_000_000),
        ("10MB", 10_000_000),
        ("10 mb", 10_000_000),
        (" 10MB ", 10_000_000),
        ("10M", 10_000_000),
        ("2GB", 2_000_000_000),
        ("1.5GB", 1_500_000_000),
        (".5GB", 500_000_000),
        ("0.3333333333GB", 333_333_333),
        ("2000KB", 2_000_000),
        ("1TB", 10**12),
        ("1PB", 10**15),
        ("1EB", 10**18),
        ("2000000B", 2_000_000),
        ("10MiB", 10 * 2**20),
        (1e7, 10_000_000),
    ],
)
def test_memory_in_every_form(given_: object, size: int) -> None:
    assert MEMORY.validate_python(given_) == size
    assert MEMORY.dump_json(size) == str(size).encode()


@pytest.mark.parametrize(
    "given_",
    [
        999_999,
        "0.99MB",
        0,
        -5,
        "-10MB",
        "",
        "MB",
        "10XB",
        "10Mbit",
        "10MB junk",
        "1e7",
        "٣٠MB",
        "9" * 5000,
        "100EB",
        2**63,
        pytest.param(10**5000, id="huge"),
        1e300,
        float("nan"),
        float("inf"),
        True,
        None,
        [],
        {},
        "10M\ud800",
    ],
)
def test_memory_that_is_refused(given_: object) -> None:
    with pytest.raises(ValidationError):
        MEMORY.validate_python(given_)


def test_memory_messages_show_the_value_and_what_to_give() -> None:
    with pytest.raises(ValidationError, match=r"'10 bananas' is not understood.*'10MB'"):
        MEMORY.validate_python("10 bananas")
    with pytest.raises(ValidationError, match=r"'1KB' is 1000 bytes: at least 1MB"):
        MEMORY.validate_python("1KB")


@pytest.mark.parametrize(
    ("given_", "seconds", "shown"),
    [
        (1, 1, "PT1S"),
        (60, 60, "PT1M"),
        (90, 90, "PT1M30S"),
        (1.5, 1.5, "PT1.5S"),
        (300, 300, "PT5M"),
        ("PT5M", 300, "PT5M"),
        ("PT300S", 300, "PT5M"),
        ("PT3H", 10800, "PT3H"),
        ("PT1.5H", 5400, "PT1H30M"),
        ("PT90000S", 90000, "P1DT1H"),
        ("P1D", 86400, "P1D"),
        ("P1W", 604800, "P7D"),
        ("P365D", 31536000, "P365D"),
        ("P1DT2H3M4.000005S", 93784.000005, "P1DT2H3M4.000005S"),
        ("00:05:00", 300, "PT5M"),
        (datetime.timedelta(hours=3), 10800, "PT3H"),
    ],
)
def test_runtime_in_every_form(given_: object, seconds: float, shown: str) -> None:
    runtime = RUNTIME.validate_python(given_)
    assert runtime.total_seconds() == seconds
    assert RUNTIME.dump_json(runtime) == f'"{shown}"'.encode()
    assert RUNTIME.validate_python(shown) == runtime


@pytest.mark.parametrize(
    "given_",
    [
        0,
        0.999,
        -60,
        "-PT5M",
        "PT0S",
        "P5M",
        "P1Y",
        "P1Y2M",
        "P1M1D",
        "P",
        "",
        "5 minutes",
        "PT",
        True,
        None,
        [],
        float("nan"),
        float("inf"),
        1e300,
        pytest.param(10**5000, id="huge"),
        "PT99999999999999999999H",
        "PT\ud800",
    ],
)
def test_runtimes_that_are_refused(given_: object) -> None:
    with pytest.raises(ValidationError):
        RUNTIME.validate_python(given_)


@pytest.mark.parametrize("kind", [RUNTIME, DURATION])
@pytest.mark.parametrize("given_", ["1h", "PT", "", None, [60]])
def test_what_is_no_duration_is_told_what_to_write(kind: TypeAdapter[datetime.timedelta], given_: object) -> None:
    with pytest.raises(ValidationError, match=r"is not understood: give seconds, or ISO 8601 such as 'PT1H'"):
        kind.validate_python(given_)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (900_000_000_000, "900 GB (900000000000 bytes)"),
        (1_500_000, "1.5 MB (1500000 bytes)"),
        (2_000_000_000_000, "2 TB (2000000000000 bytes)"),
        (512, "512 bytes"),
    ],
)
def test_memory_in_words(size: int, words: str) -> None:
    assert memory_in_words(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (60, "60 seconds"),
        (1.5, "1.5 seconds"),
        (3600, "60 minutes (3600 seconds)"),
        (86_400, "24 hours (86400 seconds)"),
        (604_800, "7 days (604800 seconds)"),
    ],
)
def test_a_runtime_in_words(seconds: float, words: str) -> None:
    assert runtime_in_words(seconds) == words


def test_months_are_taken_for_the_slip_that_they_are() -> None:
    with pytest.raises(ValidationError, match=r"'P5M' has years or months.*'PT5M'"):
        RUNTIME.validate_python("P5M")


def test_durations_may_be_short_but_not_negative() -> None:
    assert DURATION.dump_json(DURATION.validate_python(0)) == b'"PT0S"'
    assert DURATION.dump_json(DURATION.validate_python("PT0.5S")) == b'"PT0.5S"'
    with pytest.raises(ValidationError, match="negative"):
        DURATION.validate_python(-1)


@given(st.timedeltas(min_value=datetime.timedelta(), max_value=datetime.timedelta(days=999_999)))
def test_any_duration_reads_back_from_its_iso_form(duration: datetime.timedelta) -> None:
    assert DURATION.validate_python(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z"),
        ("2026-01-02T03:04:05.125-00:30", "2026-01-02T03:34:05.125000Z"),
    ],
)
def test_times_are_shown_in_utc(given_: str, shown: str) -> None:
    time = TIME.validate_python(given_)
    assert time.utcoffset() == datetime.timedelta()
    assert TIME.dump_json(time) == f'"{shown}"'.encode()


@pytest.mark.parametrize(
    "given_", ["2026-01-02T03:04:05", "2026-01-02", "soon", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00"]
)
def test_times_without_a_zone_or_outside_of_the_calendar_are_refused(given_: str) -> None:
    with pytest.raises(ValidationError):
        TIME.validate_python(given_)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None, categories=None)),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=4,
    )
)
def test_junk_is_a_validation_error_and_nothing_else(junk: Any) -> None:
    adapters: list[TypeAdapter[Any]] = [MEMORY, RUNTIME, DURATION, TIME]
    for adapter in adapters:
        try:
            value = adapter.validate_python(junk)
        except ValidationError:
            continue
        assert adapter.validate_json(adapter.dump_json(value)) == value
