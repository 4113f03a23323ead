"""Where the service is and who calls: arguments, the environment, and the file that `cts login` writes."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cdmtaskservice.client.errors import NotConfigured


@dataclass(frozen=True)
class Profile:
    """A service's URL, and the user's token there, which is not shown."""

    url: str
    token: str | None = field(default=None, repr=False)


def profile_file(environment: Mapping[str, str] | None = None) -> Path:
    """Where the profile is kept: `CTS_PROFILE_FILE`, else `cts/profile.json` in the user's directory for settings."""
    env = os.environ if environment is None else environment
    return Path(env["CTS_PROFILE_FILE"]) if env.get("CTS_PROFILE_FILE") else _own_directory(env) / "profile.json"


def load_profile(environment: Mapping[str, str] | None = None) -> Profile | None:
    """The profile, None where there is none. Raises NotConfigured where it cannot be read."""
    file = profile_file(environment)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        url, token = found["url"], found.get("token")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is damaged"
        raise NotConfigured(f"The profile {file} cannot be read: {reason}; `cts login` writes a new one") from None
    return Profile(check_url(url), None if token is None else check_token(token))


def save_profile(profile: Profile, environment: Mapping[str, str] | None = None) -> Path:
    """Keep it for this user alone; returns where. What was there is replaced in one step. Raises OSError."""
    file = profile_file(environment)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if file.parent == _own_directory(os.environ if environment is None else environment):
        file.parent.chmod(0o700)  # it may be older, and ours it is; that of CTS_PROFILE_FILE is not
    aside = file.with_name(f".{secrets.token_hex(8)}.part")
    content = json.dumps({"url": check_url(profile.url), "token": profile.token}, indent=2)
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as out:
            out.write(f"{content}\n")
        aside.replace(file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return file


def remove_profile(environment: Mapping[str, str] | None = None) -> bool:
    """Forget it. Whether there was one. Raises OSError."""
    try:
        profile_file(environment).unlink()
    except FileNotFoundError:
        return False
    return True


def resolve(url: str | None, token: str | None, environment: Mapping[str, str] | None = None) -> Profile:
    """The service and the token to use, for what was given.

    url: else `CTS_URL`, else the profile's. token: else `CTS_TOKEN`, else what the file `CTS_TOKEN_FILE` holds, else
    the profile's, which is for no other service than the profile's. Without any, what needs none can be called.

    Raises NotConfigured where nothing says which service, or the token's file cannot be read, and ValueError for a URL
    or a token that cannot be one.
    """
    env = os.environ if environment is None else environment
    url = url or env.get("CTS_URL") or None
    token = token or env.get("CTS_TOKEN") or _token_in_file(env.get("CTS_TOKEN_FILE"))
    known = load_profile(env) if url is None or token is None else None
    if url is None:
        if known is None:
            raise NotConfigured("No service is named: give its url, set CTS_URL, or call `cts login` once")
        url = known.url
    url = check_url(url)
    if token is None and known is not None and known.url == url:
        token = known.token
    return Profile(url, None if token is None else check_token(token))


def check_url(url: str) -> str:
    """A service's URL without the slash at its end. Raises ValueError where it cannot be one."""
    try:
        url = url.strip()
        parts = urlsplit(url)
        port = parts.port
    except (ValueError, AttributeError, TypeError):
        raise ValueError("The service's URL cannot be read") from None
    del port
    if "@" in parts.netloc:
        raise ValueError("The service's URL has a user name in it: give the token instead")  # and do not show it
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is no URL of a service: it must be like https://cts.example.org")
    return url.rstrip("/")


def check_token(token: str) -> str:
    """A token without blanks around it. Raises ValueError, which does not show it, where it cannot be sent."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("The token is empty, or has characters that no token has")
    return token


def _own_directory(env: Mapping[str, str]) -> Path:
    base = env.get("XDG_CONFIG_HOME")
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".config") / "cts"


def _token_in_file(name: str | None) -> str | None:
    if not name:
        return None
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not text"
        raise NotConfigured(f"The token's file {name} (CTS_TOKEN_FILE) cannot be read: {reason}") from None
