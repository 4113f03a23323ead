"""Carries flows out, one step after the other, in the thread that asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx

from cdmtaskservice.client.effects import Do, Effect, Emit, Flow, Items, NetworkFault, Open, Pause, Read, Send, Spread
from cdmtaskservice.client.http import Wire, client_settings, fault_of, reply_of
from cdmtaskservice.client.requests import Reply, Request

T = TypeVar("T")


class Driver:
    """See the module. May be used by several threads at once.

    transport: of httpx's, for tests and unusual networks. sleep: waits for seconds, or until the event is set.
    """

    def __init__(
        self,
        wire: Wire,
        transport: httpx.BaseTransport | None,
        sleep: Callable[[float, threading.Event], object] = lambda seconds, stop: stop.wait(seconds),
    ) -> None:
        self._wire = wire
        self._sleep = sleep
        self._service = httpx.Client(transport=transport, **client_settings())
        self._store = httpx.Client(transport=transport, **client_settings())

    def close(self) -> None:
        """Close all connections."""
        self._service.close()
        self._store.close()

    def run(self, flow: Flow[T]) -> T:
        """What the flow comes to."""
        found: list[T] = []
        for _ in self._steps(flow, found.append, threading.Event()):
            raise AssertionError("a flow with a result has given an item")
        return found[0]

    def iterate(self, items: Items[T]) -> Iterator[T]:
        """The items of the flow, each when it comes."""
        yield from self._steps(items, _ignore, threading.Event())

    def _steps(self, flow: Any, result: Callable[[Any], None], stop: threading.Event) -> Iterator[Any]:
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
                if stop.is_set():
                    return
                try:
                    answer = self._carry_out(effect, stream, stop)
                except Exception as e:  # whatever went wrong is for the flow to know
                    fault = e
        finally:
            stream.close()
            flow.close()

    def _carry_out(self, effect: Effect, stream: _Stream, stop: threading.Event) -> Any:
        match effect:
            case Send(request):
                response = self.response(request, stream=False)
                return reply_of(response, response.content)
            case Open(request):
                return stream.open(request)
            case Read():
                return stream.read()
            case Pause(seconds):
                return self._sleep(seconds, stop)
            case Do(function):
                return function()
            case Spread(flows, at_once):
                return self._spread(flows, at_once)

    def response(self, request: Request, *, stream: bool) -> httpx.Response:
        """Of the service, or of a store. Raises NetworkFault."""
        client = self._service if request.url is None else self._store
        try:
            return client.send(self._wire.service_request(client, request), stream=stream)
        except httpx.RequestError as e:
            raise fault_of(e) from None

    def _spread(self, flows: Iterator[Flow[Any]], at_once: int) -> None:
        lock, stop = threading.Lock(), threading.Event()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                while not stop.is_set():
                    with lock:
                        flow = next(flows, None)
                    if flow is None:
                        return
                    for _ in self._steps(flow, _ignore, stop):
                        raise AssertionError("a flow with a result has given an item")
            except BaseException as e:  # told to whoever waits for all
                errors.append(e)
                stop.set()

        threads = [threading.Thread(target=work, daemon=True, name=f"cts-{n}") for n in range(at_once)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:  # as when the user breaks off: what goes on must not outlive this
            stop.set()
            for thread in threads:
                thread.join()
            raise
        if errors:
            raise errors[0]


def _ignore(result: object) -> None:
    """For flows whose result is nothing."""


class _Stream:
    """What a flow has open."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._response: httpx.Response | None = None
        self._chunks: Iterator[bytes] = iter(())

    def open(self, request: Request) -> Reply:
        self.close()
        response = self._driver.response(request, stream=True)
        self._response = response
        if response.status_code >= 300:
            try:
                return reply_of(response, response.read())
            except httpx.RequestError as e:
                raise fault_of(e) from None
            finally:
                self.close()
        # What a store has encoded is the file itself, and its checksum is of these bytes.
        raw = request.url is not None and not response.is_stream_consumed
        self._chunks = response.iter_raw() if raw else response.iter_bytes()
        return reply_of(response)

    def read(self) -> bytes | None:
        try:
            return next(self._chunks, None)
        except httpx.RequestError as e:
            raise fault_of(e) from None
        except httpx.StreamError:
            raise NetworkFault("the connection was closed", arrived=True) from None

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self._response = None
        self._chunks = iter(())
