"""The service as an executor sees it: a real HTTP server that speaks the executor protocol over a real S3 store.

It keeps to docs/executor-protocol.md, records every call, and does on request what a service or the network between
may do: answer 5xx, not at all, or only after it took effect; hand out GETs that have expired; say stop.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import botocore.session
from botocore.config import Config

EXECUTOR_TOKEN = "executor-role-token"
CONTAINER_TOKEN = "container-token"


@dataclass(frozen=True)
class Call:
    """One request: `path` is what follows the container's URL."""

    method: str
    path: str
    body: Any
    token: str


@dataclass(frozen=True)
class Fault:
    """Instead of the answer: a status with a body, or None to hang up. `effective`: the call takes effect before."""

    status: int | None = 503
    body: Any = None
    effective: bool = False


@dataclass
class Work:
    """What the work order says; see the protocol. inputs: S3 file to path below the mount point."""

    image: str
    args: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    refdata: dict[str, str] | None = None
    network: bool = False
    manifest: dict[str, str] | None = None
    part_size: int = 64 << 20
    batch: int = 500
    output_prefix: str = "outputs/run/"
    heartbeat_interval: float = 0.2
    silence_limit: float | None = None
    checksums: dict[str, str] = field(default_factory=dict)
    """Instead of what S3 says."""


