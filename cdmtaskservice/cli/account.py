"""`cts login`, `logout` and `whoami`: which service, and who asks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cdmtaskservice.cli.service import AsJson, TokenFile, Url, connected, read_token, told
from cdmtaskservice.cli.terminal import Exit, fail, say, show_json, show_table

LoginTokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="Holds your token; - reads it from standard input."),
]


def login(url: Url = None, token_file: LoginTokenFile = None, as_json: AsJson = False) -> None:
    """Remember a service and your token for it, for all commands after this one.

    What is not given is asked for; what you type as the token is not shown. Both are checked before they are kept, in a
    file that you alone can read.
    """
    from cdmtaskservice.client import Client
    from cdmtaskservice.client.profile import Profile, check_token, check_url, save_profile

    try:
        where = check_url(url or os.environ.get("CTS_URL") or _ask_url())
        token = check_token(_ask_token(where) if token_file is None else read_token(token_file))
    except ValueError as exc:
        fail(str(exc))
    profile = Profile(where, token)
    with told(profile), Client(where, token, retries=1) as cts:
        me = cts.whoami()
    try:
        file = save_profile(profile)
    except OSError as exc:
        fail(f"The profile cannot be written: {exc.strerror or exc}")
    if where.startswith("http://") and not where.startswith(("http://127.0.0.1", "http://localhost", "http://[::1]")):
        say("Your token goes over the network unencrypted: ask whether the service has an https URL")
    say(f"{me.user} is logged in at {where}; this is kept in {file}")
    if overridden := [name for name in ("CTS_URL", "CTS_TOKEN", "CTS_TOKEN_FILE") if os.environ.get(name)]:
        say(f"{' and '.join(overridden)} in your environment count more than that")
    if as_json:
        show_json(me.raw)


def logout(as_json: AsJson = False) -> None:
    """Forget what `cts login` has kept. The token itself goes on being good."""
    from cdmtaskservice.client.profile import profile_file, remove_profile

    try:
        was = remove_profile()
    except OSError as exc:
        fail(f"{profile_file()} cannot be removed: {exc.strerror or exc}")
    say("logged out" if was else "nobody was logged in")
    if as_json:
        show_json({})


def whoami(url: Url = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Say who you are to the service, and where in S3 your jobs may read and write."""
    with connected(url, token_file) as cts:
        me = cts.whoami()
    if as_json:
        show_json(me.raw)
        return
    show_table(
        ("what", "value"),
        [
            ("user", me.user),
            *([("roles", ", ".join(me.roles))] if me.roles else []),
            *(("path", f"{allowed.path} ({allowed.perm})") for allowed in me.allowed_paths),
        ],
    )


def _ask_url() -> str:
    from cdmtaskservice.client.errors import NotConfigured
    from cdmtaskservice.client.profile import load_profile

    if not asks():
        fail("Nobody is there to be asked: give --url", Exit.USAGE)
    try:
        known = load_profile()
    except (NotConfigured, ValueError):
        known = None
    return str(typer.prompt("URL of the service", default=known and known.url, err=True))


def _ask_token(url: str) -> str:
    if not asks():
        fail(
            "Nobody is there to be asked: give --token-file FILE, or - for standard input",
            Exit.USAGE,
        )
    return str(typer.prompt(f"Your token for {url}", hide_input=True, err=True))


def asks() -> bool:
    """Whether somebody is at the keyboard."""
    return sys.stdin.isatty()
