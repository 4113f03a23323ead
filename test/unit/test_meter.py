"""What a call's end says of the system that was called."""

from __future__ import annotations

import asyncio

import pytest

from cdmtaskservice.domain.errors import DependencyUnavailableError, NoSuchS3PathError
from cdmtaskservice.meter import UNMETERED, Metered
from test.stand_ins.noted_meter import NotedMeter


class SaidNo(DependencyUnavailableError):
    """What a system says, though it is an error that delays."""


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (DependencyUnavailableError("away"), "error"),
        (NoSuchS3PathError("no such file"), "refused"),
        (SaidNo("no"), "refused"),
        (TimeoutError(), "error"),
        (asyncio.CancelledError(), "canceled"),
        (ValueError("a fault of ours"), "error"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_what_is_raised_is_what_counts(error: BaseException, outcome: str) -> None:
    meter = NotedMeter()
    with pytest.raises(type(error)), Metered(meter, "s3", "head_object", (SaidNo,)):
        raise error
    assert meter.calls == {("s3", "head_object", outcome): 1}


def test_what_is_answered_counts_as_ok_unless_the_caller_knows_better() -> None:
    meter = NotedMeter()
    with Metered(meter, "auth", "me"):
        pass
    with Metered(meter, "auth", "me") as call:
        call.outcome = "refused"
    assert meter.calls == {("auth", "me", "ok"): 1, ("auth", "me", "refused"): 1}


def test_nobody_need_count() -> None:
    with Metered(UNMETERED, "s3", "head_object"):
        UNMETERED.looked("job", "done", 1.0, None)
        UNMETERED.left_state("local", "created", 1.0)
        UNMETERED.reported("local", "claim")