class ExecutorService:
    """One container of one job. `fault` is asked for every call; a Fault is what the caller gets."""

    def __init__(self, s3_url: str, access_key: str, secret_key: str, job: str, work: Work) -> None:
        self.s3 = botocore.session.get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=s3_url,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self.job = job
        self.work = work
        self.calls: list[Call] = []
        self.fault: Callable[[Call], Fault | None] = lambda call: None
        self.stop_reason: str | None = None
        self.expired_gets = 0
        """So many presigned GETs are handed out that S3 refuses."""
        self.expired_puts = 0
        self.run = 1
        """The engine's run that the container is at."""
        self._claim: str | None = None
        self._attempt = 0
        self._uploads: dict[str, str] = {}
        self._changed = threading.Condition()
        self.gate: Callable[[Call], None] = lambda call: None
        """Called before a call is answered, without a lock: may block."""

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve on a free port of loopback; the URL."""
        service = self

        class Handler(_Handler):
            stand_in = service

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/cts/"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    # What tests look at.

    def await_call(self, matches: Callable[[Call], bool], timeout: float = 30.0) -> Call:
        """The first call that matches, as soon as it has come."""
        with self._changed:
            found = self._changed.wait_for(lambda: next((c for c in self.calls if matches(c)), None), timeout)
        assert found, f"no such call among {[(c.path, c.body) for c in self.calls]}"
        return found

    def updates(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The states reported, in order, with their bodies."""
        with self._changed:
            return [(c.path.rpartition("/")[2], c.body) for c in self.calls if c.path.startswith("/update/")]

    def states(self) -> list[str]:
        """The states reported, each once, in the order in which they came first."""
        return list(dict.fromkeys(state for state, _ in self.updates()))

    def update(self, state: str) -> Mapping[str, Any]:
        """The body of the report of `state`."""
        return next(body for s, body in self.updates() if s == state)

    def read(self, file: str) -> bytes:
        """The bytes of an S3 file."""
        bucket, key = file.split("/", 1)
        data: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return data

    def checksum(self, file: str) -> str:
        """What S3 says of it."""
        bucket, key = file.split("/", 1)
        head = self.s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        return str(head["ChecksumCRC64NVME"])

    def write(self, file: str, data: bytes) -> None:
        """Store an S3 file with its checksum."""
        bucket, key = file.split("/", 1)
        self.s3.put_object(Bucket=bucket, Key=key, Body=data, ChecksumAlgorithm="CRC64NVME")

    def log(self, stream: str) -> bytes:
        """A log of the container, from S3."""
        return self.read(self._log_file(stream))

    # The protocol.

    def answer(self, call: Call) -> tuple[int, Any]:
        """The status and body for a call that gets through."""
        base = call.path.partition("?")[0]
        if base == "/work":
            if call.token != EXECUTOR_TOKEN:
                return 401, _error(10020, "Invalid token")
            if call.body.get("run", self.run) != self.run:
                return 400, _error(30300, f"Container 0 is at run {self.run}, not {call.body['run']}")
            return 200, self._order(call.body)
        if call.token != CONTAINER_TOKEN:
            return 401, _error(10020, "Invalid token")
        if base == "/heartbeat":
            return 200, {"stop": self.stop_reason is not None, "reason": self.stop_reason}
        if base == "/inputs":
            return 200, {"inputs": [{"file": f, "url": self._get_url(f)} for f in call.body["files"]]}
        if base == "/uploads":
            return self._slots(call.body)
        if base == "/uploads/complete":
            return self._complete(call.body)
        if base.startswith("/update/"):
            return 204, None
        return 404, _error(40000, "Not Found")

    def record(self, call: Call) -> Fault | None:
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
        self.gate(call)
        with self._changed:
            return self.fault(call)

    def _order(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if body["claim"] != self._claim:
            self._claim = body["claim"]
            self._attempt += 1
        work = self.work
        limits = {"cpus": 1, "memory": 256_000_000, "runtime": 60.0, "gpus": 0, "pids": 512, **work.limits}
        return {
            "job_id": self.job,
            "container_number": 0,
            "attempt": self._attempt,
            "token": CONTAINER_TOKEN,
            "token_expires": "2040-01-01T00:00:00Z",
            "image": work.image,
            "args": work.args,
            "environment": work.environment,
            "input_mount_point": "/input_files",
            "output_mount_point": "/output_files",
            "refdata": work.refdata,
            "limits": limits,
            "network": work.network,
            "inputs": [self._input(file, path) for file, path in work.inputs.items()],
            "manifest": work.manifest,
            "upload": {"part_size": work.part_size, "batch": work.batch},
            "heartbeat_interval": work.heartbeat_interval,
            "silence_limit": work.silence_limit,
        }

    def _input(self, file: str, path: str) -> dict[str, Any]:
        bucket, key = file.split("/", 1)
        size = self.s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
        checksum = self.work.checksums.get(file) or self.checksum(file)
        return {"file": file, "path": path, "url": self._get_url(file), "size": size, "crc64nvme": checksum}

    def _get_url(self, file: str) -> str:
        bucket, key = file.split("/", 1)
        url: str = self.s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=600)
        if self.expired_gets > 0:
            self.expired_gets -= 1
            return _spoiled(url)
        return url

    def _log_file(self, stream: str) -> str:
        return f"logs/{self.job}/0/{stream}.txt"

    def _slots(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        assert len(body["files"]) <= self.work.batch
        slots: dict[str, list[Any]] = {"files": [], "logs": []}
        for item in body["files"]:
            if "'" in item["path"]:
                return 400, _error(30020, f"the output {item['path']} has a character that no S3 key may have")
            file = self.work.output_prefix + item["path"]
            slots["files"].append({"path": item["path"], **self._slot(file, item)})
        for item in body["logs"]:
            slots["logs"].append({"stream": item["stream"], **self._slot(self._log_file(item["stream"]), item)})
        return 200, slots

    def _slot(self, file: str, item: Mapping[str, Any]) -> dict[str, Any]:
        bucket, key = file.split("/", 1)
        if item["parts"] is None:
            assert item["size"] <= self.work.part_size
            return {
                "file": file,
                "url": self._put_url("put_object", item["crc64nvme"], Bucket=bucket, Key=key),
                "headers": {"x-amz-checksum-crc64nvme": item["crc64nvme"]},
                "upload_id": None,
                "parts": None,
            }
        assert sum(p["size"] for p in item["parts"]) == item["size"]
        if file not in self._uploads:
            begun = self.s3.create_multipart_upload(
                Bucket=bucket, Key=key, ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT"
            )
            self._uploads[file] = begun["UploadId"]
        upload_id = self._uploads[file]
        parts = [
            {
                "url": self._put_url(
                    "upload_part", p["crc64nvme"], Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=n
                ),
                "headers": {"x-amz-checksum-crc64nvme": p["crc64nvme"]},
            }
            for n, p in enumerate(item["parts"], 1)
        ]
        return {"file": file, "url": None, "headers": {}, "upload_id": upload_id, "parts": parts}

    def _put_url(self, operation: str, crc64nvme: str, **params: Any) -> str:
        params["ChecksumCRC64NVME"] = crc64nvme
        url: str = self.s3.generate_presigned_url(operation, params, ExpiresIn=600, HttpMethod="PUT")
        if self.expired_puts > 0:
            self.expired_puts -= 1
            return _spoiled(url)
        return url

    def _complete(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        files = [(self.work.output_prefix + f["path"], f) for f in body["files"]]
        for file, item in [*files, *((self._log_file(i["stream"]), i) for i in body["logs"])]:
            bucket, key = file.split("/", 1)
            if self._uploads.pop(file, None) is None:
                # A repeated call: it is done already.
                continue
            parts = [{"ETag": etag, "PartNumber": n} for n, etag in enumerate(item["etags"], 1)]
            self.s3.complete_multipart_upload(
                Bucket=bucket,
                Key=key,
                UploadId=item["upload_id"],
                MultipartUpload={"Parts": parts},
                ChecksumCRC64NVME=item["crc64nvme"],
                ChecksumType="FULL_OBJECT",
            )
        return 204, None


class _Handler(BaseHTTPRequestHandler):
    stand_in: ExecutorService
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests look at the calls."""

    def _serve(self) -> None:
        service = self.stand_in
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        prefix = f"/cts/external_exec/jobs/{service.job}/container/0"
        assert self.path.startswith(prefix), self.path
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        call = Call(self.command, self.path[len(prefix) :], json.loads(data) if data else None, token)
        fault = service.record(call)
        if fault is None or fault.effective:
            status, body = service.answer(call)
        if fault is not None:
            if fault.status is None:
                self.close_connection = True
                self.connection.close()
                return
            status, body = fault.status, fault.body
        payload = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def _error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"appcode": code, "message": message}}


def _spoiled(url: str) -> str:
    """The URL with another signature, which S3 answers as it does an expired one: 403."""
    before, _, signature = url.partition("X-Amz-Signature=")
    return f"{before}X-Amz-Signature={'0' * 64}{signature[64:]}"
