"""Clients of the Superfacility API, their keys, and the access tokens that they get for a signed assertion."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import os
import secrets
import string
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

TOKEN_LIFETIME = 600
"""Seconds, as at NERSC."""
_ID_LENGTH = 13
_CLOCK_LEEWAY = 60


class InvalidClientError(Exception):
    """An assertion is not to be trusted; the text says why."""


@dataclass(frozen=True)
class Client:
    """A registered client. expires_at: seconds since the epoch."""

    id: str
    user: str
    name: str
    expires_at: float
    public_key: str

    @property
    def expired(self) -> bool:
        """Whether NERSC takes it no more."""
        return time.time() >= self.expires_at

    def told(self) -> dict[str, str]:
        """As `account/clients` lists it."""
        expires = datetime.datetime.fromtimestamp(self.expires_at, datetime.UTC)
        return {"name": self.name, "clientId": self.id, "expiresAt": expires.isoformat(), "comments": ""}


class Clients:
    """The registered clients, in a file that is read anew each time: whoever tests writes to it too."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, Client]:
        """By their IDs."""
        if not self._path.exists():
            return {}
        return {entry["id"]: Client(**entry) for entry in json.loads(self._path.read_text())}

    def add(self, user: str, lifetime: float) -> tuple[Client, str]:
        """Register a new client; returns it with its private key (PEM)."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        client_id = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(_ID_LENGTH))
        client = Client(client_id, user, "cdm task service", time.time() + lifetime, public.decode())
        self._write({**self.all(), client.id: client})
        return client, private.decode()

    def expire(self, client_id: str) -> None:
        """Let a client's time be over."""
        clients = self.all()
        clients[client_id] = Client(**{**asdict(clients[client_id]), "expires_at": time.time() - 1})
        self._write(clients)

    def authenticate(self, assertion: str, audience: str) -> Client:
        """The client that signed an assertion for `audience`. Raises: InvalidClientError."""
        clients = self.all()
        client = clients.get(_issuer(assertion))
        if client is None:
            raise InvalidClientError("unknown client")
        if client.expired:
            raise InvalidClientError("the client has expired")
        rules = jwt.JWTClaimsRegistry(
            leeway=_CLOCK_LEEWAY,
            iss={"essential": True, "value": client.id},
            sub={"essential": True, "value": client.id},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
        )
        try:
            token = jwt.decode(assertion, RSAKey.import_key(client.public_key), algorithms=["RS256"])
            rules.validate(token.claims)
        except (JoseError, ValueError) as e:
            raise InvalidClientError(f"{type(e).__name__}: {e}") from e
        return client

    def _write(self, clients: dict[str, Client]) -> None:
        write_secret(self._path, json.dumps([asdict(c) for c in clients.values()]))


class AccessTokens:
    """Signed, not stored, so that they outlive the process as they outlive a front end at NERSC."""

    def __init__(self, secret: Path) -> None:
        if not secret.exists():
            write_secret(secret, secrets.token_hex())
        self._secret = secret.read_text().encode()
        self._not_before = 0.0

    def issue(self, client: Client) -> str:
        """A token for a client."""
        body = f"{client.id}.{time.time_ns()}"
        return f"{body}.{self._signature(body)}"

    def client_id(self, token: str) -> str | None:
        """Whose token it is, if it is valid."""
        body, _, signature = token.rpartition(".")
        client_id, _, issued = body.partition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(body).encode()) or not issued.isdigit():
            return None
        since = int(issued) / 1e9
        return client_id if since > self._not_before and time.time() < since + TOKEN_LIFETIME else None

    def expire_all(self) -> None:
        """Let all tokens of before be invalid."""
        self._not_before = time.time()

    def _signature(self, body: str) -> str:
        return hmac.new(self._secret, body.encode(), hashlib.sha256).hexdigest()


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole as soon as it is there."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.aside")
    aside.touch(mode=0o600)
    aside.write_text(text)
    aside.replace(path)


def _issuer(assertion: str) -> str:
    """Who claims to have signed an assertion."""
    from base64 import urlsafe_b64decode

    try:
        body = assertion.split(".")[1]
        claims: dict[str, Any] = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return str(claims["iss"])
    except (IndexError, ValueError, KeyError, TypeError) as e:
        raise InvalidClientError("the assertion is no signed JWT") from e
