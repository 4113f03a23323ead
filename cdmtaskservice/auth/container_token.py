"""The tokens of running containers: signed, for one attempt of one container, and expiring.

A token is `ctsc.CLAIM.SIGNATURE`. The claim is JSON and the signature HMAC-SHA256 over its text, both in
base64 for URLs without padding. The texts themselves are compared, so that no second spelling of a token is
valid.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
from dataclasses import dataclass

from cdmtaskservice.domain.errors import InvalidTokenError

MIN_SECRET_LENGTH = 32
"""The shortest secret that may sign, in bytes."""


@dataclass(frozen=True)
class ContainerClaim:
    """What a container token was given for.

    expires: aware UTC, whole seconds; from this instant on the token is not valid.
    """

    job_id: str
    container_number: int
    attempt: int
    expires: datetime.datetime


class ContainerTokens:
    """Makes and verifies container tokens.

    Args:
        secret: signs, and verifies.
        former_secrets: verify only: give the last one here when the secret is changed, until its tokens have
            expired.

    Raises:
        ValueError: a secret is shorter than `MIN_SECRET_LENGTH`.
    """

    def __init__(self, secret: bytes, *former_secrets: bytes) -> None:
        self._secrets = (secret, *former_secrets)
        if any(len(s) < MIN_SECRET_LENGTH for s in self._secrets):
            raise ValueError(f"A secret that signs container tokens needs at least {MIN_SECRET_LENGTH} bytes")

    def mint(self, job_id: str, container_number: int, attempt: int, expires: datetime.datetime) -> str:
        """Make a token; `expires` is aware, and parts of a second are dropped."""
        claim = {"j": job_id, "n": container_number, "a": attempt, "e": int(expires.timestamp())}
        text = _encode(json.dumps(claim, separators=(",", ":")).encode())
        return f"{_PREFIX}{text}.{_signature(self._secrets[0], text)}"

    def verify(self, token: str, now: datetime.datetime) -> ContainerClaim:
        """What the token was given for; whether that is what is being asked for is the caller's to compare.

        Raises:
            InvalidTokenError: it is malformed, was signed by somebody else, or has expired.
        """
        text, dot, signature = token.removeprefix(_PREFIX).partition(".")
        if not (looks_like(token) and len(token) <= _MAX_LENGTH and token.isascii() and dot):
            raise InvalidTokenError("The container token is malformed")
        # All are compared whichever fits, so that time tells nothing about which one did.
        fitting = [hmac.compare_digest(_signature(s, text), signature) for s in self._secrets]
        if not any(fitting):
            raise InvalidTokenError("The container token was not signed by this service")
        claim = _decode(text)
        if now >= claim.expires:
            raise InvalidTokenError(f"The container token expired at {claim.expires.isoformat()}")
        return claim


def looks_like(token: str) -> bool:
    """Whether this is meant to be a container token, and not one of a user."""
    return token.startswith(_PREFIX)


_PREFIX = "ctsc."
_MAX_LENGTH = 1024
# What is signed says what for, so that no signature made with the same secret for another purpose fits.
_PURPOSE = b"cdmtaskservice container token 1\0"


def _signature(secret: bytes, text: str) -> str:
    return _encode(hmac.digest(secret, _PURPOSE + text.encode(), hashlib.sha256))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> ContainerClaim:
    """Read a claim whose signature was found good."""
    try:
        claim = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return ContainerClaim(
            str(claim["j"]),
            int(claim["n"]),
            int(claim["a"]),
            datetime.datetime.fromtimestamp(int(claim["e"]), datetime.UTC),
        )
    except (ValueError, TypeError, LookupError, OverflowError, OSError):
        raise InvalidTokenError("The container token is malformed") from None
