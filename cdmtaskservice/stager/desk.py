"""What a reference data service asks of the CDM Task Service: over HTTP, or in the same process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

_TIMEOUT = 30.0
"""Seconds for an answer."""


class DeskUnreachableError(Exception):
    """The service does not answer, or not as it should; asked again later it may."""


class DeskRefusedError(Exception):
    """The service has understood, and said no."""


class Desk(Protocol):
    """Every call may be repeated. Raises: DeskUnreachableError, DeskRefusedError."""

    async def work(self, site: str, claim: str, root: str, room: int) -> Mapping[str, Any]:
        """`work`: the tasks that this claim has, and `room` more at most. `report_interval`: in seconds."""
        ...

    async def progress(self, refdata_id: str, site: str, told: Mapping[str, Any]) -> bool:
        """Tell how far a task is. Returns whether it must stop."""
        ...

    async def update(self, refdata_id: str, site: str, state: str, told: Mapping[str, Any]) -> None:
        """Tell how a task ended."""
        ...


class HttpDesk:
    """A `Desk` over HTTP."""

    def __init__(self, url: str, token_file: Path) -> None:
        """url: of the service. token_file: holds a token with the role of reference data services; it is read for each
        call, so that it can be renewed."""
        self._token_file = token_file
        self._client = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def work(self, site: str, claim: str, root: str, room: int) -> Mapping[str, Any]:
        """See `Desk`."""
        reply = await self._call(
            "POST", f"/external_exec/refdata/{site}/work", {"claim": claim, "root": root, "room": room}
        )
        told = _object(reply)
        if not isinstance(told.get("work"), list) or "report_interval" not in told:
            raise DeskUnreachableError(f"{reply.request.url} answers what is no work: {reply.text[:200]}")
        return told

    async def progress(self, refdata_id: str, site: str, told: Mapping[str, Any]) -> bool:
        """See `Desk`."""
        reply = await self._call("POST", f"/external_exec/refdata/{refdata_id}/{site}/progress", told)
        told = _object(reply)
        if "stop" not in told:
            raise DeskUnreachableError(f"{reply.request.url} does not say whether to stop: {reply.text[:200]}")
        return bool(told["stop"])

    async def update(self, refdata_id: str, site: str, state: str, told: Mapping[str, Any]) -> None:
        """See `Desk`."""
        reply = await self._call("PUT", f"/external_exec/refdata/{refdata_id}/{site}/update/{state}", told)
        if reply.status_code != httpx.codes.NO_CONTENT:
            raise DeskUnreachableError(f"{reply.request.url} answers {reply.status_code}: {reply.text[:200]}")

    async def _call(self, method: str, path: str, body: Mapping[str, Any]) -> httpx.Response:
        try:
            token = self._token_file.read_text(encoding="utf-8").strip()
            headers = {"Authorization": f"Bearer {token}"}
            reply = await self._client.request(method, path, json=body, headers=headers)
        except (OSError, UnicodeError, httpx.HTTPError, httpx.InvalidURL) as e:
            raise DeskUnreachableError(f"{self._client.base_url} {method} {path}: {type(e).__name__} {e}") from e
        if reply.is_success:
            return reply
        words = f"{self._client.base_url} {method} {path}: HTTP {reply.status_code}: {_message(reply)}"
        # A token that is not taken is a matter for whoever runs this, and the work is not lost by it.
        if reply.status_code >= 500 or reply.status_code in {401, 403, 408, 429}:
            raise DeskUnreachableError(words)
        raise DeskRefusedError(words)


def _object(reply: httpx.Response) -> Mapping[str, Any]:
    """The JSON of an answer. Raises: DeskUnreachableError, as it may come from something that stands before it."""
    try:
        told = reply.json()
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise DeskUnreachableError(f"{reply.request.url} answers what is no JSON object: {reply.text[:200]}")
    return told


def _message(reply: httpx.Response) -> str:
    """The words of a refusal."""
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return reply.text[:500]
