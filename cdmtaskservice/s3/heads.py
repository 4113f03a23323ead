"""Looking at objects, many at once: the one call that does not go through aiobotocore.

A job's 10 000 files are looked at one by one while its owner waits, and botocore spends several times as long on each
as the store does. So these are presigned requests of our own signer, sent by aiohttp.
"""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp
from yarl import URL

from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.meter import UNMETERED, Meter
from cdmtaskservice.s3.attempts import RefusedError, TransientFaultError, judged, persist
from cdmtaskservice.s3.batches import run_batch
from cdmtaskservice.s3.model import S3Config, S3Object, split_path
from cdmtaskservice.s3.refusals import refusal
from cdmtaskservice.s3.signing import Endpoint, Signer, encode_path
from cdmtaskservice.s3.store import POOL_FACTOR, Store

_HEADERS = {"x-amz-checksum-mode": "ENABLED"}
_EXPIRES = 900
"""Seconds: as long as S3 takes a signature in headers for fresh."""


class Heads:
    """HEAD requests over pooled connections. Must be closed."""

    def __init__(self, config: S3Config, signer: Signer, store: Store, meter: Meter = UNMETERED) -> None:
        """store: asked what a refusal means. Raises ValueError where `config.endpoint` is none."""
        self._config = config
        self._signer = signer
        self._store = store
        self._meter = meter
        self._endpoint = Endpoint(config.endpoint)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def close(self) -> None:
        """Closes all connections. May be called twice; no call may follow."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def head(self, path: str) -> S3Object:
        """The object at `path`."""
        return (await self.head_many([path], 1))[0]

    async def head_many(self, paths: Sequence[str], concurrency: int) -> list[S3Object]:
        """The objects at `paths`, in that order, `concurrency` requests at once."""
        for path in paths:
            split_path(path)
        try:
            return await run_batch(paths, self._look, concurrency)
        except RefusedError as e:
            # Only for the one that is reported is it found out what for.
            raise await refusal(self._store, e, "read") from e

    async def _look(self, path: str) -> S3Object:
        async def attempt() -> S3Object:
            url = self._signer.presign("HEAD", self._endpoint, encode_path(path), (), _HEADERS, _EXPIRES)
            try:
                async with self._opened().head(URL(url, encoded=True), headers=_HEADERS) as response:
                    if response.status != 200:
                        raise judged(path, response.status)
                    return _described(path, response)
            except (aiohttp.ClientError, OSError) as e:
                # A presigned URL is no matter for logs.
                raise TransientFaultError(f"{type(e).__name__}: {e}".replace(url, path)) from e

        return await persist(self._meter, "head_object", path, attempt)

    def _opened(self) -> aiohttp.ClientSession:
        """The one session, made by the first call, since it belongs to the event loop that runs then."""
        if self._closed:
            raise RuntimeError("The S3 client is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=POOL_FACTOR * self._config.concurrency, ssl=not self._config.insecure_tls
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Accept", "Accept-Encoding"),
                timeout=aiohttp.ClientTimeout(
                    sock_connect=self._config.connect_timeout, sock_read=self._config.read_timeout
                ),
            )
        return self._session


def _described(path: str, response: aiohttp.ClientResponse) -> S3Object:
    length = response.headers.get("Content-Length")
    if length is None:
        raise DependencyUnavailableError(f"The S3 store did not tell the size of {path!r}")
    etag = response.headers.get("ETag", "").strip('"')
    return S3Object(path, int(length), response.headers.get("x-amz-checksum-crc64nvme"), etag)
