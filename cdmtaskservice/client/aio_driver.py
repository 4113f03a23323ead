"""Carries flows out in an event loop of asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

import httpx

from cdmtaskservice.client.effects import Do, Effect, Emit, Flow, Items, NetworkFault, Open, Pause, Read, Send, Spread
from cdmtaskservice.client.http import Wire, client_settings, fault_of, reply_of
from cdmtaskservice.client.requests import Reply, Request

T = TypeVar("T")


class AsyncDriver:
    """See the module.

    transport: of httpx's, for tests and unusual networks. sleep: waits for seconds.
    """

    def __init__(
        self,
        wire: Wire,
        transport: httpx.AsyncBaseTransport | None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._wire = wire
        self._sleep = sleep
        self._service = httpx.AsyncClient(transport=transport, **client_settings())
        self._store = httpx.AsyncClient(transport=transport, **client_settings())

    async def close(self) -> None:
        """Close all connections."""
        await self._service.aclose()
        await self._store.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """What the flow comes to."""
        found: list[T] = []
        async with aclosing(self._steps(flow, found.append)) as steps:
            async for _ in steps:
                raise AssertionError("a flow with a result has given an item")
        return found[0]

    async def iterate(self, items: Items[T]) -> AsyncIterator[T]:
        """The items of the flow, each when it comes."""
        async with aclosing(self._steps(items, lambda _: None)) as steps:
            async for item in steps:
                yield item

    async def _steps(self, flow: Any, result: Callable[[Any], None]) -> Any:
        stream = _Stream(self)
        answer: Any = None
        fault: Exception | None = None
        try:
            while True:
                try:
                    effect = flow.send(answer) if fault is None else flow.throw(fault)
                except StopIteration as end:
                    result(end.value)
                    return
                answer = fault = None
                if isinstance(effect, Emit):
                    yield effect.item
                    continue
                try:
                    answer = await self._carry_out(effect, stream)
                except Exception as e:  # whatever went wrong is for the flow to know
                    fault = e
        finally:
            flow.close()
            await stream.close()

    async def _carry_out(self, effect: Effect, stream: _Stream) -> Any:
        match effect:
            case Send(request):
                response = await self.response(request, stream=False)
                return reply_of(response, response.content)
            case Open(request):
                return await stream.open(request)
            case Read():
                return await stream.read()
            case Pause(seconds):
                return await self._sleep(seconds)
            case Do(function):
                return await asyncio.to_thread(function)
            case Spread(flows, at_once):
                return await self._spread(flows, at_once)

    async def response(self, request: Request, *, stream: bool) -> httpx.Response:
        """Of the service, or of a store. Raises NetworkFault."""
        client = self._service if request.url is None else self._store
        try:
            return await client.send(self._wire.service_request(client, request), stream=stream)
        except httpx.RequestError as e:
            raise fault_of(e) from None

    async def _spread(self, flows: Iterator[Flow[Any]], at_once: int) -> None:
        async def work() -> None:
            for flow in flows:
                await self.run(flow)

        tasks = [asyncio.create_task(work()) for _ in range(at_once)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Stream:
    """What a flow has open."""

    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] = _nothing()

    async def open(self, request: Request) -> Reply:
        await self.close()
        response = await self._driver.response(request, stream=True)
        self._response = response
        if response.status_code >= 300:
            try:
                return reply_of(response, await response.aread())
            except httpx.RequestError as e:
                raise fault_of(e) from None
            finally:
                await self.close()
        # What a store has encoded is the file itself, and its checksum is of these bytes.
        raw = request.url is not None and not response.is_stream_consumed
        self._chunks = response.aiter_raw() if raw else response.aiter_bytes()
        return reply_of(response)

    async def read(self) -> bytes | None:
        try:
            return await anext(self._chunks, None)
        except httpx.RequestError as e:
            raise fault_of(e) from None
        except httpx.StreamError:
            raise NetworkFault("the connection was closed", arrived=True) from None

    async def close(self) -> None:
        if self._response is not None:
            await self._response.aclose()
        self._response = None
        self._chunks = _nothing()


async def _nothing() -> AsyncIterator[bytes]:
    for _ in range(0):
        yield b""
