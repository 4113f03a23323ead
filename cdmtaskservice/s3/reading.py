"""An object's bytes, as a stream that survives a broken connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.s3.refusals import refusal
from cdmtaskservice.s3.transport import ATTEMPTS, DEADLINE, Call, TransientFaultError, Transport, pause

_CHUNK = 1 << 18


async def read_object(transport: Transport, path: str, offset: int, length: int | None) -> AsyncGenerator[bytes, None]:
    """The bytes of `path` from `offset` on, `length` of them at most, in chunks of at most 256 KiB.

    A connection that breaks is taken up again where it broke, unless the object has been replaced in between.
    """
    loop = asyncio.get_running_loop()
    end = None if length is None else offset + length
    position = offset
    version: str | None = None
    failures = 0
    waiting_since = loop.time()
    while end is None or position < end:
        call = Call("GET", path, headers=_headers(position, end, version))
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout_at(waiting_since + DEADLINE):
                    response = await stack.enter_async_context(transport.exchange(call))
                if response.status not in (200, 206):
                    answer = transport.judge(call, response, await response.read())
                    if answer.status == 416:
                        return
                    if answer.status == 412:
                        raise DependencyUnavailableError(f"S3 path {path!r} was replaced while it was read")
                    raise await refusal(transport, answer, path, "read")
                if "range" in call.headers and response.status == 200:
                    raise DependencyUnavailableError(f"The S3 store gave all of {path!r} where a range was asked")
                version = response.headers.get("ETag")
                async for chunk in response.content.iter_chunked(_CHUNK):
                    position += len(chunk)
                    yield chunk
                    waiting_since = loop.time()
                return
        except TransientFaultError as e:
            failures += 1
            if failures == ATTEMPTS:
                raise transport.unavailable(call, f"{ATTEMPTS} attempts failed", e) from e
        except TimeoutError as e:
            raise transport.unavailable(call, f"no answer within {DEADLINE:g} s", e) from e
        await pause(failures)


def _headers(position: int, end: int | None, version: str | None) -> dict[str, str]:
    headers = {}
    if position or end is not None:
        headers["range"] = f"bytes={position}-{'' if end is None else end - 1}"
    if version is not None:
        headers["if-match"] = version
    return headers
