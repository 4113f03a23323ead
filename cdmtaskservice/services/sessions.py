"""Sessions of people at the pages: begun with a token, kept by the browser, and stored nowhere."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.auth.session_seal import SessionSeal
from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import InvalidTokenError
from cdmtaskservice.services.authentication import Authentication

LIFETIME = datetime.timedelta(hours=12)
"""A working day; then the token is asked for again."""


@dataclass(frozen=True)
class Session:
    """Who is there. token: with which the auth service is asked in their name."""

    user: Principal
    is_admin: bool
    token: str = field(repr=False)


class Sessions:
    """Begins sessions and finds them again."""

    def __init__(self, authentication: Authentication, seal: SessionSeal, clock: Clock) -> None:
        self._authentication = authentication
        self._seal = seal
        self._clock = clock

    async def begin(self, token: str) -> str:
        """What the browser is to keep, for `LIFETIME`. Raises: InvalidTokenError, DependencyUnavailableError."""
        await self._session(token)
        return self._seal.seal(token, self._clock() + LIFETIME)

    async def resume(self, kept: str) -> Session:
        """The session of which a browser keeps this. The token is looked at each time, so that one which was revoked
        ends its sessions. Raises: InvalidTokenError, DependencyUnavailableError."""
        return await self._session(self._seal.open(kept, self._clock()))

    def form_mark(self, kept: str) -> str:
        """What a form carries that was made for the browser which keeps this."""
        return self._seal.form_mark(kept)

    def is_form_mark(self, mark: str, kept: str) -> bool:
        """Whether a form was made by this service for that browser."""
        return self._seal.is_form_mark(mark, kept)

    async def _session(self, token: str) -> Session:
        caller = await self._authentication.principal(token)
        if not isinstance(caller, Principal):
            raise InvalidTokenError("That is a container's token; sign in with your own")
        return Session(caller, self._authentication.is_admin(caller), token)
