"""How times, durations and sizes are written for people."""

from __future__ import annotations

import datetime
import re

import typer

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def time_shown(time: datetime.datetime) -> str:
    """To the second, in UTC."""
    return f"{time.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S}Z"


def duration_shown(seconds: float) -> str:
    """With two units at most: `1 d 2 h`, `3 min 5 s`, `4.2 s`."""
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def size_shown(size: float) -> str:
    """In decimal units: `1.5 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 100 else f"{size:,.0f} TB"


def read_seconds(text: str) -> float:
    """A number of seconds, or with a unit: `90`, `90s`, `15m`, `2h`, `1d`. Wrong usage otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time span: write seconds, or such as 90s, 15m, 2h, 1d")
    return float(match[1]) * _UNITS[match[2] or ""]


def read_time(text: str) -> datetime.datetime:
    """A date or a time of ISO 8601; without a timezone it is this machine's. Wrong usage otherwise."""
    try:
        time = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write it as 2030-01-31, or 2030-01-31T12:00:00Z") from None
    return time.astimezone(datetime.UTC)
