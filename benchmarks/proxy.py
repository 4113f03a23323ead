"""Counts the commands that a service sends to its database, from between the two."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Self

_HEADER = 16
_OP_MSG = 2013
# A command is a document whose first key is its name, after the flags of the message, the kind of its section and the
# length of the document and the type of the key.
_NAME_AT = _HEADER + 4 + 1 + 4 + 1
_NAME = re.compile(rb"[A-Za-z]+")
_MONITORING = frozenset({"hello", "ismaster", "isMaster", "ping", "endSessions"})


class CountingProxy:
    """Passes MongoDB's wire protocol on to a server on loopback, and counts commands by name."""

    def __init__(self, port: int) -> None:
        """port: of the database."""
        self._target = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()
        """Commands by name; what drivers send to watch the server is left out."""

    @property
    def uri(self) -> str:
        """For clients that are to be counted."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"mongodb://127.0.0.1:{port}/?directConnection=true"

    @property
    def total(self) -> int:
        """All commands so far."""
        return self.counts.total()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    back = group.create_task(self._pass_on(from_server, writer, counted=False))
                    await self._pass_on(reader, to_server, counted=True)
                    back.cancel()
            finally:
                to_server.close()
        writer.close()

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, counted: bool) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                header = await source.readexactly(_HEADER)
                body = await source.readexactly(int.from_bytes(header[:4], "little") - _HEADER)
                if counted:
                    self._count(header + body)
                target.write(header + body)
                await target.drain()

    def _count(self, message: bytes) -> None:
        name = command_of(message)
        if name is not None and name not in _MONITORING:
            self.counts[name] += 1


def command_of(message: bytes) -> str | None:
    """The name of the command in a message of MongoDB's wire protocol; None where it is of a kind without commands."""
    if int.from_bytes(message[12:16], "little") != _OP_MSG:
        return None
    match = _NAME.match(message, _NAME_AT)
    return match[0].decode() if match else None
