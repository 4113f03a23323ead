"""S3 paths as clients write them, `bucket/key`, and what may stand in one.

The rules are the contract's: a bucket is 3-63 of `[a-z0-9-]` and neither starts nor ends with `-`; a key is not empty,
at most 1024 bytes of UTF-8, without `//`, `'`, `;`, control characters (Unicode category Cc) and without `.` or `..`
segments. Blanks (any white space) before a path are stripped, blanks after it are data.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from cdmtaskservice.domain.errors import IllegalS3PathError
from cdmtaskservice.domain.wording import shown

MAX_KEY_BYTES = 1024

_MAX_BUCKET = 63
_SURELY_SHORT = MAX_KEY_BYTES // 4  # no character takes more than 4 bytes of UTF-8
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
# Searched from the slash before the key on, so that every segment has a slash in front of it. Unpaired surrogates
# stand here since JSON can carry them and UTF-8 cannot.
_FAULT = re.compile(r"//|[';\x00-\x1f\x7f-\x9f\ud800-\udfff]|/\.{1,2}(?=/|\Z)")


def check_s3_path(text: str) -> str:
    """The path of an S3 object, `bucket/key`, with leading blanks stripped.

    Checking a checked path changes nothing. A key may end with `/`.

    Raises IllegalS3PathError, naming the fault and the value, where `text` breaks one of the rules above.
    """
    path = text.lstrip()
    bucket, slash, key = path.partition("/")
    if not key or not _BUCKET.fullmatch(bucket):
        raise IllegalS3PathError(_bucket_fault(path, bucket, slash))
    if fault := _FAULT.search(path, len(bucket)):
        raise IllegalS3PathError(f"S3 path {shown(path)}: {_describe(fault[0], 'key')}")
    if len(key) > _SURELY_SHORT:
        _check_length(f"S3 path {shown(path)}: the key", key)
    return path


def bucket_and_key(path: str) -> tuple[str, str]:
    """The two parts of a checked S3 path."""
    bucket, _, key = path.partition("/")
    return bucket, key


def check_output_dir(text: str) -> str:
    """The S3 directory `bucket/prefix` below which a job writes, with exactly one trailing `/`.

    A bucket alone is refused, since the prefix is a key and keys are not empty.

    Raises IllegalS3PathError where it is no S3 path, or has no room for the `/`.
    """
    path = text.lstrip()
    return check_s3_path(path if path.endswith("/") else f"{path}/")


def check_input_root(text: str) -> str:
    """A root of input files: an S3 directory `bucket/prefix`, a `bucket`, or `""`, which every path is under.

    A trailing `/` makes no difference and is kept as it was sent.

    Raises IllegalS3PathError where it is none of these.
    """
    root = text.lstrip()
    bucket, _, key = root.partition("/")
    if not root or (not key and _BUCKET.fullmatch(bucket)):
        return root
    return check_s3_path(root)


def check_output_path(relative: str) -> str:
    """A path that a container wrote, relative to its output directory, that can be the tail of an S3 key.

    Nothing is stripped: a file's name is what it is. Where the path is put below an output directory, the whole is to
    be checked by `check_s3_path` too, since only that sees the length of both.

    Raises IllegalS3PathError for absolute paths, empty, `.` and `..` segments, and anything that no key may hold.
    """
    if not relative or relative.endswith("/"):
        raise IllegalS3PathError(f"Output path {shown(relative)} does not name a file")
    if relative.startswith("/"):
        raise IllegalS3PathError(f"Output path {shown(relative)} is absolute: it must be relative")
    if fault := _FAULT.search(f"/{relative}"):
        raise IllegalS3PathError(f"Output path {shown(relative)}: {_describe(fault[0], 'path')}")
    _check_length(f"Output path {shown(relative)}", relative)
    return relative


def is_under(path: str, allowed: str) -> bool:
    """Whether a checked S3 path lies under `allowed`, a `bucket`, `bucket/`, `bucket/prefix` or `bucket/prefix/`.

    Whole segments count: nothing called `cts/io/ab…` is under `cts/io/a`. An `allowed` that ends with `/` is a
    directory and holds what is below it; without the `/` it also holds the object of exactly that name. Nothing is
    under an empty `allowed`.
    """
    if allowed.endswith("/"):
        return path.startswith(allowed)
    return bool(allowed) and (path == allowed or path.startswith(f"{allowed}/"))


S3Path = Annotated[
    str,
    AfterValidator(check_s3_path),
    Field(
        description="An S3 object, `bucket/key`",
        examples=["cts-data/reads/sample1.fastq"],
        json_schema_extra={"pattern": rf"^\s*{_BUCKET.pattern}/[^/]"},
    ),
]
OutputDir = Annotated[
    str,
    AfterValidator(check_output_dir),
    Field(json_schema_extra={"pattern": rf"^\s*{_BUCKET.pattern}/[^/]"}),
]
InputRoot = Annotated[str, AfterValidator(check_input_root)]


def _bucket_fault(path: str, bucket: str, slash: str) -> str:
    if not path:
        return "An S3 path is empty: give it as bucket/key"
    if path.startswith("/"):
        return f"S3 path {shown(path)} starts with '/': it must start with the bucket, as in bucket/key"
    if not _BUCKET.fullmatch(bucket):
        return (
            f"S3 path {shown(path)}: the bucket {shown(bucket, _MAX_BUCKET)} must be 3-63 of the characters a-z, 0-9 "
            "and '-', neither starting nor ending with '-'"
        )
    return f"S3 path {shown(path)} has no key{' after the bucket' if slash else ''}: give it as bucket/key"


def _describe(fault: str, what: str) -> str:
    if fault == "//":
        return f"the {what} has an empty segment ('//'): leave out the doubled slash"
    if fault.startswith("/"):
        return f"the {what} has a '{fault[1:]}' segment: write the path without it"
    if fault in "';":
        return f"the {what} has the character {fault}, which is not allowed"
    if "\ud800" <= fault <= "\udfff":
        return f"the {what} has a character that is not valid Unicode (U+{ord(fault):04X})"
    return f"the {what} has a control character (U+{ord(fault):04X}), which is not allowed"


def _check_length(what: str, key: str) -> None:
    size = len(key) if key.isascii() else len(key.encode())
    if size > MAX_KEY_BYTES:
        raise IllegalS3PathError(f"{what} is {size} bytes long in UTF-8, more than the {MAX_KEY_BYTES} of an S3 key")
