"""What the service asks of whatever knows its users."""

from __future__ import annotations

import re
from typing import Protocol

from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.errors import InvalidTokenError, InvalidUserError

MAX_USER_NAME_LENGTH = 100
MAX_TOKEN_LENGTH = 4096


class Authenticator(Protocol):
    """Knows users by their tokens."""

    async def authenticate(self, token: str) -> Principal:
        """Who the token belongs to, with all roles.

        Raises:
            InvalidTokenError: nobody has this token.
            DependencyUnavailableError: the auth service cannot be asked now.
        """

    async def user_exists(self, user: str, token: str) -> bool:
        """Whether there is a user of this name; `token` is that of the one who wants to know.

        Raises:
            InvalidUserError: nobody could have this name.
            InvalidTokenError: nobody has this token.
            DependencyUnavailableError: the auth service cannot be asked now.
        """

    async def check(self) -> None:
        """Try whether users could be authenticated now.

        Raises:
            DependencyUnavailableError: they could not.
        """

    async def close(self) -> None:
        """Let go of connections."""


def check_user_name(user: str) -> None:
    """Check a user name's syntax, which is that of KBase.

    Raises:
        InvalidUserError: nobody could have this name.
    """
    if len(user) > MAX_USER_NAME_LENGTH:
        raise InvalidUserError(
            f"The user name {user[:MAX_USER_NAME_LENGTH]!a}... has {len(user)} characters, at most"
            f" {MAX_USER_NAME_LENGTH} are allowed"
        )
    if not _USER_NAME.fullmatch(user):
        raise InvalidUserError(f"The user name {user!a} must be of a-z, 0-9 and '_', and start with a letter")


def check_token_syntax(token: str) -> None:
    """Check that a token could be one at all, so that none can break a request or fill the memory.

    Raises:
        InvalidTokenError: it is too long, empty, or not of visible ASCII characters.
    """
    if len(token) > MAX_TOKEN_LENGTH:
        raise InvalidTokenError(f"The token has {len(token)} characters, at most {MAX_TOKEN_LENGTH} can be")
    if not _TOKEN.fullmatch(token):
        raise InvalidTokenError("A token consists of visible ASCII characters without blanks")


_USER_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TOKEN = re.compile(r"[!-~]+")
