"""Reading the Authorization header."""

from __future__ import annotations

import re

from cdmtaskservice.domain.errors import InvalidAuthHeaderError


def parse_authorization(value: str | None) -> str | None:
    """The token of a header value `Bearer TOKEN`, or None where the request has no such header.

    The messages never repeat the value: whoever forgot the scheme has sent a secret.

    Raises:
        InvalidAuthHeaderError: another scheme, no token, or something that cannot be one.
    """
    if value is None:
        return None
    scheme, _, token = value.strip(" \t").partition(" ")
    token = token.strip(" \t")
    if scheme.lower() != "bearer":
        raise InvalidAuthHeaderError("The Authorization header must be of the scheme Bearer: 'Bearer TOKEN'")
    if not token:
        raise InvalidAuthHeaderError("The Authorization header has no token after 'Bearer'")
    if not _TOKEN.fullmatch(token):
        raise InvalidAuthHeaderError(
            "The token in the Authorization header may only consist of visible ASCII characters without blanks"
        )
    return token


_TOKEN = re.compile(r"[!-~]+")
