"""Secrets in files that somebody else renews: read again when they change."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from cdmtaskservice.sites.base import SiteUnreachableError


@dataclass(frozen=True)
class SfapiCredentials:
    """A client of SFAPI: its ID, and its private key as PEM or JWK."""

    client_id: str
    key: str = field(repr=False)


class WatchedFile:
    """A file that is read anew whenever it is needed."""

    def __init__(self, path: Path, what: str) -> None:
        """what: it is called in messages."""
        self._path = path
        self._what = what

    def read(self) -> str:
        """The file's text. Raises: SiteUnreachableError, as whoever renews it may be about to."""
        try:
            text = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise SiteUnreachableError(f"The {self._what} in {self._path} cannot be read: {e}") from e
        if not text:
            raise SiteUnreachableError(f"The {self._what} in {self._path} is empty")
        return text

    def read_token(self) -> str:
        """The file's text, which is one word. Raises: SiteUnreachableError, without a part of it."""
        text = self.read()
        if not text.isascii() or not text.isprintable() or " " in text:
            raise SiteUnreachableError(f"The {self._what} in {self._path} is no token: it must be one line of ASCII")
        return text


def parse_credentials(text: str, path: Path) -> SfapiCredentials:
    """The client in a credentials file: its ID in the first line, its private key in the rest.

    Raises: SiteUnreachableError, without a word of the key.
    """
    first, _, key = text.partition("\n")
    client_id = first.strip()
    if not re.fullmatch(r"[\w.-]{1,64}", client_id) or not key.strip():
        raise SiteUnreachableError(
            f"The NERSC credentials in {path} must have the client's ID in the first line, and its private key after it"
        )
    return SfapiCredentials(client_id, key.strip() + "\n")
