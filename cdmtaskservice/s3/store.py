"""The store as aiobotocore speaks to it: for all but what must be fast for many (`heads`, `signing`)."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from botocore.handlers import add_expect_header

from cdmtaskservice.domain.errors import IllegalS3PathError
from cdmtaskservice.meter import UNMETERED, Meter
from cdmtaskservice.s3.attempts import DEADLINE, TransientFaultError, judged, persist
from cdmtaskservice.s3.model import S3Config

WIRE_FAULTS = (BotoCoreError, aiohttp.ClientError, OSError)
"""What botocore raises where the store said nothing that could be understood."""

POOL_FACTOR = 4
"""How many calls of full concurrency share the connections before they have to wait for each other."""

_SLOW_OPERATIONS = ("PutObject", "UploadPart", "CompleteMultipartUpload")
_SLOW_SILENCE = 60.0
"""Seconds for which a store may be silent while it takes in bytes or joins parts."""

_NOT_SET = (None, None, None, None)


class Store:
    """One aiobotocore client, made by the first call. Must be closed."""

    def __init__(self, config: S3Config, meter: Meter = UNMETERED) -> None:
        """Opens no connection."""
        self._config = config
        self._meter = meter
        self._client: Any = None
        self._opening = asyncio.Lock()
        self._open = AsyncExitStack()
        self._closed = False

    @property
    def slowest(self) -> float:
        """Bytes per second below which a transfer counts as stuck."""
        return self._config.slowest

    async def close(self) -> None:
        """Closes all connections. May be called twice; no call may follow."""
        self._closed = True
        await self._open.aclose()

    async def call(self, operation: str, path: str, deadline: float = DEADLINE, /, **params: Any) -> dict[str, Any]:
        """What the store answers to one of botocore's operations, by the name of its method.

        path: `bucket/key`, a bucket, or the empty string. params: those beside Bucket and Key. Raises RefusedError for
        a no, IllegalS3PathError for a path that no store can have, DependencyUnavailableError as `persist` does.
        """
        method = getattr(await self._opened(), operation)
        bucket, _, key = path.partition("/")
        if bucket:
            params["Bucket"] = bucket
        if key:
            params["Key"] = key

        async def attempt() -> dict[str, Any]:
            try:
                answer: dict[str, Any] = await method(**params)
            except ClientError as e:
                status, code = e.response["ResponseMetadata"]["HTTPStatusCode"], e.response["Error"]["Code"]
                # Where the answer has no body, botocore puts the status in the code's place.
                raise judged(path, status, "" if code == str(status) else code) from e
            except ParamValidationError as e:
                raise IllegalS3PathError(f"S3 path {path!r} cannot be: {e}") from e
            except WIRE_FAULTS as e:
                raise TransientFaultError(f"{type(e).__name__}: {e}") from e
            return answer

        return await persist(self._meter, operation, path, attempt, deadline)

    async def _opened(self) -> Any:
        async with self._opening:
            if self._closed:
                raise RuntimeError("The S3 client is closed")
            if self._client is None:
                self._client = await self._open.enter_async_context(_create_client(self._config))
                events = self._client.meta.events
                # aiohttp waits without a bound for the answer to `Expect: 100-continue`, which not every store gives.
                events.unregister("before-call.s3", add_expect_header)
                events.register("before-call.s3", _never_redirect)
                for operation in _SLOW_OPERATIONS:
                    events.register(f"before-call.s3.{operation}", _be_patient)
            return self._client


class _HttpSession(AIOHTTPSession):  # type: ignore[misc]
    """Trusts the system's certificate authorities too, as the HEADs do, and not only botocore's own list."""

    def _get_ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context()


def _create_client(config: S3Config) -> Any:
    # What stands in somebody's ~/.aws, or in a proxy variable, is not meant for this store.
    session = AioSession(dict.fromkeys(("profile", "config_file", "credentials_file"), _NOT_SET))
    return session.create_client(
        "s3",
        endpoint_url=config.endpoint,
        region_name=config.region,
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key.get_secret_value(),
        aws_session_token=config.session_token and config.session_token.get_secret_value(),
        verify=not config.insecure_tls,
        config=AioConfig(
            http_session_cls=_HttpSession,
            # Its JSON models are read in a thread.
            warm_up_loader_caches=True,
            signature_version="s3v4",
            # Every write bears a CRC64NVME that is signed: a SHA-256 beside it would hold up the event loop.
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            max_pool_connections=POOL_FACTOR * config.concurrency,
            # `persist` repeats: botocore's pauses of up to 1, 2 and 4 s do not fit into our deadline.
            retries={"total_max_attempts": 1},
            proxies={},
            # botocore's own one is made anew for each request, which takes a tenth of the time.
            user_agent="cdmtaskservice",
        ),
    )


def _never_redirect(params: dict[str, Any], **_: Any) -> None:
    # Asked where the bucket is, a store that answers 301 to everything sends botocore round in circles.
    params["context"]["s3_redirect"] = {"redirected": True}


def _be_patient(params: dict[str, Any], **_: Any) -> None:
    params["context"]["read_timeout"] = _SLOW_SILENCE
