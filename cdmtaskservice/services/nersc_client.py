"""The client of NERSC's Superfacility API with which the service works, and how long it is still good for."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cdmtaskservice.domain.clock import Clock
from cdmtaskservice.domain.errors import ClientLifetimeError, UnsupportedOperationError


@dataclass(frozen=True)
class ClientLifetime:
    """A client, when it expires, and in how long that is."""

    id: str
    expires_at: datetime.datetime
    expires_in: datetime.timedelta


class NerscClient:
    """Asks NERSC about the service's own client."""

    def __init__(self, ask: Callable[[], Awaitable[tuple[str, datetime.datetime]]] | None, clock: Clock) -> None:
        """ask: gives the client's ID and when it expires; None where no site needs NERSC."""
        self._ask = ask
        self._clock = clock

    async def lifetime(self, required: datetime.timedelta | None = None) -> ClientLifetime:
        """The client's lifetime.

        Raises: ClientLifetimeError where it is shorter than required, UnsupportedOperationError where there is no
        client, DependencyUnavailableError.
        """
        if self._ask is None:
            raise UnsupportedOperationError("No site of this service uses NERSC, so there is no client")
        client_id, expires_at = await self._ask()
        left = max(expires_at - self._clock(), datetime.timedelta())
        if required is not None and left < required:
            raise ClientLifetimeError(
                f"require_lifetime: the NERSC client {client_id} expires at {expires_at.isoformat()}, in "
                f"{left.total_seconds():.0f} seconds, and {required.total_seconds():.0f} are required; renew it"
            )
        return ClientLifetime(client_id, expires_at, left)
