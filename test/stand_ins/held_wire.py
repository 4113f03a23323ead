"""A way to a server on loopback on which a test can hold up what the server sends."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

_PIECE = 1 << 16


class HeldWire:
    """Passes TCP connections on. Of what the server sends, `after` bytes go through; the rest waits for `release`."""

    def __init__(self, port: int, after: int) -> None:
        """port: of the server."""
        self._target = port
        self._left = after
        self._released = asyncio.Event()
        self.held = asyncio.Event()
        """Set once so much has gone through."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """For clients."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def release(self) -> None:
        """Hold nothing up any more."""
        self._released.set()

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
        there_writer: asyncio.StreamWriter | None = None
        try:
            there, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ways = [
                asyncio.create_task(self._pass_on(reader, there_writer, held=False)),
                asyncio.create_task(self._pass_on(there, writer, held=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the server is away, and so is this connection
        finally:
            for end in (writer, there_writer):
                if end is not None:
                    end.close()
            self._tasks.discard(task)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, held: bool) -> None:
        with suppress(OSError):
            while data := await source.read(_PIECE):
                if held:
                    self._left -= len(data)
                    if self._left < 0:
                        self.held.set()
                        await self._released.wait()
                target.write(data)
                await target.drain()
