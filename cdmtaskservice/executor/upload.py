"""Outputs and logs: checksummed, then PUT to presigned URLs, in parts where they are large.

The work goes in rounds. A round asks the service for uploads of everything that is not in S3 yet and sends it; a URL
that has expired by then leaves its file for the next round. Parts that are in S3 already are not sent again, as long as
the service names the same upload. While the service is not heard for too long, nothing is written at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Protocol

from .checksum import READ_SIZE, combined, crc64nvme, encoded
from .failures import LATER, RENEWED, ContainerFailure
from .fence import Closed, Fence
from .http_pool import SILENCE, HttpPool, NetworkError
from .jsonlog import Log, redacted
from .outputs import Output, opened
from .parallel import for_each
from .protocol import Rejected
from .reporting import Progress
from .retry import Retry
from .stopping import Stop

MOST_PARTS = 10_000
"""S3 takes no more parts for one object."""

_ROUNDS_WITHOUT_PROGRESS = 4
_TRIES = 3
"""How often S3 may say of one body that its bytes are not those of its checksum."""


class UploadRefused(ContainerFailure):
    """The service or S3 will not have an output."""


@dataclass(frozen=True)
class Source:
    """A file to upload: an output, or a log where `stream` is set. root: the directory that `output` is below."""

    root: str
    output: Output
    stream: str | None = None

    @property
    def label(self) -> str:
        """What error messages call it."""
        return f"log {self.stream}" if self.stream else f"output {self.output.path}"


@dataclass(frozen=True)
class Uploaded:
    """A file that is in S3."""

    file: str
    crc64nvme: str


@dataclass
class Pending:
    """A source on its way. pieces: (offset, size, checksum) of each PUT; etags: of the parts that are in S3."""

    source: Source
    pieces: list[tuple[int, int, int]]
    in_parts: bool
    slot: Mapping[str, Any] = field(default_factory=dict)
    upload_id: str | None = None
    etags: dict[int, str] = field(default_factory=dict)

    @property
    def crc(self) -> str:
        return encoded(combined([(crc, size) for _, size, crc in self.pieces]))

    @property
    def done(self) -> bool:
        return len(self.etags) == len(self.pieces)

    @property
    def content(self) -> Mapping[str, object]:
        """Its size, its checksum and, where it goes in parts, theirs."""
        parts = [{"size": size, "crc64nvme": encoded(crc)} for _, size, crc in self.pieces]
        return {"size": self.source.output.size, "crc64nvme": self.crc, "parts": parts if self.in_parts else None}

    def request(self) -> Mapping[str, object]:
        return {**self._name(), **self.content}

    def completion(self) -> Mapping[str, object]:
        etags = [self.etags[n] for n in range(len(self.pieces))]
        return {**self._name(), "crc64nvme": self.crc, "upload_id": self.upload_id, "etags": etags}

    def _name(self) -> Mapping[str, object]:
        return {"stream": self.source.stream} if self.source.stream else {"path": self.source.output.path}


def checksummed(sources: Sequence[Source], part_size: int, connections: int, stop: Stop) -> list[Pending]:
    """Read `sources`, for the checksums of the pieces that they will be uploaded in.

    part_size: bytes of a piece, where it is not the last. Raises: UploadRefused for what is too large.
    """
    batch = [_planned(source, part_size) for source in sources]
    scope = Stop(stop)

    def one(job: tuple[Pending, int]) -> None:
        pending, n = job
        offset, size, _ = pending.pieces[n]
        crc = 0
        for data in _read(pending.source, offset, size, scope.check):
            crc = crc64nvme(data, crc)
        pending.pieces[n] = offset, size, crc

    for_each([(p, n) for p in batch for n in range(len(p.pieces))], one, connections, scope)
    return batch


def _planned(source: Source, part_size: int) -> Pending:
    size = source.output.size
    if size > part_size * MOST_PARTS:
        raise UploadRefused(
            f"The {source.label} has {size} bytes; no more than {part_size * MOST_PARTS} can be uploaded."
        )
    pieces = [(at, min(part_size, size - at), 0) for at in range(0, size, part_size)]
    return Pending(source, pieces or [(0, 0, 0)], in_parts=size > part_size)


class UploadService(Protocol):
    """Who says where to upload."""

    fence: Fence
    """Closed while nothing may be written."""

    def uploads(
        self, files: Sequence[Mapping[str, object]], logs: Sequence[Mapping[str, object]]
    ) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
        """An upload for each, in their order. Raises Rejected."""
        ...

    def complete_uploads(self, files: Sequence[Mapping[str, object]], logs: Sequence[Mapping[str, object]]) -> None:
        """The parts of these are all there."""
        ...


class Uploads:
    """The uploads of one container.

    part_size: bytes; a larger file goes in parts of that size. batch: most files in a call to the service. patience:
    seconds without an answer after which S3 is given up. connections: most PUTs at a time.
    """

    def __init__(
        self,
        service: UploadService,
        progress: Progress,
        part_size: int,
        batch: int,
        patience: float,
        connections: int,
        log: Log,
    ) -> None:
        self._service = service
        self._fence = service.fence
        self._progress = progress
        self._part_size = part_size
        self._batch = batch
        self._patience = patience
        self._connections = connections
        self._log = log

    def send(self, sources: Sequence[Source], stop: Stop) -> Sequence[Uploaded]:
        """Upload `sources`, and say where they are, in their order. Raises UploadRefused, naming the file."""
        uploaded: list[Uploaded] = []
        for start in range(0, len(sources), self._batch):
            batch = checksummed(sources[start : start + self._batch], self._part_size, self._connections, stop)
            try:
                self.send_pending(batch, stop)
            except Rejected as error:
                raise UploadRefused(f"The outputs were refused: {error}", f"/uploads: {error}") from error
            uploaded += [Uploaded(str(p.slot["file"]), p.crc) for p in batch]
        return uploaded

    def send_pending(self, batch: Sequence[Pending], stop: Stop) -> None:
        """Upload all of `batch`. Raises UploadRefused, naming the file; Rejected."""
        stuck = 0
        left = list(batch)
        while left:
            self._ask(left)
            before = sum(len(p.etags) for p in left)
            refusals: list[str] = []
            scope = Stop(stop)
            with HttpPool(scope, SILENCE, self._fence.check) as pool, self._fence.on_close(pool.break_off):

                def one(
                    job: tuple[Pending, int],
                    pool: HttpPool = pool,
                    scope: Stop = scope,
                    refusals: list[str] = refusals,
                ) -> None:
                    pending, n = job
                    etag = self._put(pending, n, pool, scope, refusals)
                    if etag is not None:
                        pending.etags[n] = etag

                jobs = [(p, n) for p in left for n in range(len(p.pieces)) if n not in p.etags]
                for_each(jobs, one, self._connections, scope)
            stuck = 0 if sum(len(p.etags) for p in left) > before else stuck + 1
            left = [p for p in left if not p.done]
            if left and stuck >= _ROUNDS_WITHOUT_PROGRESS:
                raise UploadRefused(
                    f"S3 does not let this job write the {left[0].source.label} (HTTP 403).",
                    f"403 with fresh URLs, {stuck} times: {refusals[:3]}",
                    RENEWED,
                )
            if left and stuck:
                # Asking again at once would most likely be refused at once.
                stop.sleep(float(stuck))
        parts = [p for p in batch if p.in_parts]
        if parts:
            self._service.complete_uploads(
                [p.completion() for p in parts if not p.source.stream],
                [p.completion() for p in parts if p.source.stream],
            )

    def _ask(self, left: Sequence[Pending]) -> None:
        """Get URLs for what is left. Parts sent under another upload are not in this one."""
        files = [p for p in left if not p.source.stream]
        logs = [p for p in left if p.source.stream]
        slots = self._service.uploads([p.request() for p in files], [p.request() for p in logs])
        for pending, slot in zip([*files, *logs], [*slots[0], *slots[1]]):
            parts = slot.get("parts")
            fits = len(parts) == len(pending.pieces) if isinstance(parts, list) else not pending.in_parts
            if not slot.get("file") or not fits:
                raise Rejected(f"the service gave no upload that fits the {pending.source.label}")
            pending.slot = slot
            if slot.get("upload_id") != pending.upload_id:
                pending.upload_id = slot.get("upload_id")
                pending.etags.clear()

    def _put(self, pending: Pending, n: int, pool: HttpPool, stop: Stop, refusals: list[str]) -> str | None:
        """PUT one piece. Its ETag, or None where the URL was refused and a fresh one is worth trying."""
        offset, size, _ = pending.pieces[n]
        target = pending.slot["parts"][n] if pending.in_parts else pending.slot
        url, headers = str(target["url"]), {str(k): str(v) for k, v in (target.get("headers") or {}).items()}
        label = pending.source.label
        retry = Retry(stop, self._patience)
        wrong = 0

        def may_go_on() -> None:
            stop.check()
            self._fence.check()

        while True:
            retry.not_counting(self._wait_at_the_fence(label, stop))
            sent = 0

            def body() -> Iterator[bytes]:
                nonlocal sent
                for data in _read(pending.source, offset, size, may_go_on):
                    yield data
                    sent += len(data)
                    self._progress.add(len(data))

            etag = ""
            try:
                response = pool.put(url, headers, size, body())
                try:
                    status, etag, found = response.status, response.headers.get("ETag", ""), response.text()
                finally:
                    response.close()
            except (NetworkError, Closed) as error:
                status, found = 0, str(error)
                if isinstance(error, Closed) or self._fence.closed:
                    self._progress.add(-sent)
                    continue
            if 200 <= status < 300:
                return etag
            self._progress.add(-sent)
            self._log.event("upload_interrupted", upload=label, url=redacted(url), status=status, found=found)
            if status == 403:
                refusals.append(f"PUT {redacted(url)}: {found}")
                return None
            if status == 400:
                wrong += 1
            if (status == 400 and wrong >= _TRIES) or (300 <= status < 500 and status not in (400, 408, 409, 429)):
                raise UploadRefused(
                    f"S3 refused the {label} (HTTP {status}).", f"PUT {redacted(url)}: {status}: {found}"
                )
            if not retry.wait():
                raise UploadRefused(
                    f"The {label} could not be uploaded: S3 did not take it for {self._patience:.0f} s.",
                    f"PUT {redacted(url)}: {status or 'no answer'}: {found}",
                    LATER,
                )

    def _wait_at_the_fence(self, label: str, stop: Stop) -> float:
        """Return when something may be written; the seconds that this took. Raises the reason of `stop`."""
        if not self._fence.closed:
            return 0.0
        self._log.event("upload_held_back", upload=label, why="the service has not answered for too long")
        begun = time.monotonic()
        self._fence.wait(stop)
        self._log.event("upload_goes_on", upload=label)
        return time.monotonic() - begun


def _read(source: Source, offset: int, size: int, check: Callable[[], None]) -> Iterator[bytes]:
    """`size` bytes of a source from `offset`, checking before each read whether to go on."""
    with opened(source.root, source.output) as fd:
        while size:
            check()
            data = os.pread(fd, min(READ_SIZE, size), offset)
            if not data:
                raise UploadRefused(f"The {source.label} became shorter while it was read.")
            yield data
            offset += len(data)
            size -= len(data)
