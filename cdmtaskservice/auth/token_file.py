"""The file of local tokens: who may come without an auth service.

JSON, `{"tokens": [{"name", "user", "roles", "sha256", "created"}, ...]}`. It holds no tokens but their
SHA-256, which is enough for tokens of 256 random bits. Writing is atomic and one writer waits for the other.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from cdmtaskservice.auth.base import check_user_name
from cdmtaskservice.domain.errors import DependencyUnavailableError, InvalidUserError

TOKEN_PREFIX = "ctsl."  # noqa: S105
"""What every local token starts with."""


class TokenFileError(DependencyUnavailableError):
    """The file of local tokens cannot be used, or not as asked. The client gets 503."""


@dataclass(frozen=True)
class LocalToken:
    """A token as the file knows it.

    name: what tells it from the others, such as `laptop`.
    sha256: the token's hash.
    """

    name: str
    user: str
    roles: frozenset[str]
    created: datetime.datetime
    sha256: bytes


def create_token(file: Path, name: str, user: str, roles: Iterable[str]) -> str:
    """Make a token, note it in the file, which is made if need be, and return it: it cannot be had again.

    Raises:
        TokenFileError: there is a token of this name, a value is not allowed, or the file cannot be used.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    entry = {
        "name": name,
        "user": user,
        "roles": sorted(set(roles)),
        "sha256": token_hash(token).hex(),
        "created": datetime.datetime.now(datetime.UTC),
    }
    try:
        new = _Entry.model_validate(entry)
    except ValidationError as e:
        raise TokenFileError(f"The new token {name!a} is not possible: {_faults(e)}") from None
    with _locked(file):
        entries = _read(file).tokens if file.exists() else []
        if any(e.name == name for e in entries):
            raise TokenFileError(f"{file} has a token named {name!a} already; revoke it first, or take another name")
        _write(file, _File(tokens=[*entries, new]))
    return token


def revoke_token(file: Path, name: str) -> None:
    """Take a token out of the file.

    Raises:
        TokenFileError: there is no token of this name, or the file cannot be used.
    """
    with _locked(file):
        entries = _read(file).tokens
        left = [e for e in entries if e.name != name]
        if len(left) == len(entries):
            names = ", ".join(ascii(e.name) for e in entries) or "none"
            raise TokenFileError(f"{file} has no token named {name!a}; it has {names}")
        _write(file, _File(tokens=left))


def list_tokens(file: Path) -> tuple[LocalToken, ...]:
    """The tokens of the file, in its order.

    Raises:
        TokenFileError: the file is missing, unreadable or malformed; the message names entry and field.
    """
    return tuple(
        LocalToken(e.name, e.user, frozenset(e.roles), e.created, bytes.fromhex(e.sha256)) for e in _read(file).tokens
    )


def token_hash(token: str) -> bytes:
    """The hash by which the file knows a token."""
    return hashlib.sha256(token.encode()).digest()


def _user_name(value: str) -> str:
    try:
        check_user_name(value)
    except InvalidUserError as e:
        raise ValueError(e.message) from None
    return value


_Name = Annotated[str, Field(pattern=re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z"))]
_Role = Annotated[str, Field(pattern=re.compile(r"^[!-~]{1,100}\Z"))]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: _Name
    user: Annotated[str, AfterValidator(_user_name)]
    roles: list[_Role]
    sha256: Annotated[str, Field(pattern=re.compile(r"^[0-9a-f]{64}\Z"))]
    created: AwareDatetime


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: list[_Entry]


def _read(file: Path) -> _File:
    try:
        read = _File.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise TokenFileError(f"The token file {file} is missing; create a first token to make it") from None
    except OSError as e:
        raise TokenFileError(f"The token file {file} cannot be read: {e.strerror or e}") from e
    except ValidationError as e:
        raise TokenFileError(f"The token file {file} is malformed: {_faults(e)}") from None
    names: set[str] = set()
    for entry in read.tokens:
        if entry.name in names:
            raise TokenFileError(f"The token file {file} is malformed: it has two tokens named {entry.name!a}")
        names.add(entry.name)
    return read


def _faults(error: ValidationError) -> str:
    """What is wrong with which field. Values are left out, since a hash or a mistaken token could be one."""
    faults = error.errors(include_input=False, include_url=False, include_context=False)
    shown = [f"{_place(f['loc'])}{f['msg']}" for f in faults[:5]]
    return "; ".join(shown) + ("; and more" if len(faults) > 5 else "")


def _place(location: tuple[int | str, ...]) -> str:
    # ("tokens", 0, "user") is the field user of the first entry.
    words = [f"entry {part + 1}" if isinstance(part, int) else part for part in location if part != "tokens"]
    return ", ".join(words) + ": " if words else ""


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep other writers out. The lock lies beside the file, since the file itself is replaced."""
    try:
        lock = os.open(file.with_name(file.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise TokenFileError(f"The token file {file} cannot be changed: {e.strerror or e}") from e
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(file: Path, content: _File) -> None:
    """Replace the file at once and for good: a crash leaves the old one or the new one."""
    try:
        _replace(file, (content.model_dump_json(indent=2) + "\n").encode())
    except OSError as e:
        raise TokenFileError(f"The token file {file} cannot be written: {e.strerror or e}") from e


def _replace(file: Path, content: bytes) -> None:
    # Made with mode 0600.
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(name, file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
