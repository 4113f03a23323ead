"""Users of a service without an auth service: named tokens in a file."""

from __future__ import annotations

import asyncio
import hmac
import os
from pathlib import Path

import structlog

from cdmtaskservice.auth.base import check_token_syntax, check_user_name
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.auth.token_file import LocalToken, TokenFileError, list_tokens, token_hash
from cdmtaskservice.domain.errors import InvalidTokenError

_log = structlog.get_logger(__name__)


class LocalAuthenticator:
    """Knows the tokens of a file as it is now: a new or revoked token counts from the next request on.

    A file that becomes malformed or goes away leaves the tokens as they were last, and a log entry.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tokens: tuple[LocalToken, ...] = ()
        self._read_at: _Stamp | None = None
        self._loaded = False
        self._reading = asyncio.Lock()

    async def authenticate(self, token: str) -> Principal:
        """Who the token belongs to.

        Raises:
            InvalidTokenError: the file has no such token.
            TokenFileError: the file could not be read even once.
        """
        check_token_syntax(token)
        await self._refresh()
        wanted = token_hash(token)
        # All are compared, whichever fits, so that time tells nothing about the hashes.
        fitting = [known for known in self._tokens if hmac.compare_digest(known.sha256, wanted)]
        if not fitting:
            raise InvalidTokenError("There is no such token: it is wrong, or was revoked")
        return Principal(fitting[0].user, fitting[0].roles)

    async def user_exists(self, user: str, token: str) -> bool:
        """Whether any token belongs to a user of this name; whose `token` it is does not matter here.

        Raises:
            InvalidUserError: nobody could have this name.
            TokenFileError: the file could not be read even once.
        """
        check_user_name(user)
        await self._refresh()
        return any(known.user == user for known in self._tokens)

    async def check(self) -> None:
        """Read the file.

        Raises:
            TokenFileError: it is missing, unreadable or malformed.
        """
        await asyncio.to_thread(list_tokens, self._file)
        await self._refresh()

    async def close(self) -> None:
        """There is nothing to let go of."""

    async def _refresh(self) -> None:
        """Read the file again if it is another than the one that was read last."""
        if self._loaded and _stamp(self._file) == self._read_at:
            return
        async with self._reading:
            stamp = await asyncio.to_thread(_stamp, self._file)
            if self._loaded and stamp == self._read_at:
                return
            try:
                # The stamp is older than what is read, so a change in between is seen the next time.
                self._tokens = await asyncio.to_thread(list_tokens, self._file)
            except TokenFileError as e:
                if not self._loaded:
                    raise
                _log.error("token_file_unusable", reason=e.message, tokens_kept=len(self._tokens))
            else:
                self._loaded = True
                _log.info("token_file_read", file=str(self._file), tokens=len(self._tokens))
            self._read_at = stamp


_Stamp = tuple[int, int, int]


def _stamp(file: Path) -> _Stamp | None:
    """What changes with the file: a replaced one has another inode, an edited one another time or size."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
