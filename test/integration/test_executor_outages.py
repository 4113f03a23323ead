"""The executor with S3 or the service away, connections that break, and disks that are full."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cdmtaskservice.embedded.image import Pushed
from cdmtaskservice.embedded.stack import EmbeddedStack
from test.stand_ins.executor_service import Call, Fault, Work

from .executor_worker import FAILED, HAPPY, Begin, after, outputs, poll


def test_s3_away_for_a_while(begin: Begin, seqtool_image: Pushed, stack: EmbeddedStack) -> None:
    files = {f"away{n}": os.urandom(1 << 20) for n in range(8)}
    work = Work(seqtool_image.by_digest, args=["copy", *(f"/input_files/{k}" for k in files)])
    work.inputs = {f"data/{k}": k for k in files}
    worker = begin(work, files)
    after(worker, "/work", stack.s3_store.kill)
    after(worker, "/uploads", stack.s3_store.kill)
    executor = worker.start("--connections", "2")
    poll(lambda: any(e["event"] == "download_interrupted" for e in worker.log()), "a download fails")
    stack.s3_store.start()
    poll(lambda: any(e["event"] == "upload_interrupted" for e in worker.log()), "an upload fails")
    stack.s3_store.start()
    assert executor.wait(90) == 0
    assert worker.service.states() == HAPPY
    assert outputs(worker) == files


class CuttingProxy:
    """Stands before the S3 store; cuts GETs of `path` off after so many bytes, `cuts` times; keeps their requests."""

    def __init__(self, port: int, path: str, after: int, cuts: int) -> None:
        self._upstream = port
        self._path = path.encode()
        self._after = after
        self._cuts = cuts
        self.requests: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._upstream)) as upstream, suppress(OSError):
            request = client.recv(65536)
            left = 1 << 40
            if request.startswith(b"GET " + self._path):
                self.requests.append(request)
                if len(self.requests) <= self._cuts:
                    left = self._after
            upstream.sendall(request)
            threading.Thread(target=self._forward, args=(client, upstream), daemon=True).start()
            while left > 0 and (data := upstream.recv(min(65536, left))):
                client.sendall(data)
                left -= len(data)
            # Closing alone says nothing to the other side while a thread still receives.
            client.shutdown(socket.SHUT_RDWR)
            upstream.shutdown(socket.SHUT_RDWR)

    def _forward(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                upstream.sendall(data)


def test_download_goes_on_where_it_broke(begin: Begin, seqtool_image: Pushed, stack: EmbeddedStack) -> None:
    data = os.urandom(5_000_000)
    proxy = CuttingProxy(stack.s3_store.port, "/data/long", after=1_500_000, cuts=2)
    try:
        work = Work(seqtool_image.by_digest, args=["copy", "/input_files/long"], inputs={"data/long": "long"})
        worker = begin(work, {"long": data}, s3_url=proxy.url)
        assert worker.run() == 0
        assert outputs(worker)["long"] == data
    finally:
        proxy.close()
    ranges = [dict(line.split(b": ", 1) for line in r.split(b"\r\n")[1:] if b": " in line) for r in proxy.requests]
    starts = [int(r.get(b"Range", b"bytes=0-")[6:-1]) for r in ranges[:3]]
    assert starts[0] == 0
    assert 1_000_000 < starts[1] <= 1_500_000
    assert 2_500_000 < starts[2] <= 3_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_disk_full_of_inputs(begin: Begin, seqtool_image: Pushed, small_disk: Path) -> None:
    worker = begin(Work(seqtool_image.by_digest, inputs={"data/huge": "huge"}), {"huge": bytes(6_000_000)})
    assert worker.run("--work-dir", str(small_disk / "work")) == 0
    assert worker.service.states() == ["download_submitted", "error"]
    assert "The worker's disk was full." in worker.service.update("error")["error"]
    assert list(small_disk.iterdir()) == []


def test_disk_full_of_outputs(begin: Begin, seqtool_image: Pushed, small_disk: Path) -> None:
    script = ["write", "huge", "6000000"]
    worker = begin(Work(seqtool_image.by_digest, args=script))
    assert worker.run("--work-dir", str(small_disk / "work")) == 0
    assert worker.service.states() == FAILED
    assert "disk is full, which may be the reason" in worker.service.update("error")["error"]
    assert list(small_disk.iterdir()) == []


def test_service_away_and_answers_lost(begin: Begin, seqtool_image: Pushed) -> None:
    """Every call is answered 503, then dropped unheard, then dropped after it took effect, then answered."""
    worker = begin(
        Work(seqtool_image.by_digest, args=["write", "x", "6000000"], part_size=5 << 20, heartbeat_interval=60)
    )
    ways = [Fault(503), Fault(None), Fault(None, effective=True), Fault(429)]
    seen: dict[str, int] = {}

    def fault(call: Call) -> Fault | None:
        n = seen[call.path] = seen.get(call.path, -1) + 1
        return ways[n] if n < len(ways) else None

    worker.service.fault = fault
    assert worker.run() == 0
    assert worker.service.states() == HAPPY
    assert len(outputs(worker)["x"]) == 6_000_000
    # A heartbeat that is lost is not repeated: as many come as the executor has time for.
    assert min(n for path, n in seen.items() if path != "/heartbeat") >= len(ways)
    claims = {c.body["claim"] for c in worker.service.calls if c.path == "/work"}
    assert len(claims) == 1


def test_service_away_does_not_hold_up_the_container(begin: Begin, seqtool_image: Pushed) -> None:
    away = threading.Event()
    worker = begin(Work(seqtool_image.by_digest, args=["sleep", "60"], limits={"runtime": 2.0}, heartbeat_interval=0.1))
    worker.service.fault = lambda call: Fault(None) if away.is_set() else None
    executor = worker.start()
    worker.service.await_call(lambda c: c.path == "/update/job_submitted")
    away.set()
    # The time limit is kept without the service.
    poll(lambda: any(e["event"] == "container_ended" for e in worker.log()), "the container ends")
    away.clear()
    assert executor.wait(60) == 0
    assert worker.service.states() == FAILED
    assert worker.service.update("error_processing_submitting")["usage"]["wall_seconds"] < 4


def test_gives_up_when_patience_is_over(begin: Begin, seqtool_image: Pushed) -> None:
    worker = begin(Work(seqtool_image.by_digest, args=["say", "1"]))
    worker.service.fault = lambda call: Fault(503) if call.path == "/update/complete" else None
    assert worker.run("--keep-trying", "1") == 75
    assert worker.nothing_left()
