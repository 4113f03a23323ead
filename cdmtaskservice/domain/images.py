"""What an administrator says of an image when approving it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, AnyHttpUrl, Field, TypeAdapter

from cdmtaskservice.domain.parameters import StrictModel, check_text
from cdmtaskservice.domain.wording import shown

MAX_URLS = 20
MAX_URL = 2083  # what browsers of old could hold, and so what URLs keep to
MAX_USAGE_NOTES = 10_000

# Notes are prose: lines and tabs are text there, other control characters and unpaired surrogates are not.
_NOT_PROSE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_HTTP_URL: TypeAdapter[AnyHttpUrl] = TypeAdapter(AnyHttpUrl)


def check_http_url(text: str) -> str:
    """An http or https URL exactly as it was given. Raises ValueError where it is none."""
    check_text(text)
    if text != text.strip():
        raise ValueError(f"the URL {shown(text)} has blanks around it: leave them out")
    _HTTP_URL.validate_python(text)
    return text


def check_prose(text: str) -> str:
    """Text of lines. Raises ValueError that names the first character which cannot stand in one."""
    if fault := _NOT_PROSE.search(text):
        raise ValueError(
            f"there is a character that is no text (U+{ord(fault[0]):04X}) at position {fault.start()}: leave it out"
        )
    return text


class ImageApproval(StrictModel):
    """The optional body of `POST /admin/images/{image}`."""

    from_image: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(check_text)] | None = Field(
        default=None,
        description="A registered image whose `urls` and `usage_notes` are taken where this request has none",
        examples=["ghcr.io/kbase/checkm2:1.0.1"],
    )
    urls: tuple[Annotated[str, Field(min_length=1, max_length=MAX_URL), AfterValidator(check_http_url)], ...] | None = (
        Field(
            default=None,
            max_length=MAX_URLS,
            description="Where to read about the image",
            examples=[["https://example.org/tool"]],
        )
    )
    usage_notes: Annotated[str, Field(max_length=MAX_USAGE_NOTES), AfterValidator(check_prose)] | None = Field(
        default=None, description="What users should know", examples=["Needs 20 GB of memory per container"]
    )
