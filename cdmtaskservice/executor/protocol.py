"""The calls to the service. Each is safe to repeat, and is repeated until it is answered or patience is over.

What an answer means stands in the table of the protocol's page; here is the same table as exceptions:

    2xx                            returns the body
    408, 429, 5xx, no answer       repeated with backoff and jitter; GaveUp after `keep_trying` seconds
    400 with code 30300, 404       NotOurs
    401, 403                       BadToken
    anything else                  Rejected, with the message of the answer
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .failures import BadToken, GaveUp, NotOurs
from .fence import Fence
from .http_pool import break_off, connect
from .jsonlog import Log
from .order import OrderError, WorkOrder, parse_order
from .retry import Retry
from .stopping import Stop

CALL_TIMEOUT = 30.0
"""Seconds without a byte after which a call counts as not answered."""
HEARTBEAT_TIMEOUT = 10.0

_ENDING_TIMEOUTS = (3.0, 3.0, 3.0)
_ENDING_PAUSE = 0.3

_ANSWER_LIMIT = 1 << 28
_INVALID_JOB_STATE = 30300


class Rejected(Exception):
    """The request can never succeed. The message is the service's."""


class _NoAnswer(Exception):
    """Not now. `retry_after` is in seconds, 0 where the answer did not say."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Beat:
    """What the service answers to a heartbeat. stop: the reason to. logs: the offsets from which on somebody follows
    them, by stream."""

    stop: str | None = None
    logs: Mapping[str, int] = field(default_factory=dict)


class Service:
    """The service as one container of one job sees it. Every thread may use it."""

    def __init__(
        self, url: str, job: str, container: int, token: str, keep_trying: float, stop: Stop, log: Log
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the service's URL is {url!r}, which is not of the form http(s)://host[:port][/path]")
        self._https = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port
        job = urllib.parse.quote(job, safe="")
        self._base = f"{parts.path.rstrip('/')}/external_exec/jobs/{job}/container/{container}"
        self._token = token
        self._keep_trying = keep_trying
        self._stop = stop
        self._log = log
        self.fence = Fence()
        """What may be written to S3 while the service is not heard."""
        self._live: set[http.client.HTTPConnection] = set()
        stop.on_set(self._break_off)

    def claim(self, claim: str, attempt: int | None, run: int | None = None) -> WorkOrder:
        """Claim the container. From here on the container token of the order is used.

        attempt, run: what this executor was launched for, as the options have it. Raises Rejected also for an order
        that cannot be read.
        """
        body: dict[str, object] = {"claim": claim}
        if attempt is not None:
            body["attempt"] = attempt
        if run is not None:
            body["run"] = run
        answer = self._call("POST", "/work", body)
        if isinstance(answer, dict) and isinstance(answer.get("token"), str):
            # Set before the order is looked at: a bad order must be reported, and the report needs the token.
            self._token = answer["token"]
        try:
            order = parse_order(answer)
        except OrderError as error:
            raise Rejected(f"the service's work order cannot be carried out: {error}") from error
        self.fence.limit(order.silence_limit)
        return order

    def update(self, state: str, body: Mapping[str, object]) -> None:
        """Report that the container has reached `state`."""
        self._call("PUT", f"/update/{state}", body)

    def heartbeat(self, body: Mapping[str, object]) -> Beat:
        """Say once that we are alive. No answer is no reason to stop: the next one is due soon."""
        try:
            answer = self._once("POST", "/heartbeat", body, HEARTBEAT_TIMEOUT)
        except (_NoAnswer, Rejected) as error:
            self._log.event("heartbeat_failed", error=str(error))
            return Beat()
        if not isinstance(answer, dict):
            return Beat()
        if answer.get("stop") is True:
            return Beat(str(answer.get("reason") or "the service said stop"))
        wanted = answer.get("logs")
        if not isinstance(wanted, dict):
            return Beat()
        return Beat(logs={str(s): o for s, o in wanted.items() if isinstance(o, int) and o >= 0})

    def say_ending(self, body: Mapping[str, object]) -> None:
        """Say, in a few tries, that the attempt is over without a result. Never raises: the engine may kill us next."""
        for timeout in _ENDING_TIMEOUTS:
            try:
                self._once("POST", "/heartbeat", body, timeout)
                return
            except _NoAnswer as error:
                self._log.event("heartbeat_failed", error=str(error))
                time.sleep(_ENDING_PAUSE)
            except Exception as error:
                self._log.event("heartbeat_failed", error=str(error))
                return

    def fresh_inputs(self, files: Sequence[str]) -> Mapping[str, str]:
        """Presigned GETs by S3 file, for those that have expired."""
        answer = self._call("POST", "/inputs", {"files": list(files)})
        return {str(i["file"]): str(i["url"]) for i in _objects(answer, "inputs")}

    def uploads(
        self, files: Sequence[Mapping[str, object]], logs: Sequence[Mapping[str, object]]
    ) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
        """Presigned uploads for `files` and `logs`, in their order."""
        answer = self._call("POST", "/uploads", {"files": list(files), "logs": list(logs)})
        slots = _objects(answer, "files"), _objects(answer, "logs")
        if len(slots[0]) != len(files) or len(slots[1]) != len(logs):
            raise Rejected("the service's answer to an upload does not name every file that was asked for")
        return slots

    def complete_uploads(self, files: Sequence[Mapping[str, object]], logs: Sequence[Mapping[str, object]]) -> None:
        """Finish uploads in parts."""
        self._call("POST", "/uploads/complete", {"files": list(files), "logs": list(logs)})

    def _call(self, method: str, path: str, body: Mapping[str, object]) -> object:
        retry = Retry(self._stop, self._keep_trying)
        while True:
            self._stop.check()
            try:
                return self._once(method, path, body, CALL_TIMEOUT)
            except _NoAnswer as error:
                self._log.event("service_unavailable", call=path, error=str(error))
                if not retry.wait(error.retry_after):
                    raise GaveUp(f"the service did not answer {path} for {self._keep_trying:.0f} s: {error}") from error

    def _once(self, method: str, path: str, body: Mapping[str, object], timeout: float) -> object:
        # A connection a call: calls are few, and a connection kept through minutes of silence is often dead.
        kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout)
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Connection": "close",
        }
        self._live.add(connection)
        sent = self.fence.now()
        try:
            connect(connection, timeout)
            connection.request(method, self._base + path, json.dumps(body).encode(), headers)
            response = connection.getresponse()
            data = response.read(_ANSWER_LIMIT)
            if response.length:
                raise _NoAnswer(f"an answer of more than {_ANSWER_LIMIT} bytes")
        except (OSError, http.client.HTTPException) as error:
            raise _NoAnswer(f"{type(error).__name__}: {error}") from error
        finally:
            self._live.discard(connection)
            connection.close()
        answer = _judged(response.status, data, response.headers.get("Retry-After"))
        # Of a call that was refused it is not certain that the service looked whose the container is.
        self.fence.heard(sent)
        return answer

    def _break_off(self) -> None:
        """When everything stops, nobody waits for an answer any more."""
        for connection in list(self._live):
            break_off(connection)


def _judged(status: int, data: bytes, retry_after: str | None) -> object:
    """The body of a good answer, or the exception that the protocol's table gives for a bad one."""
    try:
        body = json.loads(data) if data else None
    except ValueError:
        body = data
    if 200 <= status < 300:
        if isinstance(body, bytes):
            # Some proxy's page, not the service.
            raise _NoAnswer(f"{status} with a body that is not JSON")
        return body
    detail = body.get("error") if isinstance(body, dict) else None
    code = detail.get("appcode") if isinstance(detail, dict) else None
    message = str(detail.get("message") or detail) if isinstance(detail, dict) else f"HTTP {status}"
    if status in (408, 429) or status >= 500:
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
        raise _NoAnswer(f"HTTP {status}", seconds)
    if status == 404 or (status == 400 and code == _INVALID_JOB_STATE):
        raise NotOurs(message)
    if status in (401, 403):
        raise BadToken(message)
    raise Rejected(message)


def _objects(answer: object, name: str) -> Sequence[Mapping[str, Any]]:
    values = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(values, list) or not all(isinstance(v, dict) for v in values):
        raise Rejected(f"the service's answer has no list {name!r}")
    return values
