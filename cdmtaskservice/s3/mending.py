"""Objects that lack a CRC64NVME, and how they get one: by being sent again to where they are.

No store computes a checksum of what it already has in a way that all stores share. So the object is read into a
temporary file and written once more, with the checksum, under the same key. Nothing is half done at any time: an
object is replaced whole, and only while it still is the one that was read.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from awscrt import checksums

from cdmtaskservice.domain.errors import (
    ChecksumMismatchError,
    DependencyUnavailableError,
    S3PathInaccessibleError,
)
from cdmtaskservice.s3 import multipart, uploading
from cdmtaskservice.s3.attempts import DEADLINE, RefusedError
from cdmtaskservice.s3.batches import run_to_the_end
from cdmtaskservice.s3.checksum import encode
from cdmtaskservice.s3.model import split_path
from cdmtaskservice.s3.reading import ReplacedError, read_object
from cdmtaskservice.s3.refusals import ask, refusal
from cdmtaskservice.s3.store import Store

KEPT = (
    "ContentType",
    "ContentEncoding",
    "ContentDisposition",
    "ContentLanguage",
    "CacheControl",
    "Expires",
    "Metadata",
    "StorageClass",
    "WebsiteRedirectLocation",
)
"""What an object keeps when it is sent again, as botocore names it. Its tags, too."""

_TAGS_UNKNOWN = frozenset({"MethodNotAllowed", "NotImplemented"})
"""What stores say that know no tags, and so have none."""
_NO_TAGS = frozenset({"NoSuchTagSet", "NoSuchTagSetError"})
"""What some stores say of an object without tags."""

_FULL = re.compile(r"[A-Za-z0-9+/]{11}=")
_MD5 = re.compile(r"[0-9a-f]{32}")


class TagsHiddenError(S3PathInaccessibleError):
    """Whether the object has tags may not be known, so it cannot be written again without losing any."""


@dataclass(frozen=True)
class Looked:
    """An object as its store has it.

    crc64nvme: of all its bytes; None where the store has none. composite: whether it has one of its parts' checksums
    instead, which says nothing of the file. kept: see KEPT.
    """

    path: str
    size: int
    etag: str
    crc64nvme: str | None
    composite: bool = False
    kept: Mapping[str, Any] = field(default_factory=dict)


async def below(store: Store, prefix: str) -> AsyncIterator[str]:
    """The paths of all objects whose path begins with `bucket/prefix`, in the store's order.

    Raises what `ask` raises.
    """
    bucket, _, start = prefix.partition("/")
    more: dict[str, Any] = {}
    while True:
        answer = await ask(store, "list", "list_objects_v2", bucket, DEADLINE * 6, Prefix=start, **more)
        for entry in answer.get("Contents", ()):
            # An empty object with a slash at its end is what some clients make of a directory.
            if not (entry["Key"].endswith("/") and not entry["Size"]):
                yield f"{bucket}/{entry['Key']}"
        if not answer.get("IsTruncated"):
            return
        more = {"ContinuationToken": answer["NextContinuationToken"]}


async def look(store: Store, path: str) -> Looked:
    """The object at `path`. Raises what `ask` raises, and IllegalS3PathError."""
    split_path(path)
    answer = await ask(store, "read", "head_object", path, ChecksumMode="ENABLED")
    found = answer.get("ChecksumCRC64NVME") or ""
    full = bool(_FULL.fullmatch(found)) and answer.get("ChecksumType") != "COMPOSITE"
    return Looked(
        path,
        int(answer["ContentLength"]),
        answer.get("ETag", ""),
        found if full else None,
        bool(found) and not full,
        {name: answer[name] for name in KEPT if answer.get(name)},
    )


async def mend(store: Store, found: Looked) -> Looked:
    """Sends the object again with its CRC64NVME, and returns it as it then is.

    Raises ReplacedError where it has become another one since it was looked at; ChecksumMismatchError where what was
    read or written is not what it should be; TagsHiddenError where the tags may not be read; OSError where there is no
    room for the temporary file; what `ask` raises.
    Whatever is raised, the object's bytes are what they were, or somebody else's.
    """
    await _tags(store, found)  # If they may not be read, that is told before much else is.
    with tempfile.TemporaryDirectory(prefix="cts-s3-") as directory:
        file = Path(directory) / "object"
        crc = await _fetched(store, found, file)
        kept = {**found.kept, **await _tags(store, found)}
        try:
            if found.size <= uploading.PART_SIZE:
                await _put(store, found, file, crc, kept)
            else:
                await _put_in_parts(store, found, file, crc, kept)
        except RefusedError as e:
            # The answer to a write that was done may have been lost, and the write then refused the second time.
            now = await look(store, found.path)
            if now.crc64nvme != crc:
                if e.status in {409, 412}:
                    raise _replaced(found) from e
                raise await refusal(store, e, "write") from e
    now = await look(store, found.path)
    if now.crc64nvme is None:
        raise ChecksumMismatchError(f"The S3 store has {found.path!r} again, but keeps no CRC64NVME for it")
    if (now.crc64nvme, now.size) != (crc, found.size):
        raise ReplacedError(f"S3 path {found.path!r} was replaced by somebody else just now")
    return now


async def _fetched(store: Store, found: Looked, file: Path) -> str:
    """Reads the object into `file`; its CRC64NVME."""
    crc, size = 0, 0
    # S3's own name for the content of an object that was sent in one piece.
    md5 = hashlib.md5(usedforsecurity=False)
    with file.open("wb") as out:
        async for chunk in read_object(store, found.path, 0, None, found.etag or None):
            await asyncio.to_thread(out.write, chunk)
            crc = checksums.crc64nvme(chunk, crc)
            md5.update(chunk)
            size += len(chunk)
    if size != found.size:
        raise ChecksumMismatchError(f"S3 path {found.path!r} gave {size} bytes, but has {found.size}")
    etag = found.etag.strip('"')
    if not (_MD5.fullmatch(etag) and etag == md5.hexdigest()):
        # The store has nothing to compare with, and bytes that went wrong on their way must not replace good ones.
        again = 0
        async for chunk in read_object(store, found.path, 0, None, found.etag or None):
            again = checksums.crc64nvme(chunk, again)
        if again != crc:
            raise ChecksumMismatchError(f"S3 path {found.path!r} gave other bytes the second time; try again")
    return encode(crc)


async def _tags(store: Store, found: Looked) -> dict[str, str]:
    """What a write of the object needs to keep its tags.

    The answer to a HEAD does not do: it leaves out how many tags there are where the keys may not read them.
    """
    try:
        answer = await store.call("get_object_tagging", found.path)
    except RefusedError as e:
        if e.status in {405, 501} or e.code in _TAGS_UNKNOWN | _NO_TAGS:
            return {}
        if e.status == 403:
            raise TagsHiddenError(f"The tags of S3 path {found.path!r} may not be read, and would be lost") from e
        raise await refusal(store, e, "read the tags of") from e
    tags = {tag["Key"]: tag["Value"] for tag in answer.get("TagSet", ())}
    return {"Tagging": urlencode(tags)} if tags else {}


async def _put(store: Store, found: Looked, file: Path, crc: str, kept: Mapping[str, Any]) -> None:
    data, read = await asyncio.to_thread(uploading.read_part, file, 0, found.size)
    if read != crc:
        raise ChecksumMismatchError(f"The temporary file {file} changed")
    await _unchanged(store, found)
    await _conditional(
        store,
        "put_object",
        found,
        DEADLINE + found.size / store.slowest,
        Body=data,
        ChecksumCRC64NVME=crc,
        # Some stores keep a checksum only where its algorithm is named.
        ChecksumAlgorithm="CRC64NVME",
        **kept,
    )


async def _put_in_parts(store: Store, found: Looked, file: Path, crc: str, kept: Mapping[str, Any]) -> None:
    path = found.path
    upload_id = await multipart.begin(store, path, **kept)
    try:
        etags, crcs, whole = await uploading.send_parts(store, path, upload_id, file, found.size)
        if whole != crc:
            raise ChecksumMismatchError(f"The temporary file {file} changed")
        await _unchanged(store, found)
        await _conditional(
            store,
            "complete_multipart_upload",
            found,
            DEADLINE + found.size / store.slowest,
            UploadId=upload_id,
            ChecksumCRC64NVME=crc,
            ChecksumType="FULL_OBJECT",
            MultipartUpload={"Parts": multipart.named(etags, crcs)},
        )
    except BaseException:
        await run_to_the_end(multipart.drop(store, path, upload_id))
        raise


async def _unchanged(store: Store, found: Looked) -> None:
    """Looks once more, as not every store heeds the condition of a write."""
    now = await look(store, found.path)
    if (now.etag, now.size) != (found.etag, found.size):
        raise _replaced(found)


async def _conditional(store: Store, operation: str, found: Looked, deadline: float, **params: Any) -> None:
    """A write that only happens while the object is the one that was read, where the store can promise that."""
    condition = {"IfMatch": found.etag} if found.etag else {}
    try:
        await store.call(operation, found.path, deadline, **condition, **params)
    except RefusedError as e:
        if e.status != 501 and e.code != "NotImplemented":
            raise
    else:
        return
    await store.call(operation, found.path, deadline, **params)


def _replaced(found: Looked) -> DependencyUnavailableError:
    return ReplacedError(f"S3 path {found.path!r} was replaced meanwhile")
