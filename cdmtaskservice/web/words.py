"""How things are called and counted on pages."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from cdmtaskservice.domain.states import JobState, RefdataState


@dataclass(frozen=True)
class Look:
    """How a state is shown: a sign and words besides the colour, since not everybody sees colours. tone: of the style
    sheet."""

    sign: str
    words: str
    tone: str
    meaning: str


_S = JobState

JOB_LOOKS: Mapping[JobState, Look] = {
    _S.CREATED: Look("○", "created", "idle", "Accepted; containers wait for their turn"),
    _S.DOWNLOAD_SUBMITTED: Look("↓", "downloading", "move", "Containers fetch their inputs"),
    _S.JOB_SUBMITTING: Look("◔", "starting", "move", "Inputs are verified; the image is being fetched"),
    _S.JOB_SUBMITTED: Look("▶", "running", "run", "The program runs"),
    _S.UPLOAD_SUBMITTING: Look("↑", "uploading", "move", "The program has ended well; outputs are being uploaded"),
    _S.UPLOAD_SUBMITTED: Look("⇑", "uploaded", "move", "Outputs and logs are in S3"),
    _S.COMPLETE: Look("✓", "complete", "good", "Over, all is well"),
    _S.ERROR_PROCESSING_SUBMITTING: Look("⚠", "failing", "warn", "The program has failed; logs are being kept"),
    _S.ERROR_PROCESSING_SUBMITTED: Look("⚠", "logs kept", "warn", "The program has failed; logs are in S3"),
    _S.ERROR: Look("✕", "error", "bad", "Over, with an error"),
    _S.CANCELING: Look("◌", "canceling", "warn", "Containers are being stopped"),
    _S.CANCELED: Look("⊘", "canceled", "idle", "Over, as somebody cancelled it"),
}

REFDATA_LOOKS: Mapping[RefdataState, Look] = {
    RefdataState.CREATED: Look("○", "created", "idle", "It will be brought there"),
    RefdataState.DOWNLOAD_SUBMITTED: Look("↓", "staging", "move", "It is being brought there"),
    RefdataState.COMPLETE: Look("✓", "complete", "good", "It is there"),
    RefdataState.ERROR: Look("✕", "error", "bad", "It could not be brought there"),
}


def look(state: Enum) -> Look:
    """How a state of a job, a container or a staging is shown."""
    if isinstance(state, RefdataState):
        return REFDATA_LOOKS[state]
    assert isinstance(state, JobState)
    return JOB_LOOKS[state]


def size(count: float | None) -> str:
    """Bytes, in decimal units as everywhere in the service."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if round(abs(count)) < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or round(abs(count)) >= 100 else f"{count:.3g} {unit}"


def duration(value: float | datetime.timedelta | None) -> str:
    """A length of time, in at most two units; seconds where it is a number."""
    if value is None:
        return "–"
    seconds = value.total_seconds() if isinstance(value, datetime.timedelta) else float(value)
    if seconds > 0 and round(seconds * 1000) < 1000:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds else "0 s"
    whole = round(seconds)
    for unit, length, below, of_below in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // of_below
            return f"{whole // length} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def ago(then: datetime.datetime, now: datetime.datetime) -> str:
    """How long ago something was, roughly."""
    seconds = (now - then).total_seconds()
    if seconds < 5:
        return "just now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


def moment(time: datetime.datetime | None) -> str:
    """A time, to the second, in UTC."""
    return "–" if time is None else time.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def number(value: float | None, digits: int = 3) -> str:
    """A number, rounded, thousands apart."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}"


def hours(value: float | None) -> str:
    """CPU hours, those of small jobs in seconds too."""
    if value is None:
        return "–"
    return f"{value:,.4g}" if value >= 0.1 else f"{value:.2g} ({value * 3600:.2g} CPU seconds)"


def memory(count: int) -> str:
    """An amount of memory as a request may give it: with a unit where that is exact."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def count(many: int, one: str, more: str = "") -> str:
    """`1 file`, `2 files`."""
    return f"{number(many)} {one if many == 1 else more or one + 's'}"
