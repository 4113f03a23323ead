"""What is tried again, and when.

| what happened | a request that may be repeated | any other |
|---|---|---|
| no connection could be made | again | again |
| the connection broke, or nothing came in time | again | no |
| HTTP 502, 503, 504 | again | no |
| HTTP 429 | again | no |
| a certificate that is not trusted | no | no |
| any other reply | no | no |

GET, PUT and DELETE may be repeated, and so may a submission, since its idempotency key makes one job of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cdmtaskservice.client.effects import Flow, NetworkFault, pause, send
from cdmtaskservice.client.errors import ServiceUnreachable, read_error
from cdmtaskservice.client.requests import Reply, Request

AWAY = frozenset({502, 503, 504})
"""The service, or something before it, cannot serve now."""
TRIED_AGAIN = AWAY | {429}

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 10.0
_LONGEST_ASKED_FOR = 60.0


@dataclass(frozen=True)
class Backoff:
    """How long to wait between tries, in seconds: twice as long each time, with jitter, bounded.

    jitter: gives numbers from 0 to 1, each time another.
    """

    jitter: Callable[[], float]
    first: float = _FIRST_DELAY
    longest: float = _LONGEST_DELAY

    def delay(self, number: int, headers: Mapping[str, str] | None = None) -> float:
        """After so many tries, from 0; no less than what a reply asks for, within bounds."""
        base = min(self.longest, self.first * float(2 ** min(number, 30)))
        own = base * (0.5 + self.jitter() / 2)
        return max(own, min(_asked_for(headers or {}), _LONGEST_ASKED_FOR))


@dataclass(frozen=True)
class Retrying:
    """Sends requests until they are answered, so many times again as `retries` says."""

    retries: int
    backoff: Backoff

    def call(self, request: Request, step: Callable[[Request], Flow[Reply]] = send) -> Flow[Reply]:
        """The reply. `step` is what sends: `send`, or `open_`.

        Raises ServiceUnreachable where there is none, and ServiceError for one that is an error.
        """
        uncertain = False
        for number in itertools.count():
            trouble: NetworkFault | Reply
            try:
                trouble = yield from step(request)
            except NetworkFault as fault:
                trouble = fault
            if isinstance(trouble, Reply) and trouble.status not in TRIED_AGAIN:
                return replace(trouble, repeated=uncertain).check()
            if number >= self.retries or not may_try_again(request, trouble):
                raise given_up(trouble, request) from None
            uncertain = uncertain or not isinstance(trouble, NetworkFault) or trouble.arrived
            yield from pause(self.backoff.delay(number, trouble.headers if isinstance(trouble, Reply) else None))
        raise AssertionError


def may_try_again(request: Request, trouble: NetworkFault | Reply) -> bool:
    """Whether the table above says so."""
    if isinstance(trouble, Reply):
        return request.repeatable
    return not trouble.hopeless and (request.repeatable or not trouble.arrived)


def given_up(trouble: NetworkFault | Reply, request: Request) -> Exception:
    """The error for whoever called."""
    done = "" if request.repeatable else "; it may have been carried out all the same"
    if isinstance(trouble, NetworkFault):
        text = f"The service does not answer: {trouble}{done if trouble.arrived else ''}"
        return ServiceUnreachable(text, hopeless=trouble.hopeless, unknown_host=trouble.unknown)
    error = read_error(trouble.status, trouble.body)
    if trouble.status not in AWAY:
        return error
    text = f"The service cannot answer now (HTTP {trouble.status}): {error.message}{done}"
    return ServiceUnreachable(text, http_status=trouble.status, request_id=error.request_id)


def _asked_for(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
