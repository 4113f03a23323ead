"""What a browser keeps of a session: the user's token, sealed, so that it is of use to nobody but this service.

A seal is AES-256-GCM over the token and the instant at which the session ends, in base64 for URLs without padding. The
key is derived from a secret that signs container tokens, for this purpose alone. Nothing is stored, so every replica
with the same secrets opens it.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cdmtaskservice.domain.errors import InvalidTokenError

MAX_TOKEN = 2000
"""Bytes of a token: sealed it must fit into a cookie, of which browsers keep 4096 bytes."""

_NONCE = 12
_TIME = 8
_SEAL = b"cdmtaskservice session 1"
_FORM = b"cdmtaskservice form 1"


class SessionSeal:
    """Seals and opens tokens, and marks forms as this service's own.

    Args:
        secret: seals, and opens.
        former_secrets: open only, while the secret is being changed.
    """

    def __init__(self, secret: bytes, *former_secrets: bytes) -> None:
        every = (secret, *former_secrets)
        self._ciphers = [AESGCM(_derived(s, _SEAL)) for s in every]
        self._form_keys = [_derived(s, _FORM) for s in every]

    def seal(self, token: str, expires: datetime.datetime) -> str:
        """The token, sealed until `expires`, which is aware; parts of a second are dropped. Raises: InvalidTokenError
        for one that is too long."""
        data = token.encode()
        if len(data) > MAX_TOKEN:
            raise InvalidTokenError(f"The token has {len(data)} bytes; {MAX_TOKEN} are possible here")
        nonce = secrets.token_bytes(_NONCE)
        content = int(expires.timestamp()).to_bytes(_TIME, "big") + data
        return base64.urlsafe_b64encode(nonce + self._ciphers[0].encrypt(nonce, content, _SEAL)).rstrip(b"=").decode()

    def open(self, sealed: str, now: datetime.datetime) -> str:
        """The token. Raises: InvalidTokenError where it was not sealed by this service, or its time is over."""
        content = self._opened(sealed)
        if content is None or len(content) < _TIME:
            raise InvalidTokenError("The session was not begun by this service")
        if now.timestamp() >= int.from_bytes(content[:_TIME], "big"):
            raise InvalidTokenError("The session is over")
        return content[_TIME:].decode()

    def form_mark(self, cookie: str) -> str:
        """What a form carries that was made for the browser with this cookie."""
        return _mark(self._form_keys[0], cookie)

    def is_form_mark(self, mark: str, cookie: str) -> bool:
        """Whether `form_mark` made it, for this cookie."""
        # All are compared whichever fits, so that time tells nothing about which one did.
        fitting = [hmac.compare_digest(_mark(key, cookie).encode(), mark.encode()) for key in self._form_keys]
        return any(fitting)

    def _opened(self, sealed: str) -> bytes | None:
        try:
            data = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            return None
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(data[:_NONCE], data[_NONCE:], _SEAL)
            except (InvalidTag, ValueError):
                continue
        return None


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=purpose).derive(secret)


def _mark(key: bytes, cookie: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(key, cookie.encode(), hashlib.sha256)).rstrip(b"=").decode()
