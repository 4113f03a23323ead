"""HTTP with keep-alive, one connection a thread and server, which a stop ends in the middle of a transfer."""

from __future__ import annotations

import http.client
import select
import socket
import struct
import threading
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Callable, cast

from .checksum import READ_SIZE
from .stopping import Stop

SILENCE = 60.0
"""Seconds without a byte after which a transfer counts as broken."""

CONNECT_TIMEOUT = 15.0
"""Seconds. Shorter, since nothing can break off a connection that is not there yet."""

_PIECE = 1 << 16
"""Bytes handed over at a time where each write must be allowed."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: what was not sent yet is thrown away when the socket is closed."""

_Connection = http.client.HTTPConnection


class NetworkError(Exception):
    """No answer, or half of one: the other side or the way to it failed. Worth another try."""


class Response:
    """An answer whose body is read piece by piece. A body that was not read to its end costs the connection."""

    def __init__(self, pool: HttpPool, connection: _Connection, raw: http.client.HTTPResponse) -> None:
        self._pool = pool
        self._connection = connection
        self._raw = raw
        self.status = raw.status
        self.headers = raw.headers

    def read_into(self, buffer: memoryview) -> int:
        """Read some bytes; 0 at the end of the body. Raises NetworkError where the body ends too early."""
        try:
            count = self._raw.readinto(buffer)
        except (OSError, http.client.HTTPException) as error:
            self._pool.drop(self._connection)
            raise self._pool.network_error(error) from error
        if not count and self._raw.length:
            # http.client lets a body that is cut short pass for one that is over.
            self._pool.drop(self._connection)
            raise self._pool.network_error(EOFError(f"{self._raw.length} bytes of the answer are missing"))
        return count

    def text(self, limit: int = 4096) -> str:
        """The first `limit` bytes of the body, for an error message."""
        try:
            return self._raw.read(limit).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return ""

    def close(self) -> None:
        """Give the connection back, if the whole body was read, or close it."""
        if not self._raw.isclosed():
            self._pool.drop(self._connection)
        self._raw.close()


class HttpPool:
    """Connections to object stores, closed at the end of the `with` block.

    timeout: the longest silence in seconds that is not an error. When `stop` is set, all transfers break off.
    may_write: called before every write; what it raises ends the request.
    """

    def __init__(self, stop: Stop, timeout: float, may_write: Callable[[], None] | None = None) -> None:
        self._stop = stop
        self._timeout = timeout
        self._may_write = may_write
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: set[_Connection] = set()
        stop.on_set(self.break_off)

    def __enter__(self) -> HttpPool:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._all():
            connection.close()

    def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """GET `url`. Raises NetworkError where there is no answer, or the stop's reason."""
        return self._request("GET", url, headers, None, ())

    def put(self, url: str, headers: Mapping[str, str], size: int, body: Iterable[bytes]) -> Response:
        """PUT `size` bytes. An answer that comes before the whole body was sent is the answer.

        `body` is sent once: where this raises NetworkError, the caller starts it anew.
        """
        return self._request("PUT", url, headers, size, body)

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], size: int | None, body: Iterable[bytes]
    ) -> Response:
        self._stop.check()
        parts = urllib.parse.urlsplit(url)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection = self._connection(parts.scheme, parts.hostname or "", parts.port)
        try:
            connect(connection, self._timeout)
            self._stop.check()  # while it was not there yet, nobody could break it off
            if self._may_write:
                self._may_write()
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            if size is not None:
                connection.putheader("Content-Length", str(size))
            connection.endheaders()
        except (OSError, http.client.HTTPException) as error:
            self.drop(connection)
            raise self.network_error(error) from error
        except BaseException:
            self.drop(connection)
            raise
        send_error: OSError | None = None
        try:
            for chunk in body:
                try:
                    self._send(connection, chunk)
                except OSError as error:
                    # The server may have answered and hung up while we were still sending: its answer says more.
                    send_error = error
                    break
        except BaseException:
            # The body could not be read to its end: nothing more can go over this connection.
            discard_unsent(connection)
            self.drop(connection)
            raise
        try:
            raw = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.drop(connection)
            raise self.network_error(send_error or error) from error
        if send_error is not None and raw.status < 400:
            self.drop(connection)
            raise self.network_error(send_error)
        return Response(self, connection, raw)

    def network_error(self, error: BaseException) -> BaseException:
        """What to raise for `error`: the stop's reason where it was the stop that ended the transfer."""
        return self._stop.why or NetworkError(f"{type(error).__name__}: {error}")

    def drop(self, connection: _Connection) -> None:
        """Close a connection that cannot be used as it is. It opens again by itself at the next request."""
        connection.close()

    def break_off(self) -> None:
        """End every transfer at once, in whatever thread it is. The thread closes the connection itself."""
        for connection in self._all():
            discard_unsent(connection)
            break_off(connection)

    def _send(self, connection: _Connection, data: bytes) -> None:
        if self._may_write is None:
            connection.send(data)
            return
        sock = cast("socket.socket", connection.sock)
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        left = memoryview(data)
        while left:
            # Not sendall(): a process that is suspended while it waits for room would write before it asks again.
            if not poll.poll(self._timeout * 1000):
                raise TimeoutError(f"nothing could be sent for {self._timeout:.0f} s")
            self._may_write()
            left = left[sock.send(left[:_PIECE]) :]

    def _mine(self) -> dict[object, _Connection]:
        """This thread's connections by scheme, host and port."""
        if not hasattr(self._local, "connections"):
            self._local.connections = {}
        return cast("dict[object, _Connection]", self._local.connections)

    def _all(self) -> Sequence[_Connection]:
        with self._lock:
            return list(self._open)

    def _connection(self, scheme: str, host: str, port: int | None) -> _Connection:
        mine: dict[object, _Connection] = self._mine()
        connection = mine.get((scheme, host, port))
        if connection is None:
            kind = http.client.HTTPSConnection if scheme == "https" else _Connection
            connection = kind(host, port, timeout=self._timeout, blocksize=READ_SIZE)
            mine[scheme, host, port] = connection
            with self._lock:
                self._open.add(connection)
        return connection


def connect(connection: _Connection, timeout: float) -> None:
    """Connect, unless it is; then `timeout` is the longest silence in seconds. Raises OSError."""
    if connection.sock is None:
        connection.timeout = CONNECT_TIMEOUT
        connection.connect()
        cast("socket.socket", connection.sock).settimeout(timeout)


def discard_unsent(connection: _Connection) -> None:
    """What the kernel has not sent yet is not to be sent any more once `connection` is closed."""
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def break_off(connection: _Connection) -> None:
    """End what another thread sends or receives over `connection`; that thread closes it."""
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
