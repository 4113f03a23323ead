"""Between the core's requests and httpx's, for both drivers.

A token goes to the service's own URL and nowhere else: it is put on each request for the service here, and requests for
presigned URLs go through another client, which knows none.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx

from cdmtaskservice.client.effects import NetworkFault
from cdmtaskservice.client.profile import Profile
from cdmtaskservice.client.requests import Reply, Request

_CONNECT_TIMEOUT = 15.0


@dataclass(frozen=True)
class Wire:
    """How requests are sent. timeout: seconds without a byte, before a request is given up."""

    profile: Profile
    timeout: float
    agent: str = field(default="")

    def service_request(self, client: httpx.Client | httpx.AsyncClient, request: Request) -> httpx.Request:
        """A request to the service, or without the token to a store."""
        headers = {"user-agent": self.agent, **request.headers}
        url = request.url
        if url is None:
            url = self.profile.url + request.path
            headers.setdefault("accept", "application/json")
            if self.profile.token is not None:
                headers["authorization"] = f"Bearer {self.profile.token}"
        try:
            return client.build_request(
                request.method,
                url,
                params=dict(request.query) or None,
                headers=headers,
                content=request.body,
                timeout=self.limits(request.read_timeout),
            )
        except httpx.InvalidURL:
            raise NetworkFault("a URL cannot be read", arrived=False, hopeless=True) from None

    def limits(self, read: float | None = None) -> httpx.Timeout:
        """httpx's timeouts."""
        return httpx.Timeout(
            connect=min(self.timeout, _CONNECT_TIMEOUT), read=read or self.timeout, write=self.timeout, pool=None
        )


def new_wire(profile: Profile, timeout: float) -> Wire:
    """The wire of a client."""
    try:
        ours = version("cdmtaskservice")
    except PackageNotFoundError:
        ours = "unknown"
    _keep_secrets_out_of_logs()
    return Wire(profile, timeout, f"cdmtaskservice-client/{ours}")


def client_settings() -> dict[str, Any]:
    """What both of httpx's clients are made with. Redirects are not followed: they could lead the token astray."""
    return {
        "follow_redirects": False,
        # A program may wait for hundreds of jobs, each by a stream; with a bound, some would wait for a connection.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=30),
    }


def reply_of(response: httpx.Response, body: bytes = b"") -> Reply:
    """A reply of httpx's as the core knows it."""
    return Reply(response.status_code, _headers(response.headers), body)


def fault_of(error: Exception) -> NetworkFault:
    """What the core is told of an error of httpx's, with nothing of the request in it."""
    unsent = (
        httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol | httpx.ProxyError
    )
    if isinstance(error, httpx.TimeoutException):
        kind = "no connection" if isinstance(error, unsent) else "no answer"
        return NetworkFault(f"{kind} in time", arrived=not isinstance(error, unsent), silent=True)
    cause = _root(error)
    distrusted = isinstance(cause, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error)
    return NetworkFault(
        _text(error),
        arrived=not isinstance(error, unsent),
        hopeless=distrusted or isinstance(error, httpx.UnsupportedProtocol),
        unknown=isinstance(cause, socket.gaierror) or "Name or service not known" in str(error),
    )


def _text(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if "http://" not in text and "https://" not in text else type(error).__name__


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _headers(headers: httpx.Headers) -> Mapping[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class _WithoutQueries(logging.Filter):
    """httpx logs each URL; that of a presigned request is as good as a password for what it names."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_masked, record.args))
        return True


def _masked(value: object) -> object:
    signed = isinstance(value, httpx.URL) and any("signature" in name.lower() for name in value.params)
    return f"{str(value).partition('?')[0]}?…" if signed else value


_FILTER = _WithoutQueries()


def _keep_secrets_out_of_logs() -> None:
    logging.getLogger("httpx").addFilter(_FILTER)  # once: the same filter is not added again
