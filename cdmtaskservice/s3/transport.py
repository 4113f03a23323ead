"""One S3 request on the wire: signed, sent, bounded in time, and repeated where the fault is a passing one.

The HTTP client is aiohttp with nothing between it and S3: a job's 10 000 files are looked at one by one while its owner
waits, and an S3 library spends several times as long on each request as the store does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import SystemRandom
from xml.etree import ElementTree

import aiohttp
import structlog
from yarl import URL

from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.s3.model import S3Config
from cdmtaskservice.s3.signing import (
    UNSIGNED_PAYLOAD,
    Endpoint,
    Query,
    Signer,
    encode_path,
    encode_query,
    sha256_hex,
)

ATTEMPTS = 4
"""How often a request is sent at most."""

DEADLINE = 5.0
"""Seconds that a request may take with all its attempts, unless it moves data: somebody waits for the answer."""

Body = bytes | Callable[[], AsyncIterator[bytes]]
"""Bytes, whose SHA-256 is signed, or a function that gives the same bytes anew for each attempt."""

_FIRST_PAUSE = 0.1
"""Seconds: upper bound of the pause before the second attempt. It doubles with each further one."""

_PIECE = 1 << 18
"""Bytes of a body that are written at once."""

_POOL_FACTOR = 4
"""How many calls of full concurrency share the connections before they have to wait for each other."""

_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_TRANSIENT_CODES = frozenset({"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown"})

_CREDENTIAL_CODES = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
"""What a store says when it does not know the service itself, whatever the path."""

_log = structlog.get_logger(__name__)
_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class Call:
    """A request to S3.

    path: `bucket/key`, a bucket, or the empty string; not encoded. headers: lower-case names. deadline: seconds for
    all attempts together.
    """

    method: str
    path: str
    query: Query = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = b""
    deadline: float = DEADLINE


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store said, yes or no.

    headers: names in any case. code: the S3 error code; empty where the store said yes, or no without a body, as it
    does to a HEAD.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    code: str

    @property
    def ok(self) -> bool:
        """Whether the store did what it was asked."""
        return 200 <= self.status < 300 and not self.code


class TransientFaultError(Exception):
    """One attempt failed in a way in which the next one may not."""


class Transport:
    """Sends calls to one store over pooled connections. Must be closed."""

    def __init__(self, config: S3Config, signer: Signer) -> None:
        """Opens no connection yet. Raises ValueError where `config.endpoint` is none."""
        self._config = config
        self._signer = signer
        self._endpoint = Endpoint(config.endpoint)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def close(self) -> None:
        """Closes all connections. May be called twice; no call may follow."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def send(self, call: Call) -> Answer:
        """What the store says to `call`, yes or no.

        Raises DependencyUnavailableError where it says neither within the deadline and the attempts, or where it does
        not accept the service's credentials.
        """
        fault: TransientFaultError | None = None
        try:
            async with asyncio.timeout(call.deadline):
                for attempt in range(ATTEMPTS):
                    if attempt:
                        await pause(attempt)
                    try:
                        async with self.exchange(call) as response:
                            return self.judge(call, response, await response.read())
                    except TransientFaultError as e:
                        _log.debug("s3_attempt_failed", method=call.method, path=call.path, fault=str(e))
                        fault = e
        except TimeoutError:
            raise self.unavailable(call, f"no answer within {call.deadline:g} s", fault) from fault
        raise self.unavailable(call, f"{ATTEMPTS} attempts failed", fault) from fault

    @asynccontextmanager
    async def exchange(self, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """One attempt, whose body the caller reads inside. Raises TransientFaultError for any fault of the wire."""
        path, query = encode_path(call.path), encode_query(call.query)
        data: bytes | AsyncIterator[bytes] | None
        if isinstance(call.body, bytes):
            payload, data = sha256_hex(call.body), call.body or None
            if len(call.body) > _PIECE:
                data = _pieces(call.body)
        else:
            payload, data = UNSIGNED_PAYLOAD, call.body()
        headers = self._signer.sign_headers(call.method, self._endpoint.host, path, query, call.headers, payload)
        if isinstance(call.body, bytes) and call.body:
            headers["content-length"] = str(len(call.body))
        url = f"{self._endpoint.base}{path}?{query}" if query else f"{self._endpoint.base}{path}"
        try:
            async with self._open_session().request(
                call.method,
                URL(url, encoded=True),
                headers=headers,
                data=data,
                allow_redirects=False,
                timeout=self._timeout(call),
            ) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise TransientFaultError(f"{type(e).__name__}: {e}") from e

    def judge(self, call: Call, response: aiohttp.ClientResponse, body: bytes) -> Answer:
        """The store's answer.

        Raises TransientFaultError where it says that it cannot answer now, DependencyUnavailableError where it does
        not accept the service's credentials.
        """
        # Even a 200 can hold an error: a store that takes long to join the parts of an upload sends its status first.
        code = _error_code(body) if body else ""
        if response.status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES:
            raise TransientFaultError(f"status {response.status} {code}".rstrip())
        if code in _CREDENTIAL_CODES:
            _log.error("s3_credentials_refused", endpoint=str(self._endpoint), code=code)
            raise DependencyUnavailableError(
                f"The S3 store does not accept the service's own credentials ({code}): an administrator must check "
                "its access key, secret key, region and clock"
            )
        return Answer(response.status, response.headers, body, code)

    def unavailable(self, call: Call, what: str, fault: Exception | None) -> DependencyUnavailableError:
        """The error for a call that got no answer; the details go to the log, since clients see the error."""
        _log.warning(
            "s3_unavailable",
            endpoint=str(self._endpoint),
            method=call.method,
            path=call.path,
            what=what,
            fault=str(fault) if fault else None,
        )
        return DependencyUnavailableError(f"The S3 store is not available: {what}. Try again later")

    def _open_session(self) -> aiohttp.ClientSession:
        """The one session, made by the first call, since it belongs to the event loop that runs then."""
        if self._closed:
            raise RuntimeError("The S3 client is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=_POOL_FACTOR * self._config.concurrency, ssl=not self._config.insecure_tls
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                # A file is its stored bytes, also where somebody has marked it as compressed.
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type"),
                timeout=self._limits(self._config.read_timeout),
            )
        return self._session

    def _timeout(self, call: Call) -> aiohttp.ClientTimeout:
        # A store may be silent for as long as a slow call takes: while it joins parts, or until it has all the bytes.
        return self._limits(max(self._config.read_timeout, call.deadline if call.deadline > DEADLINE else 0))

    def _limits(self, read: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect_timeout, sock_read=read)


async def pause(attempt: int) -> None:
    """Waits before the attempt of that number, counted from 0: longer each time, and for a random share of it."""
    await asyncio.sleep(_random.uniform(0.2, 1.0) * _FIRST_PAUSE * 2 ** (attempt - 1))


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    # Written at once, a large body would hold up the event loop.
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


def xml_text(body: bytes, name: str) -> str:
    """The text of the first element of that name, in any namespace; empty where there is none or `body` is no XML."""
    try:
        # The store is the operator's own, and expat bounds what entities can grow to.
        root = ElementTree.fromstring(body.strip())  # noqa: S314
    except ElementTree.ParseError:
        return ""
    return next((e.text or "" for e in root.iter() if e.tag.rpartition("}")[2] == name), "")


def _error_code(body: bytes) -> str:
    return xml_text(body, "Code") if b"<Error" in body[:1000] else ""
