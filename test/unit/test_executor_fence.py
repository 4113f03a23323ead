"""Who may write to S3 while the service is not heard: the fence on a fake clock, and requests that it ends."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from cdmtaskservice.executor import protocol, retry
from cdmtaskservice.executor.failures import NotOurs
from cdmtaskservice.executor.fence import Closed, Fence, since_boot
from cdmtaskservice.executor.http_pool import HttpPool, NetworkError
from cdmtaskservice.executor.jsonlog import Log
from cdmtaskservice.executor.protocol import Rejected, Service
from cdmtaskservice.executor.retry import Retry
from cdmtaskservice.executor.stopping import Stop

from .test_executor_order import ORDER


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fence(clock: Clock) -> Fence:
    fence = Fence(clock)
    fence.limit(60)
    return fence


def in_thread(work: object) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_closes_after_the_limit_and_opens_with_an_answer(fence: Fence, clock: Clock) -> None:
    clock.now += 59.9
    fence.check()
    clock.now += 0.2
    with pytest.raises(Closed):
        fence.check()
    fence.heard(clock.now - 1)
    fence.check()
    assert fence.left() == pytest.approx(59)


def test_the_time_of_sending_counts(fence: Fence, clock: Clock) -> None:
    """An answer to a call that was sent before the silence proves nothing, nor does one that overtook a later one."""
    clock.now += 100
    fence.heard(1030.0)
    assert fence.closed
    fence.heard(1090.0)
    fence.heard(1035.0)
    assert fence.left() == pytest.approx(50)


def test_without_a_limit_it_never_closes(clock: Clock) -> None:
    fence = Fence(clock)
    clock.now += 1e9
    fence.check()
    assert fence.left() is None
    with fence.on_close(lambda: pytest.fail("it has closed")):
        fence.wait(Stop())


def test_waiting_ends_with_an_answer_or_with_the_stop(fence: Fence, clock: Clock) -> None:
    clock.now += 61
    stop, passed = Stop(), threading.Event()

    def wait() -> None:
        fence.wait(stop)
        passed.set()

    waiting = in_thread(wait)
    fence.heard(clock.now - 61)  # too old an answer
    waiting.join(0.1)
    assert not passed.is_set()
    fence.heard(clock.now)
    waiting.join(10)
    assert passed.is_set()

    clock.now += 61
    raised: list[BaseException] = []

    def wait_in_vain() -> None:
        try:
            fence.wait(stop)
        except NotOurs as error:
            raised.append(error)

    waiting = in_thread(wait_in_vain)
    stop.set(NotOurs("superseded"))
    waiting.join(10)
    assert [str(e) for e in raised] == ["superseded"]


def test_whoever_writes_is_told_each_time_that_it_closes() -> None:
    fence, closings = Fence(), threading.Semaphore(0)
    fence.limit(0.05)
    with fence.on_close(closings.release):
        for _ in range(2):
            assert closings.acquire(timeout=10)
            assert not closings.acquire(timeout=0.1)  # once each time
            fence.heard(fence.now())
    assert not [t for t in threading.enumerate() if t.name == "fence"]


def test_a_clock_that_is_never_set() -> None:
    before = since_boot()
    assert since_boot() >= before
    assert since_boot() >= time.monotonic() - 1  # what was suspended counts, where that can be had


def test_calls_feed_it_when_they_are_answered_well(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    service = Service("http://h", "j", 0, "executor", 5, Stop(), Log(-1))
    service.fence = Fence(clock)
    answers: list[tuple[int, bytes]] = []

    class Connection:
        def __init__(self, *_: object, **__: object) -> None:
            self.sock = socket.socket()

        def request(self, *_: object) -> None:
            clock.now += 10  # the answer takes its time

        def getresponse(self) -> "Connection":
            self.status, self.data = answers.pop(0)
            self.length, self.headers = 0, dict[str, str]()
            return self

        def read(self, limit: int) -> bytes:
            return self.data

        def close(self) -> None:
            self.sock.close()

    monkeypatch.setattr(protocol, "connect", lambda *_: None)
    monkeypatch.setattr(protocol.http.client, "HTTPConnection", Connection)  # type: ignore[attr-defined]
    answers.append((200, protocol.json.dumps({**ORDER, "silence_limit": 60}).encode()))  # type: ignore[attr-defined]
    assert service.claim("0" * 32, None, 1).silence_limit == 60
    assert service.fence.left() == 50
    answers.append((400, b'{"error": {"appcode": 30010, "message": "x"}}'))
    with pytest.raises(Rejected):
        service.update("complete", {})
    assert service.fence.left() == 40
    answers.append((503, b""))
    assert service.heartbeat({}).stop is None
    assert service.fence.left() == 30
    answers.append((200, b'{"stop": false}'))
    assert service.heartbeat({}).stop is None
    assert service.fence.left() == 50


def test_time_at_the_fence_is_not_the_stores_outage(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(retry.time, "monotonic", clock)  # type: ignore[attr-defined]
    stop = Stop()
    monkeypatch.setattr(stop, "sleep", lambda seconds: None)
    tries = Retry(stop, patience=100)
    assert tries.wait()
    clock.now += 90
    assert tries.wait()
    clock.now += 5000
    tries.not_counting(5000)
    assert tries.wait()
    clock.now += 11
    assert not tries.wait()


# Requests


@pytest.fixture
def store() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


def url(store: socket.socket) -> str:
    return f"http://127.0.0.1:{store.getsockname()[1]}/b/k"


def test_an_empty_body_is_not_sent_either(store: socket.socket, fence: Fence, clock: Clock) -> None:
    clock.now += 61
    with HttpPool(Stop(), 10, fence.check) as pool:
        with pytest.raises(Closed):
            pool.put(url(store), {}, 0, ())
        peer, _ = store.accept()
        with peer:
            assert peer.recv(100) == b""


def test_a_body_breaks_off_between_two_writes(store: socket.socket, fence: Fence, clock: Clock) -> None:
    """The other side takes nothing, so the writer waits for room; when there is some again, it must ask."""
    full, outcome = threading.Event(), list[BaseException]()

    def body() -> Iterator[bytes]:
        yield b"x" * 1000
        full.set()
        yield b"x" * (1 << 26)

    def put() -> None:
        try:
            pool.put(url(store), {}, 1000 + (1 << 26), body())
        except (Closed, NetworkError) as error:
            outcome.append(error)

    with HttpPool(Stop(), 30, fence.check) as pool:
        writer = in_thread(put)
        peer, _ = store.accept()
        with peer:
            peer.settimeout(10)
            assert full.wait(10)
            clock.now += 61
            received = 0
            try:
                while data := peer.recv(1 << 20):
                    received += len(data)
            except ConnectionResetError:
                pass
            writer.join(10)
    assert [type(e) for e in outcome] == [Closed]
    assert received < 1 << 26


def test_a_transfer_that_waits_is_broken_off(store: socket.socket, fence: Fence) -> None:
    """The whole body was sent, and the store has not answered."""
    outcome = list[BaseException]()

    def put() -> None:
        try:
            pool.put(url(store), {}, 3, (b"abc",))
        except NetworkError as error:
            outcome.append(error)

    with HttpPool(Stop(), 30, fence.check) as pool:
        writer = in_thread(put)
        peer, _ = store.accept()
        with peer:
            peer.settimeout(10)
            got = b""
            while not got.endswith(b"abc"):
                got += peer.recv(1000)
            pool.break_off()
            writer.join(10)
    assert len(outcome) == 1
