"""Users as the KBase auth service (auth2) knows them."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Self, TypeVar

import httpx
import structlog
from pydantic import BaseModel, TypeAdapter, ValidationError

from cdmtaskservice.auth.answers import Answers
from cdmtaskservice.auth.base import check_token_syntax, check_user_name
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.errors import DependencyUnavailableError, InvalidTokenError, InvalidUserError
from cdmtaskservice.meter import UNMETERED, Meter, Metered

_log = structlog.get_logger(__name__)

A = TypeVar("A")


@dataclass(frozen=True)
class KBaseAuthOptions:
    """How the auth service is asked.

    timeout: seconds for one request, from connecting to the last byte.
    attempts: how often a request is made before the service counts as away; 1 is no retry.
    backoff: seconds; before the n-th retry there is a wait of a random part of `backoff * 2 ** n`.
    cache_time: seconds for which an answer holds: as long may a revoked token or role still work.
    cache_size: how many answers of each sort (known and unknown tokens, users) are kept.
    connections: how many requests at once; more of them wait, at most for `timeout`.
    """

    timeout: float = 5.0
    attempts: int = 3
    backoff: float = 0.1
    cache_time: float = 60.0
    cache_size: int = 10_000
    connections: int = 20


class KBaseAuthenticator:
    """Asks KBase auth2, and remembers the answers for a short time. Tokens are remembered as hashes only.

    Args:
        url: the auth service's root, such as `https://host/services/auth`.
        options: how it is asked.
        clock: seconds that never go back, for the cache.
        jitter: a random number from 0 to 1, for the waits between retries.
        meter: told of every question that the auth service is asked.
    """

    def __init__(
        self,
        url: str,
        options: KBaseAuthOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.SystemRandom().random,
        meter: Meter = UNMETERED,
    ) -> None:
        self._url = url.rstrip("/")
        self._meter = meter
        self._options = o = options or KBaseAuthOptions()
        self._jitter = jitter
        self._tokens: Answers[bytes, Principal | None] = Answers(
            o.cache_time, o.cache_size, lambda answer: answer is None, clock
        )
        self._users: Answers[str, bool] = Answers(o.cache_time, o.cache_size, lambda answer: answer, clock)
        # Redirects are not followed: a token goes to the configured service and nowhere else.
        self._client = httpx.AsyncClient(
            timeout=o.timeout,
            limits=httpx.Limits(max_connections=o.connections, max_keepalive_connections=o.connections),
            headers={"Accept": "application/json"},
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def authenticate(self, token: str) -> Principal:
        """Who the token belongs to, with all custom roles.

        Raises:
            InvalidTokenError: KBase knows no such token.
            DependencyUnavailableError: the auth service is away, or its answer makes no sense.
        """
        check_token_syntax(token)
        principal = await self._tokens.get(_hash(token), lambda: self._ask_token(token))
        if principal is None:
            raise InvalidTokenError(_UNKNOWN_TOKEN)
        return principal

    async def user_exists(self, user: str, token: str) -> bool:
        """Whether KBase has a user of this name; it answers only who brings a valid `token`.

        Raises:
            InvalidUserError: nobody could have this name.
            InvalidTokenError: KBase knows no such token.
            DependencyUnavailableError: the auth service is away, or its answer makes no sense.
        """
        check_user_name(user)
        check_token_syntax(token)
        # Asked for with a token that is good, so that a bad one of one asker never fails another who waits too.
        await self.authenticate(token)
        return await self._users.get(user, lambda: self._ask_user(user, token))

    async def check(self) -> None:
        """Try whether the auth service answers, and is one.

        Raises:
            DependencyUnavailableError: it does not, or something else does at its URL.
        """
        root = _read(_ROOT, await self._get("/"))
        _log.debug("auth_service_answered", service=root.servicename, version=root.version)

    async def close(self) -> None:
        """Let go of connections; whoever is still waiting is told that the service is shutting down."""
        await self._tokens.close()
        await self._users.close()
        await self._client.aclose()

    async def _ask_token(self, token: str) -> Principal | None:
        answer = await self._get("/api/V2/me", token)
        if answer.refuses_token:
            return None
        me = _read(_ME, answer)
        return Principal(me.user, frozenset(me.customroles))

    async def _ask_user(self, user: str, token: str) -> bool:
        answer = await self._get("/api/V2/users/", token, {"list": user})
        if answer.refuses_token:
            raise InvalidTokenError(_UNKNOWN_TOKEN)
        if answer.appcode == _ILLEGAL_USER_NAME:
            raise InvalidUserError(f"The auth service does not take {user} for a user name")
        return user in _read(_USERS, answer)

    async def _get(self, path: str, token: str | None = None, query: dict[str, str] | None = None) -> _Answer:
        """The service's answer, whatever it says, as long as it is not a passing fault.

        Raises:
            DependencyUnavailableError: every attempt met with a fault.
        """
        with Metered(self._meter, "auth", path.rstrip("/").rpartition("/")[2] or "root") as call:
            answer = await self._get_persistently(path, token, query)
            if answer.refuses_token:
                call.outcome = "refused"
            return answer

    async def _get_persistently(self, path: str, token: str | None, query: dict[str, str] | None) -> _Answer:
        fault = ""
        for attempt in range(self._options.attempts):
            if attempt:
                await asyncio.sleep(self._options.backoff * 2**attempt * self._jitter())
            try:
                answer = await self._get_once(path, token, query)
            except _Fault as e:
                fault = str(e)
            else:
                if not answer.is_passing_fault:
                    return answer
                fault = answer.describe()
            _log.warning("auth_service_fault", path=path, fault=fault, attempt=attempt + 1)
        raise DependencyUnavailableError(
            f"The auth service at {self._url} failed {self._options.attempts} times in a row: {fault}"
        )

    async def _get_once(self, path: str, token: str | None, query: dict[str, str] | None) -> _Answer:
        headers = {"Authorization": token} if token else {}
        url = self._url + path
        try:
            # httpx counts the time between bytes; this counts all of it.
            async with (
                asyncio.timeout(self._options.timeout),
                self._client.stream("GET", url, params=query, headers=headers) as response,
            ):
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MAX_BODY:
                        raise _Fault(f"its answer is larger than {_MAX_BODY} bytes")
                return _Answer(response.status_code, bytes(body))
        except TimeoutError:
            raise _Fault(f"no answer within {self._options.timeout:g} s") from None
        except httpx.HTTPError as e:
            # The texts of httpx name hosts and ports, never headers.
            raise _Fault(f"{type(e).__name__}: {e}") from None


_MAX_BODY = 1024 * 1024
_UNKNOWN_TOKEN = "The auth service does not know this token: it is wrong, expired or revoked"  # noqa: S105

# Application codes of KBase auth2.
_INVALID_TOKEN = 10020
_ILLEGAL_USER_NAME = 30010


class _Fault(Exception):
    """A request came to nothing; another one may not."""


class _ErrorDetail(BaseModel):
    appcode: int | None = None
    message: str | None = None


class _ErrorBody(BaseModel):
    error: _ErrorDetail


class _Me(BaseModel):
    user: str
    customroles: list[str]


class _Root(BaseModel):
    servicename: str
    version: str


_ME = TypeAdapter(_Me)
_ROOT = TypeAdapter(_Root)
_USERS = TypeAdapter(dict[str, str])
_ERROR = TypeAdapter(_ErrorBody)


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes

    @property
    def appcode(self) -> int | None:
        """KBase's own error code, where the body is one of its errors."""
        try:
            return _ERROR.validate_json(self.body).error.appcode
        except ValidationError:
            return None

    @property
    def refuses_token(self) -> bool:
        return self.status == HTTPStatus.UNAUTHORIZED or self.appcode == _INVALID_TOKEN

    @property
    def is_passing_fault(self) -> bool:
        return not self.refuses_token and (
            self.status >= HTTPStatus.INTERNAL_SERVER_ERROR or self.status == HTTPStatus.TOO_MANY_REQUESTS
        )

    def describe(self) -> str:
        code = self.appcode
        return f"HTTP status {self.status}" + (f", error code {code}" if code is not None else "")


def _read(adapter: TypeAdapter[A], answer: _Answer) -> A:
    """What a good answer says."""
    if answer.status != HTTPStatus.OK:
        raise DependencyUnavailableError(f"The auth service answers with {answer.describe()}; is its URL right?")
    try:
        return adapter.validate_json(answer.body)
    except ValidationError:
        raise DependencyUnavailableError(
            "The auth service's answer is not what KBase auth2 answers; is its URL right?"
        ) from None


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
