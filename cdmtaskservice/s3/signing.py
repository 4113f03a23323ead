"""AWS Signature Version 4 for S3, in presigned URLs.

The rules are those of the S3 API reference, "Authenticating Requests (AWS Signature Version 4)". A job can have 10 000
files, and each needs a signature: botocore takes 150 µs for one, this takes about 10, since what stays the same for a
day is computed once a day. The tests hold every signature against botocore's.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

MAX_EXPIRES = 7 * 24 * 3600
"""Seconds for which a presigned request can be valid at most: a limit of the signature's definition."""

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": 80, "https": 443}

Query = Iterable[tuple[str, str]]


class Endpoint:
    """An S3 store's address in the two forms that requests need: the base of a URL, and the Host header."""

    def __init__(self, address: str) -> None:
        """Raises ValueError unless `address` is `http[s]://host[:port]` and nothing more."""
        parts = urlsplit(address)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.username or parts.password:
            raise ValueError("An S3 endpoint must be http[s]://host[:port], without a user")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            # The signature covers the path that the store sees; a prefix that a proxy takes off would break it.
            raise ValueError(f"An S3 endpoint must have no path, query or fragment, but has {parts.path!r}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        # HTTP clients leave a default port out of the Host header, and that header is signed.
        default = parts.port in (None, _DEFAULT_PORTS[parts.scheme])
        self.host = host if default else f"{host}:{parts.port}"
        self.base = f"{parts.scheme}://{self.host}"

    def __str__(self) -> str:
        return self.base


def encode_path(path: str) -> str:
    """The absolute URL path of `bucket/key`, a bucket or the empty string, encoded exactly as it is signed."""
    return "/" + quote(path, safe="/")


def encode_query(query: Query) -> str:
    """The query string in the order and encoding in which it is signed."""
    # By name and then by value: as one text, `a=` would come after `a0=`.
    pairs = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in query)
    return "&".join([f"{name}={value}" for name, value in pairs])


class Signer:
    """Signs requests for one store with one pair of keys."""

    def __init__(
        self, access_key: str, secret_key: SecretStr, region: str, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives seconds since 1970."""
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._clock = clock
        self._second = -1
        self._stamp = ""
        self._scope = ""
        self._day = ""
        self._key = b""

    def presign(
        self, method: str, endpoint: Endpoint, path: str, query: Query, headers: Mapping[str, str], expires: int
    ) -> str:
        """The URL that allows `method` on `path` to anybody who sends `headers` with it, for `expires` seconds.

        path: encoded. headers: lower-case names. Raises ValueError for `expires` below 1 or above MAX_EXPIRES.
        """
        if not 1 <= expires <= MAX_EXPIRES:
            raise ValueError(f"A presigned request is valid for 1 to {MAX_EXPIRES} s, not {expires} s")
        self._tick()
        signed = {**headers, "host": endpoint.host}
        text = encode_query(
            (
                *query,
                ("X-Amz-Algorithm", _ALGORITHM),
                ("X-Amz-Credential", f"{self._access_key}/{self._scope}"),
                ("X-Amz-Date", self._stamp),
                ("X-Amz-Expires", str(expires)),
                ("X-Amz-SignedHeaders", ";".join(sorted(signed))),
            )
        )
        ordered = sorted(signed.items())
        names = ";".join([name for name, _ in ordered])
        lines = "\n".join([f"{name}:{value}" for name, value in ordered])
        request = f"{method}\n{path}\n{text}\n{lines}\n\n{names}\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(request.encode()).hexdigest()
        signature = hmac.digest(
            self._key, f"{_ALGORITHM}\n{self._stamp}\n{self._scope}\n{digest}".encode(), "sha256"
        ).hex()
        return f"{endpoint.base}{path}?{text}&X-Amz-Signature={signature}"

    def _tick(self) -> None:
        """Brings the time stamp up to date and, once a day, the key."""
        second = int(self._clock())
        if second == self._second:
            return
        self._second = second
        self._stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        day = self._stamp[:8]
        if day != self._day:
            self._day = day
            self._scope = f"{day}/{self._region}/s3/aws4_request"
            key = f"AWS4{self._secret_key.get_secret_value()}".encode()
            for step in self._scope.split("/"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._key = key
