"""A stand-in for KBase auth2: a real HTTP server that answers as it does, and fails when told to.

In a test: `with KBaseAuthStandIn() as auth: auth.add_user("alice", "TOKEN", ["KBASE_STAFF"])`. By hand:
`python -m test.stand_ins.kbase_auth --port 7070 --user alice:TOKEN:KBASE_STAFF,HAS_NERSC_ACCOUNT`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class StandInUser:
    """A user that the auth service knows."""

    name: str
    display: str
    custom_roles: tuple[str, ...]


class KBaseAuthStandIn:
    """The server. It listens on a free port of the loopback address between `start` and `stop`.

    Switches, which count for all requests that arrive after they were set:
        latency: seconds before each answer.
        hang: never answer, until the server stops.
        hang_after_head: send the head of the answer and half of its body, then hang.
        trickle: send a byte of the body, and so on, every so many seconds.
        fail_status: answer with this HTTP status and no KBase error; a redirection points to where it came from.
        fail_times: how often `fail_status` is used before answers are right again; None is for ever.
        body: answer 200 with these bytes instead of the right ones.

    calls: how many requests came for each path, without the query.
    """

    def __init__(self, port: int = 0) -> None:
        self.latency = 0.0
        self.hang = False
        self.hang_after_head = False
        self.trickle = 0.0
        self.fail_status: int | None = None
        self.fail_times: int | None = None
        self.body: bytes | None = None
        self.calls: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self._tokens: dict[str, StandInUser] = {}
        self._server = _Server(("127.0.0.1", port), _Handler, bind_and_activate=False)
        self._server.stand_in = self
        self._port = port
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The root URL, as the service would be configured with."""
        return f"http://127.0.0.1:{self._port}"

    def add_user(self, name: str, token: str, custom_roles: Iterable[str] = ()) -> None:
        """Make a user known, or give them another token or other roles."""
        self._tokens[token] = StandInUser(name, name.title(), tuple(custom_roles))

    def revoke(self, token: str) -> None:
        """Forget a token."""
        del self._tokens[token]

    def user_of(self, token: str) -> StandInUser | None:
        """Whose token it is."""
        return self._tokens.get(token)

    def users(self) -> dict[str, StandInUser]:
        """All users by name."""
        return {user.name: user for user in self._tokens.values()}

    def reset(self) -> None:
        """Set all switches back, and the counter."""
        self.latency, self.hang, self.hang_after_head, self.trickle = 0.0, False, False, 0.0
        self.fail_status = self.fail_times = self.body = None
        self.calls.clear()

    def start(self) -> None:
        """Listen and answer."""
        self._server.server_bind()
        self._server.server_activate()
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="kbase-auth-stand-in")
        self._thread.start()

    def stop(self) -> None:
        """Close all connections; requests that hang end too."""
        self.stopping.set()
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        if self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128
    stand_in: KBaseAuthStandIn

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """End the connections that clients keep open."""
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise head and body go out as two packets, and the second one waits 40 ms for the first one's
    # receipt.
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        stand_in = self.server.stand_in
        url = urlsplit(self.path)
        with stand_in.lock:
            stand_in.calls[url.path] += 1
            failing = stand_in.fail_status if stand_in.fail_times != 0 else None
            if failing and stand_in.fail_times is not None:
                stand_in.fail_times -= 1
        if stand_in.hang:
            self._wait_for_the_end()
            return
        if stand_in.latency:
            stand_in.stopping.wait(stand_in.latency)
        if failing:
            self._answer(failing, b"<html>out of order</html>", "text/html")
        elif stand_in.body is not None:
            self._answer(200, stand_in.body)
        else:
            status, answer = self._route(url.path, parse_qs(url.query, keep_blank_values=True))
            self._answer(status, json.dumps(answer).encode())

    def _route(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if path == "/":
            return 200, {
                "version": "0.7.1",
                "gitcommithash": "0" * 40,
                "servertime": int(time.time() * 1000),
                "servicename": "Authentication Service",
            }
        if path not in {"/api/V2/me", "/api/V2/users", "/api/V2/users/"}:
            return _error(404, None, None, "HTTP 404 Not Found")
        token = (self.headers.get("Authorization") or "").strip()
        if not token:
            return _error(400, 10010, "No authentication token", "No user token provided")
        user = self.server.stand_in.user_of(token)
        if user is None:
            return _error(401, 10020, "Invalid token", None)
        if path == "/api/V2/me":
            return 200, {
                "user": user.name,
                "display": user.display,
                "email": f"{user.name}@example.invalid",
                "created": 1500000000000,
                "lastlogin": 1600000000000,
                "customroles": list(user.custom_roles),
                "roles": [],
                "policyids": [],
                "idents": [],
            }
        names = [n.strip() for n in query.get("list", [""])[0].split(",") if n.strip()]
        for name in names:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name):
                return _error(400, 30010, "Illegal user name", f"Illegal character in user name {name}")
        known = self.server.stand_in.users()
        return 200, {name: known[name].display for name in names if name in known}

    def _answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if 300 <= status < 400:
            self.send_header("Location", self.path)
        self.end_headers()
        if self.server.stand_in.hang_after_head:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self._wait_for_the_end()
            return
        if pause := self.server.stand_in.trickle:
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.stand_in.stopping.wait(pause):
                    break
            return
        self.wfile.write(body)
        self.wfile.flush()

    def _wait_for_the_end(self) -> None:
        self.server.stand_in.stopping.wait()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _error(status: int, code: int | None, text: str | None, message: str | None) -> tuple[int, Any]:
    detail: dict[str, Any] = {
        "httpcode": status,
        "httpstatus": HTTPStatus(status).phrase,
        "message": f"{code} {text}" + (f": {message}" if message else "") if code else message,
        "callid": str(uuid.uuid4().int)[:16],
        "time": int(time.time() * 1000),
    }
    if code is not None:
        detail |= {"appcode": code, "apperror": text}
    return status, {"error": detail}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user", action="append", default=[], metavar="NAME:TOKEN[:ROLE,ROLE]")
    arguments = parser.parse_args()
    stand_in = KBaseAuthStandIn(arguments.port)
    for text in arguments.user:
        name, token, *roles = text.split(":", 2)
        stand_in.add_user(name, token, [r for r in (roles or [""])[0].split(",") if r])
    with stand_in:
        print(stand_in.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
