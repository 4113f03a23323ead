"""What says where the next page of a list of jobs begins. Opaque to clients: nothing but the last job that they saw."""

from __future__ import annotations

import base64
import datetime
import re

from cdmtaskservice.domain.errors import IllegalParameterError
from cdmtaskservice.domain.records import JobRecord
from cdmtaskservice.domain.wording import shown

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND = datetime.timedelta(milliseconds=1)
_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,400}")
_CONTENT = re.compile(r"(-?[0-9]{1,15}) ([!-~]{1,200})")


def cursor_after(job: JobRecord) -> str:
    """The cursor of the page that begins after `job`."""
    content = f"{(job.updated - _EPOCH) // _MILLISECOND} {job.id}"
    return base64.urlsafe_b64encode(content.encode()).rstrip(b"=").decode()


def read_cursor(cursor: str) -> tuple[datetime.datetime, str]:
    """The last state change and the ID of the job that a cursor was made of.

    Raises: IllegalParameterError where it was not made by `cursor_after`.
    """
    try:
        if not _CURSOR.fullmatch(cursor):
            raise ValueError("not in base64 for URLs")
        content = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        match = _CONTENT.fullmatch(content)
        if match is None:
            raise ValueError("not a time and a job ID")
        return _EPOCH + int(match[1]) * _MILLISECOND, match[2]
    except (ValueError, OverflowError):
        raise IllegalParameterError(
            f"The cursor {shown(cursor)} was not made by this service: give the next_cursor of the last page as it is"
        ) from None
