"""The S3 client: all that the service does with an S3 store.

Paths are `bucket/key`. Keys are any UTF-8 that S3 allows. Every method but the presigning ones raises
DependencyUnavailableError where the store does not answer, within about 5 s unless bytes are moved.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from cdmtaskservice.domain.errors import NoSuchBucketError, S3BucketInaccessibleError, S3PathInaccessibleError
from cdmtaskservice.meter import UNMETERED, Meter
from cdmtaskservice.s3 import multipart
from cdmtaskservice.s3.attempts import RefusedError
from cdmtaskservice.s3.batches import run_batch, run_to_the_end
from cdmtaskservice.s3.checksum import crc64nvme as checksum_of
from cdmtaskservice.s3.heads import Heads
from cdmtaskservice.s3.model import PartSpec, PresignedRequest, S3Config, S3Object, split_path
from cdmtaskservice.s3.reading import read_object
from cdmtaskservice.s3.refusals import (
    check_bucket,
    check_store,
    refusal,
    unexpected,
)
from cdmtaskservice.s3.signing import Endpoint, Signer, encode_path
from cdmtaskservice.s3.store import Store
from cdmtaskservice.s3.uploading import upload, write

_SIGN_AT_ONCE = 200
"""Signatures made before other tasks get their turn: about 5 ms."""

_MARKERS = 100
"""Objects to list in search of a file: more than there are directories above it."""


class S3Client:
    """Speaks to one S3 store. Serves any number of tasks of one event loop; must be closed."""

    def __init__(self, config: S3Config, store: Store, heads: Heads, signer: Signer) -> None:
        """For `create`."""
        self._config = config
        self._store = store
        self._heads = heads
        self._signer = signer
        self._internal = Endpoint(config.endpoint)
        self._external = Endpoint(config.external_endpoint or config.endpoint)

    @classmethod
    def create(cls, config: S3Config, clock: Callable[[], float] = time.time, meter: Meter = UNMETERED) -> Self:
        """A client that opens its connections when they are first needed; presigning needs none.

        clock: seconds since 1970, for signatures. Raises ValueError where an endpoint is not `http[s]://host[:port]`.
        """
        signer = Signer(config.access_key, config.secret_key, config.region, clock)
        store = Store(config, meter)
        return cls(config, store, Heads(config, signer, store, meter), signer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections. May be called twice."""
        await self._heads.close()
        await self._store.close()

    async def check(self) -> None:
        """Raises DependencyUnavailableError unless the store answers and accepts the service's credentials."""
        await check_store(self._store)

    async def check_bucket(self, bucket: str) -> None:
        """Raises NoSuchBucketError, or S3BucketInaccessibleError where the service may not see the bucket."""
        await check_bucket(self._store, bucket)

    async def check_writable(self, prefix: str) -> None:
        """Proves that objects may be written below `bucket/prefix` (or `bucket`), and leaves nothing behind.

        Raises NoSuchBucketError, or S3BucketInaccessibleError where writing there is denied.
        """
        bucket = prefix.partition("/")[0]
        # Some stores make a missing bucket when something is written to it.
        with suppress(S3BucketInaccessibleError):
            await check_bucket(self._store, bucket)
        # An upload in parts that is never completed is the one kind of write that nobody sees.
        path = f"{prefix.rstrip('/')}/.cts-write-check-{uuid.uuid4().hex}"
        try:
            await run_to_the_end(self._begin_and_drop(path))
        except S3PathInaccessibleError as e:
            raise S3BucketInaccessibleError(
                f"The service is not allowed to write to S3 bucket {bucket!r} below {prefix!r}"
            ) from e

    async def create_bucket(self, bucket: str) -> None:
        """Makes the bucket. One that is there already is no error; S3BucketInaccessibleError where it is denied."""
        region = self._config.region
        # S3 makes buckets in us-east-1 unless told otherwise, and refuses to be told us-east-1.
        place: dict[str, Any] = (
            {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        )
        try:
            await self._store.call("create_bucket", bucket, **place)
        except RefusedError as e:
            if e.code in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                return
            if e.status == 403:
                raise S3BucketInaccessibleError(f"The service is not allowed to make the S3 bucket {bucket!r}") from e
            raise unexpected(e, f"make the bucket {bucket!r}") from e

    async def head(self, path: str) -> S3Object:
        """The object at `path`.

        Raises NoSuchBucketError, NoSuchS3PathError, S3PathInaccessibleError, or IllegalS3PathError for a path without
        bucket or key.
        """
        return await self._heads.head(path)

    async def head_many(self, paths: Sequence[str], *, concurrency: int | None = None) -> list[S3Object]:
        """The objects at `paths`, in that order, `concurrency` requests at once (None: as configured).

        Raises what `head` raises for the first path, in the given order, that it raises for.
        """
        return await self._heads.head_many(paths, concurrency or self._config.concurrency)

    async def first_below(self, prefix: str) -> str | None:
        """The path of the first file below `bucket/prefix` (or `bucket`); None where there is none.

        The empty objects by which some clients mark directories are none.

        Raises NoSuchBucketError, or S3BucketInaccessibleError where listing is denied.
        """
        bucket, _, directory = prefix.rstrip("/").partition("/")
        below = f"{directory}/" if directory else ""
        try:
            found = await self._store.call("list_objects_v2", bucket, Prefix=below, MaxKeys=_MARKERS)
        except RefusedError as e:
            if e.status == 404:
                raise NoSuchBucketError(f"There is no S3 bucket {bucket!r}") from e
            if e.code == "AccessDenied":
                raise S3BucketInaccessibleError(f"The service is not allowed to list S3 bucket {bucket!r}") from e
            raise unexpected(e, f"list {prefix!r}") from e
        keys = (entry["Key"] for entry in found.get("Contents", ()))
        return next((f"{bucket}/{key}" for key in keys if key.startswith(below) and key[-1] != "/"), None)

    def presign_get(self, path: str, expires: int, *, internal: bool = False, download: bool = False) -> str:
        """The URL by which anybody can read `path` for `expires` seconds, with no header to send.

        internal: at the address by which this client itself reaches the store, rather than the external one.
        download: have browsers keep it as a file of the name that it has, whatever it is, rather than show it. Takes
        some 20 µs and does not look whether there is such an object. Raises ValueError for `expires` outside of 1 s to
        7 days, IllegalS3PathError for a path without bucket or key.
        """
        split_path(path)
        query = _as_a_file(path) if download else ()
        return self._signer.presign("GET", self._address(internal), encode_path(path), query, {}, expires)

    async def presign_gets(self, paths: Sequence[str], expires: int, *, internal: bool = False) -> list[str]:
        """`presign_get` of many paths, in their order, with turns for other tasks in between."""
        urls = []
        for number, path in enumerate(paths, 1):
            urls.append(self.presign_get(path, expires, internal=internal))
            if number % _SIGN_AT_ONCE == 0:
                await asyncio.sleep(0)
        return urls

    def presign_put(
        self, path: str, size: int, crc64nvme: str, expires: int, *, internal: bool = False
    ) -> PresignedRequest:
        """The request by which anybody can write these bytes, and no others, to `path` for `expires` seconds.

        size: bytes. crc64nvme: base64. The store refuses a body of another size or checksum, and a request without
        exactly these headers. Content-Length is signed too, so the body must not be sent chunked; every HTTP client
        adds it to a body of known size. Raises as `presign_get`.
        """
        split_path(path)
        return self._presign_put(path, PartSpec(size, crc64nvme), (), expires, internal)

    async def start_multipart(
        self, path: str, parts: Sequence[PartSpec], expires: int, *, internal: bool = False
    ) -> tuple[str, list[PresignedRequest]]:
        """Starts an upload in parts: its ID, and for each part the request by which anybody can send it.

        parts: in order; S3 wants at most 10 000 and all but the last of at least 5 MiB. Raises NoSuchBucketError,
        S3PathInaccessibleError, or IllegalParameterError for more parts, or none.
        """
        split_path(path)
        multipart.check_part_count(path, len(parts))
        upload_id = await multipart.begin(self._store, path)
        requests = []
        for number, part in enumerate(parts, 1):
            query = (("partNumber", str(number)), ("uploadId", upload_id))
            requests.append(self._presign_put(path, part, query, expires, internal))
            if number % _SIGN_AT_ONCE == 0:
                await asyncio.sleep(0)
        return upload_id, requests

    async def complete_multipart(
        self,
        path: str,
        upload_id: str,
        etags: Sequence[str],
        crc64nvme: str,
        *,
        part_checksums: Sequence[str] | None = None,
    ) -> None:
        """Makes an object of the parts; done a second time it is no error.

        etags: as the store gave them for the parts, in order, with or without quotes. crc64nvme: of the whole.
        part_checksums: of the parts, where they are at hand.

        Raises ChecksumMismatchError where the whole does not have that checksum or the parts are not those that were
        sent; NoSuchS3PathError where there is neither such an upload nor the object.
        """
        split_path(path)
        await multipart.complete(self._store, self._heads, path, upload_id, etags, part_checksums, crc64nvme)

    async def abort_multipart(self, path: str, upload_id: str) -> None:
        """Drops an upload in parts. One that is not there, or no more, is no error."""
        split_path(path)
        await multipart.abort(self._store, path, upload_id)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes of the object from `offset` on, `length` of them at most, in chunks of at most 256 KiB.

        An offset past the end gives nothing. The first step raises NoSuchBucketError, NoSuchS3PathError or
        S3PathInaccessibleError, so a caller that must know takes one step before it answers. A caller that stops
        early calls `aclose`.
        """
        split_path(path)
        return read_object(self._store, path, offset, length)

    async def put(self, path: str, data: bytes) -> S3Object:
        """Writes `data`, of a few MB at most, to `path`.

        Raises NoSuchBucketError, S3PathInaccessibleError, ChecksumMismatchError.
        """
        split_path(path)
        return await write(self._store, self._heads, path, data, checksum_of(data))

    async def upload_file(self, path: str, file: Path) -> S3Object:
        """Writes the file's bytes, in parts where they are many, to `path`.

        Raises OSError where the file cannot be read, and as `put`; a file that changes meanwhile is a
        ChecksumMismatchError.
        """
        split_path(path)
        return await upload(self._store, self._heads, path, file)

    async def delete(self, paths: Sequence[str]) -> None:
        """Removes the objects. One that is not there is no error; S3PathInaccessibleError where it is denied."""

        async def remove(path: str) -> None:
            try:
                await self._store.call("delete_object", path)
            except RefusedError as e:
                if e.status != 404:
                    raise await refusal(self._store, e, "delete") from e

        for path in paths:
            split_path(path)
        await run_batch(paths, remove, self._config.concurrency)

    def _address(self, internal: bool) -> Endpoint:
        return self._internal if internal else self._external

    def _presign_put(
        self, path: str, part: PartSpec, query: tuple[tuple[str, str], ...], expires: int, internal: bool
    ) -> PresignedRequest:
        headers = {
            "content-length": str(part.size),
            "x-amz-checksum-crc64nvme": part.crc64nvme,
            # Some stores keep a checksum only where its algorithm is named.
            "x-amz-sdk-checksum-algorithm": "CRC64NVME",
        }
        url = self._signer.presign("PUT", self._address(internal), encode_path(path), query, headers, expires)
        # HTTP clients write this one by themselves, and some would write it twice.
        del headers["content-length"]
        return PresignedRequest("PUT", url, headers)

    async def _begin_and_drop(self, path: str) -> None:
        await multipart.drop(self._store, path, await multipart.begin(self._store, path))


def _as_a_file(path: str) -> tuple[tuple[str, str], ...]:
    """What a store is to answer with, so that browsers keep the object under the last part of its name.

    Without a name, or with a type that they know, some give the file another extension. The name is written as RFC 6266
    has it: in ASCII for those that read no other, and as RFC 8187 has it.
    """
    name = path.rstrip("/").rpartition("/")[2]
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    return ("response-content-disposition", disposition), ("response-content-type", "application/octet-stream")
