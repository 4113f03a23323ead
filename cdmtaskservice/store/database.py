"""The connection to MongoDB, its indexes, and how its faults are told to the rest of the service."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, Self, TypeVar

import structlog
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    WTimeoutError,
)

from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.meter import UNMETERED, Meter
from cdmtaskservice.store.listeners import listeners

P = ParamSpec("P")
R = TypeVar("R")

_log = structlog.get_logger(__name__)

TRANSIENT = (
    AutoReconnect,
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    WTimeoutError,
)
"""Faults that say nothing of the request: the server was away, changing, or slow."""


class StoreUnavailableError(DependencyUnavailableError):
    """The database does not answer, so it is not known whether a write took place. The client gets 503."""


def store_call(method: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Make an async method of the store raise StoreUnavailableError where the database was away."""

    @functools.wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(*args, **kwargs)
        except TRANSIENT as e:
            _log.warning("database_unavailable", call=method.__qualname__, error=str(e)[:500])
            raise StoreUnavailableError("The database does not answer now; try again later") from e

    return call


INDEXES: dict[str, list[tuple[list[tuple[str, int]], dict[str, Any]]]] = {
    "jobs": [
        ([("next_look", 1)], {}),
        ([("owed", 1), ("updated", 1)], {}),
        ([("idempotency", 1)], {"unique": True, "sparse": True}),
        ([("user", 1), ("updated", -1), ("id", -1)], {}),
        ([("updated", -1), ("id", -1)], {}),
        ([("site", 1), ("state", 1)], {}),
        ([("waiting", 1)], {}),
        ([("refdata", 1)], {"sparse": True}),
    ],
    "containers": [([("job", 1), ("n", 1)], {"unique": True})],
    "files": [([("job", 1), ("kind", 1), ("n", 1), ("chunk", 1)], {"unique": True})],
    "pending": [([("at", 1)], {}), ([("refdata", 1)], {"sparse": True})],
    "claims": [([("job", 1)], {})],
    "images": [
        ([("tagged", 1)], {"unique": True, "sparse": True}),
        ([("registered_on", -1)], {}),
        ([("refdata_id", 1)], {"sparse": True}),
    ],
    "refdata": [
        ([("current", 1)], {"unique": True, "sparse": True}),
        ([("file", 1)], {}),
        ([("registered_on", -1)], {}),
        ([("retiring", 1)], {"sparse": True}),
        ([("retiring_at", 1)], {"sparse": True}),
    ],
    "log_wants": [([("until", 1)], {})],
    "log_pieces": [([("log", 1), ("attempt", 1), ("offset", 1)], {})],
    "stagings": [
        ([("next_look", 1)], {}),
        ([("refdata", 1)], {}),
        ([("errand.open", 1), ("site", 1)], {"sparse": True}),
    ],
}
"""By collection: an index for every query that the service makes."""


class Database:
    """One client to one database. Collections are plain attributes of the driver's database object."""

    def __init__(self, client: Any, name: str) -> None:
        """client: an asynchronous client of a MongoDB driver; `connect` makes the service's own."""
        self._client = client
        self.db: Any = client[name]

    @classmethod
    def connect(cls, uri: str, name: str, timeout: float, meter: Meter = UNMETERED) -> Self:
        """A client that finds its server when it is first needed.

        timeout: seconds for finding a server, and for half of the longest answer.
        """
        millis = int(timeout * 1000)
        client: Any = AsyncIOMotorClient(
            uri,
            serverSelectionTimeoutMS=millis,
            connectTimeoutMS=millis,
            socketTimeoutMS=2 * millis,
            w="majority",
            journal=True,
            appname="cdmtaskservice",
            maxPoolSize=32,
            event_listeners=listeners(meter),
        )
        return cls(client, name)

    @store_call
    async def check(self) -> None:
        """Raises: StoreUnavailableError."""
        await self._client.admin.command("ping")

    @store_call
    async def create_indexes(self) -> None:
        """Idempotent. Raises: StoreUnavailableError."""
        for collection, indexes in INDEXES.items():
            for keys, options in indexes:
                await self.db[collection].create_index(keys, **options)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
