"""An object's bytes, as a stream that survives a broken connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.s3.attempts import ATTEMPTS, DEADLINE, RefusedError, pause, unavailable
from cdmtaskservice.s3.refusals import refusal
from cdmtaskservice.s3.store import WIRE_FAULTS, Store

_CHUNK = 1 << 18


class ReplacedError(DependencyUnavailableError):
    """The object is another one than it was."""


async def read_object(
    store: Store, path: str, offset: int, length: int | None, etag: str | None = None
) -> AsyncGenerator[bytes, None]:
    """The bytes of `path` from `offset` on, `length` of them at most, in chunks of at most 256 KiB.

    A connection that breaks is taken up again where it broke, unless the object has been replaced in between: that is
    a ReplacedError, as is an object that has not the `etag`, if one is given.
    """
    end = None if length is None else offset + length
    position = offset
    condition = {"IfMatch": etag} if etag else {}
    failures = 0
    while end is None or position < end:
        part = {}
        if position or end is not None:
            part["Range"] = f"bytes={position}-{'' if end is None else end - 1}"
        try:
            answer = await store.call("get_object", path, DEADLINE, **part, **condition)
        except RefusedError as e:
            if e.status == 416:
                return
            if e.status == 412:
                raise ReplacedError(f"S3 path {path!r} was replaced while it was read") from e
            raise await refusal(store, e, "read") from e
        async with answer["Body"] as body:
            if part and answer["ResponseMetadata"]["HTTPStatusCode"] == 200:
                raise DependencyUnavailableError(f"The S3 store gave all of {path!r} where a range was asked")
            condition = {"IfMatch": answer["ETag"]} if "ETag" in answer else {}
            try:
                while chunk := await body.read(_CHUNK):
                    position += len(chunk)
                    yield chunk
                return
            except WIRE_FAULTS as e:
                failures += 1
                if failures == ATTEMPTS:
                    raise unavailable("get_object", path, f"{ATTEMPTS} attempts failed", e) from e
        await pause(failures)
