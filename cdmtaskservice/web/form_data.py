"""What a form has sent: fields of text, as browsers encode them."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from starlette.exceptions import HTTPException


@dataclass(frozen=True)
class Sent:
    """The fields of a form; each may be there several times."""

    fields: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, body: bytes, most: int) -> Self:
        """Read a body of `application/x-www-form-urlencoded` with at most so many fields. Raises: HTTPException."""
        try:
            fields = urllib.parse.parse_qs(
                body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=most
            )
        except ValueError:
            raise HTTPException(400, "The form cannot be read; send it from its page") from None
        return cls(fields)

    def text(self, name: str) -> str:
        """A field, the last of that name, with line ends as here; empty where there is none."""
        return lines_as_here(self.fields.get(name, [""])[-1])

    def __contains__(self, name: object) -> bool:
        return name in self.fields


def whole_number(text: str, digits: int = 9) -> int | None:
    """A number of so many digits at most, as it stands in a path or a query; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else None


def lines_as_here(text: str) -> str:
    """A text of a form, in which browsers end lines with CR and LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
