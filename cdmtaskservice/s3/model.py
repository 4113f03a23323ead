"""What goes into and comes out of the S3 client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from cdmtaskservice.domain.errors import IllegalS3PathError


@dataclass(frozen=True)
class S3Config:
    """Where the store is and how to speak to it. Buckets are addressed path-style only.

    endpoint: the store's address as the service reaches it, `http[s]://host[:port]`.
    external_endpoint: the address put into presigned URLs, where workers reach the store by another one.
    concurrency: requests in flight at once for one call that needs many.
    connect_timeout, read_timeout: seconds for a connection to stand, and between two arrivals of bytes.
    slowest: bytes per second below which a transfer counts as stuck.
    insecure_tls: accept any certificate.
    session_token: of keys that are lent for a while. Presigned requests cannot be made with such keys.
    """

    endpoint: str
    access_key: str
    secret_key: SecretStr
    region: str = "us-east-1"
    external_endpoint: str | None = None
    concurrency: int = 64
    connect_timeout: float = 2.0
    read_timeout: float = 4.0
    slowest: float = 1_000_000
    insecure_tls: bool = False
    session_token: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class S3Object:
    """An object as the store describes it.

    path: `bucket/key`. size: bytes. crc64nvme: base64, 12 characters; None where the store keeps none.
    etag: without its quotes.
    """

    path: str
    size: int
    crc64nvme: str | None
    etag: str


@dataclass(frozen=True, slots=True)
class PresignedRequest:
    """A request that whoever holds it may send, any number of times until it expires.

    headers: all to be sent as they are, beside Host and Content-Length, which HTTP clients write by themselves.
    """

    method: str
    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PartSpec:
    """A part of an upload in parts: its size in bytes and its checksum in base64."""

    size: int
    crc64nvme: str


def split_path(path: str) -> tuple[str, str]:
    """Bucket and key of `bucket/key`.

    Raises IllegalS3PathError where either is empty: a request for such a path would address the bucket itself.
    """
    bucket, _, key = path.partition("/")
    if not bucket or not key:
        raise IllegalS3PathError(f"S3 path {path!r} must be a bucket and a key: bucket/key")
    return bucket, key
