"""What a page says after something was done, by a word in its query: never a text from there, and on no other page."""

from __future__ import annotations

import re
from collections.abc import Mapping

_JOB = re.compile(r"/(?:admin/)?jobs/[^/]+")
_ADMIN_JOB = re.compile(r"/admin/jobs/[^/]+")
_REFDATA = re.compile(r"/admin/refdata/[^/]+")
_CLEANED = re.compile(r"/admin/(?:jobs|refdata)/[^/]+")
_IMAGES = re.compile("/admin/images")
_SITES = re.compile("/sites")
_SIGN_IN = re.compile("/sign-in")

_NOTICES: Mapping[str, tuple[re.Pattern[str], str]] = {
    "submitted": (_JOB, "The job is submitted."),
    "canceling": (_JOB, "The job is being cancelled."),
    "approved": (_IMAGES, "The image is approved."),
    "withdrawn": (_IMAGES, "The approval is withdrawn. Jobs that have the image go on."),
    "registered": (_REFDATA, "The reference data is registered, and is brought to the sites."),
    "recovered": (_REFDATA, "It is staged anew."),
    "cleaned": (_CLEANED, "What was left is being removed."),
    "retired": (_REFDATA, "The reference data is retired, and is removed at every site."),
    "opened": (_SITES, "The site is open for new jobs."),
    "closed": (_SITES, "The site is closed for new jobs. Those that it has go on."),
    "noted": (_ADMIN_JOB, "The notes are changed."),
    "published": (_ADMIN_JOB, "The message is published once more."),
    "signed-out": (_SIGN_IN, "You are signed out."),
}


def notice(word: str, section: str) -> str | None:
    """What the page at this path below that of the pages says for a word; None where it is not about that."""
    pages, text = _NOTICES.get(word, (None, ""))
    return text if pages is not None and pages.fullmatch(section) else None
