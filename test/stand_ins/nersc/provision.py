"""What is there before anything is served: directories, credentials and the `jaws` command."""

from __future__ import annotations

import json
import secrets
import shlex
import sys
from pathlib import Path

from .keys import Clients, write_secret
from .layout import JAWS_USER, NERSC_USER, Layout

_MONTH = 30 * 86400.0


def provision(layout: Layout, url: str) -> None:
    """Make all that is missing. url: the server's, without a path."""
    layout.make()
    if not layout.credentials.exists():
        new_credentials(layout, NERSC_USER, _MONTH)
    if not layout.jaws_token.exists():
        new_jaws_token(layout, JAWS_USER)
    program = Path(__file__).parent / "jaws_command.py"
    words = [sys.executable, "-I", str(program), url]
    layout.jaws_command.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    layout.jaws_command.chmod(0o755)


def new_credentials(layout: Layout, user: str, lifetime: float) -> str:
    """Put a new client of a user into the credentials file; returns its ID. lifetime: seconds."""
    client, key = Clients(layout.clients).add(user, lifetime)
    write_secret(layout.credentials, f"{client.id}\n{key}")
    return client.id


def new_jaws_token(layout: Layout, user: str) -> str:
    """Put a new token of a user into the token file; the tokens of before are good for nothing."""
    token = secrets.token_urlsafe(32)
    write_secret(layout.jaws_token.with_name("jaws-tokens.json"), json.dumps({token: user}))
    write_secret(layout.jaws_token, f"{token}\n")
    return token


def jaws_users(layout: Layout) -> dict[str, str]:
    """Users by their tokens."""
    users: dict[str, str] = json.loads(layout.jaws_token.with_name("jaws-tokens.json").read_text())
    return users
