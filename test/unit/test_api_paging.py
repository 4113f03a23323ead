"""Cursors: what is made is read back, and nothing that was not made is taken or breaks anything."""

from __future__ import annotations

import base64
import contextlib
import datetime

from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.api.paging import cursor_after, read_cursor
from cdmtaskservice.domain.errors import IllegalParameterError
from cdmtaskservice.domain.records import Transition
from cdmtaskservice.domain.states import JobState
from test.unit.api_records import job_record

_TIMES = st.datetimes(
    datetime.datetime(1900, 1, 1), datetime.datetime(9999, 12, 31), timezones=st.just(datetime.UTC)
).map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000))


@given(time=_TIMES, job_id=st.text("abcdef0123456789-", min_size=1, max_size=40))
def test_cursors_are_read_back(time: datetime.datetime, job_id: str) -> None:
    job = job_record(job_id, transitions=(Transition(JobState.CREATED, time, "t"),))
    cursor = cursor_after(job)
    assert read_cursor(cursor) == (time, job_id)
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&?# ")


@given(st.one_of(st.text(), st.binary().map(lambda b: base64.urlsafe_b64encode(b).decode().rstrip("="))))
def test_anything_else_is_refused(text: str) -> None:
    with contextlib.suppress(IllegalParameterError):
        read_cursor(text)
