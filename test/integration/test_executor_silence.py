"""Executors that the service does not hear: cut off from it or suspended, they write nothing to S3 until it answers."""

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from cdmtaskservice.embedded.image import Pushed
from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.executor.fence import since_boot
from test.stand_ins.executor_service import Fault, Work

from .executor_worker import HAPPY, Begin, Worker, outputs, poll

SIZE = 40_000_000
LIMIT = 1.5
SUPERSEDED = Fault(400, {"error": {"appcode": 30300, "message": "superseded"}})


class SlowStore:
    """Stands before the S3 store, and takes of each PUT of a container's only the beginning until it is let go."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.go_on = threading.Event()
        self.puts = 0
        self._server = socket.socket()
        # What lies in the kernel's buffers is on its way whatever the executor does: not the whole of it.
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._server.bind(("127.0.0.1", 0))
        self._server.listen()
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.go_on.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._upstream)) as upstream:
            threading.Thread(target=self._answer, args=(upstream, client), daemon=True).start()
            with suppress(OSError):
                while data := client.recv(1 << 16):
                    # The stand-in's own requests are of buckets and inputs.
                    held = data.startswith(b"PUT /data/") and b"/out?" in data[:100]
                    self.puts += held
                    upstream.sendall(data)
                    if held:
                        self.go_on.wait()
            with suppress(OSError):
                upstream.shutdown(socket.SHUT_RDWR)

    def _answer(self, upstream: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := upstream.recv(1 << 16):
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def store(stack: EmbeddedStack) -> Iterator[SlowStore]:
    store = SlowStore(stack.s3_store.port)
    yield store
    store.close()


@pytest.fixture
def uploading(begin: Begin, seqtool_image: Pushed, store: SlowStore) -> tuple[Worker, "subprocess.Popen[bytes]"]:
    """A worker in the middle of an upload."""
    work = Work(seqtool_image.by_digest, args=["write", "out", str(SIZE)], silence_limit=LIMIT)
    worker = begin(work, s3_url=store.url)
    executor = worker.start()
    poll(lambda: store.puts == 1, "an upload has begun")
    return worker, executor


def held_back(worker: Worker) -> bool:
    return any(e["event"] == "upload_held_back" for e in worker.log())


def stored(worker: Worker) -> list[str]:
    listed = worker.service.s3.list_objects_v2(Bucket="data", Prefix=worker.service.work.output_prefix)
    return [o["Key"] for o in listed.get("Contents", ())]


def calls_in_vain(worker: Worker) -> int:
    return sum(e["event"] == "heartbeat_failed" for e in worker.log())


def test_service_away_while_uploading(uploading: "tuple[Worker, subprocess.Popen[bytes]]", store: SlowStore) -> None:
    worker, executor = uploading
    away = threading.Event()
    away.set()
    worker.service.fault = lambda call: Fault(None) if away.is_set() else None
    poll(lambda: held_back(worker), "the upload is broken off")
    store.go_on.set()
    before = calls_in_vain(worker)
    poll(lambda: calls_in_vain(worker) > before + 5, "the executor goes on asking")
    assert store.puts == 1
    assert stored(worker) == []
    away.clear()
    assert executor.wait(60) == 0
    assert store.puts == 2
    assert worker.service.states() == HAPPY
    assert len(outputs(worker)["out"]) == SIZE
    assert not [e for e in worker.log() if e["event"] == "upload_interrupted"]  # no fault of S3
    assert worker.nothing_left()


def test_superseded_in_the_silence(uploading: "tuple[Worker, subprocess.Popen[bytes]]", store: SlowStore) -> None:
    worker, executor = uploading
    worker.service.fault = lambda call: Fault(None)
    poll(lambda: held_back(worker), "the upload is broken off")
    store.go_on.set()
    worker.service.fault = lambda call: SUPERSEDED
    assert executor.wait(60) == 0
    assert store.puts == 1
    assert stored(worker) == []
    assert worker.nothing_left()


@pytest.mark.parametrize("superseded", [True, False])
def test_suspended_while_uploading(
    uploading: "tuple[Worker, subprocess.Popen[bytes]]", store: SlowStore, superseded: bool
) -> None:
    worker, executor = uploading
    executor.send_signal(signal.SIGSTOP)
    until = since_boot() + LIMIT
    poll(lambda: since_boot() > until, "the limit is over")
    worker.service.fault = lambda call: SUPERSEDED if superseded else None
    store.go_on.set()
    executor.send_signal(signal.SIGCONT)
    assert executor.wait(60) == 0
    if superseded:
        assert store.puts == 1
        assert stored(worker) == []
    else:
        assert store.puts == 2
        assert worker.service.states() == HAPPY
        assert len(outputs(worker)["out"]) == SIZE
    assert worker.nothing_left()
