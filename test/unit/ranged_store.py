"""A tiny S3 with ranged GETs, which can be made to answer wrongly, to break off, and to hold back."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from test.unit.remote_tasks import answering

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body. A Content-Length that is larger than the body breaks the transfer off."""


class RangedStore:
    """GETs of `files`, by path.

    asked: the ranges, first and last byte. sent: how many bytes of bodies. room: no more than so many bytes are sent;
    then answers hang until `released`, and are counted as `hanging`. answer: instead, given the range; None for the
    right one. generation: of the connections whose requests are noted; a process that was killed may have asked more
    than was seen of it.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[int, int]] = []
        self.sent = 0
        self.hanging = 0
        self.generation = 0
        self.room: int | None = None
        self.answer: Callable[[int, int], Answer | None] = lambda first, last: None
        self.changed = threading.Condition()
        self.released = threading.Event()
        self.url = ""

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Until something is so, of what changes here."""
        with self.changed:
            assert self.changed.wait_for(what, 30), (self.asked, self.sent)

    def right(self, path: str, first: int, last: int) -> Answer:
        data = self.files.get(path)
        if data is None:
            return 404, {}, b"<Error/>"
        if first >= len(data):
            return 416, {"Content-Range": f"bytes */{len(data)}"}, b"<Error/>"
        last = min(last, len(data) - 1)
        return 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1]

    def take(self, count: int) -> int:
        """How many of `count` bytes may be sent now."""
        with self.changed:
            if self.room is not None:
                count = min(count, self.room)
                self.room -= count
            self.sent += count
            self.changed.notify_all()
            return count


@contextmanager
def serving_ranges(store: RangedStore) -> Iterator[RangedStore]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            self.generation = store.generation
            super().setup()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            matched = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
            assert matched
            first, last = int(matched[1]), int(matched[2])
            with store.changed:
                if self.generation == store.generation:
                    store.asked.append((first, last))
                store.changed.notify_all()
            status, headers, body = store.answer(first, last) or store.right(path, first, last)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.send_body(body)
            if int(headers.get("Content-Length", len(body))) > len(body):
                self.close_connection = True

        def send_body(self, body: bytes) -> None:
            left = memoryview(body)
            while left:
                count = store.take(min(len(left), 1 << 16))
                if not count:
                    with store.changed:
                        store.hanging += 1
                        store.changed.notify_all()
                    assert store.released.wait(60)
                    store.room = None
                self.wfile.write(left[:count])
                left = left[count:]

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler, store.released) as store.url:
        yield store
