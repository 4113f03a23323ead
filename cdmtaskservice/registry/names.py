"""Names of container images: read, checked and made unique, without asking any registry.

The grammar is that of the distribution project's reference specification:
`[host[:port]/]path[:tag][@digest]`. Names are normalized so that one image has one name: the default host
and its `library/` are written out, `index.docker.io` becomes `docker.io`, and hosts, whose case has no
meaning, are lower case.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from cdmtaskservice.domain.errors import ImageNameParseError

MAX_NAME_LENGTH = 1000
"""The longest text of a name, in characters."""

DEFAULT_TAG = "latest"


@dataclass(frozen=True)
class ImageName:
    """Which image is meant.

    name: host and path, normalized, such as `docker.io/library/busybox`.
    tag: None only together with a digest.
    digest: `sha256:` and 64 hex digits; where it is given it decides which image is meant, not the tag.
    """

    name: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Read `host/path[:tag][@digest]`; neither tag nor digest means the tag `latest`.

        Raises:
            ImageNameParseError: the text is no image name; the message names the fault and the value.
        """
        if not text:
            raise ImageNameParseError("An image name may not be empty; it looks like host/path:tag")
        if len(text) > MAX_NAME_LENGTH:
            raise ImageNameParseError(
                f"The image name {_shown(text)} has {len(text)} characters, at most {MAX_NAME_LENGTH} are allowed"
            )
        if scheme := _SCHEME.match(text):
            raise _fault(text, f"it is written without '{scheme[0]}'")
        tagged, at, digest = text.partition("@")
        if at and not _DIGEST.fullmatch(digest):
            raise _fault(text, f"the digest {_shown(digest)} is not 'sha256:' followed by 64 of 0-9 and a-f")
        # A colon after the last slash starts a tag; one before it is the port of the host.
        slash, colon = tagged.rfind("/"), tagged.rfind(":")
        name, tag = (tagged[:colon], tagged[colon + 1 :]) if colon > slash else (tagged, None)
        if tag is not None and not _TAG.fullmatch(tag):
            raise _fault(
                text,
                f"the tag {_shown(tag)} is not 1 to 128 of the characters a-z A-Z 0-9 _ . - starting with a letter, a"
                " digit or _",
            )
        if tag is None and not at:
            tag = DEFAULT_TAG
        return cls(_normalize(text, name), tag, digest if at else None)

    def __str__(self) -> str:
        """The full name, which `parse` reads back to the same value."""
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def host(self) -> str:
        """The registry's host, with its port where there is one."""
        return self.name.partition("/")[0]

    @property
    def path(self) -> str:
        """What is named inside the registry."""
        return self.name.partition("/")[2]


_DEFAULT_HOST = "docker.io"
_DEFAULT_HOST_ALIAS = "index.docker.io"
_LIBRARY = "library/"
_MAX_PATH_LENGTH = 255
_MAX_HOST_LENGTH = 253

_SCHEME = re.compile(r"[a-z-]{1,20}://")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_SEGMENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_IPV6 = re.compile(r"\[([0-9a-f:]+)\]")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")


def _normalize(text: str, name: str) -> str:
    """`host/path` of the part of `text` that stands before tag and digest."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, path = _host(text, first), rest
    else:
        host, path = _DEFAULT_HOST, name
        if _IMAGE_ID.fullmatch(name):
            raise _fault(text, "64 hex digits are an image's ID, not its name; a digest is written name@sha256:…")
    if host == _DEFAULT_HOST_ALIAS:
        host = _DEFAULT_HOST
    for segment in path.split("/"):
        _check_segment(text, segment)
    if host == _DEFAULT_HOST and "/" not in path:
        path = _LIBRARY + path
    if len(path) > _MAX_PATH_LENGTH:
        raise _fault(text, f"its path has {len(path)} characters, at most {_MAX_PATH_LENGTH} are allowed")
    return f"{host}/{path}"


def _host(text: str, host: str) -> str:
    bare, colon, port = host.lower(), "", ""
    if not bare.endswith("]"):
        bare, colon, port = bare.rpartition(":") if ":" in bare else (bare, "", "")
    if colon and not (port.isascii() and port.isdigit() and port[0] != "0" and int(port[:6]) <= 65535):
        raise _fault(text, f"the port {_shown(port)} of the host is not a number from 1 to 65535")
    if not (_is_ipv6(bare) or all(_LABEL.fullmatch(label) for label in bare.split("."))):
        raise _fault(text, f"{_shown(bare)} is not a host name: letters, digits and inner '-', parted by single dots")
    if len(bare) > _MAX_HOST_LENGTH:
        raise _fault(text, f"its host has {len(bare)} characters, at most {_MAX_HOST_LENGTH} are allowed")
    return bare + colon + port


def _is_ipv6(host: str) -> bool:
    match = _IPV6.fullmatch(host)
    if not match:
        return False
    try:
        ipaddress.IPv6Address(match[1])
    except ValueError:
        return False
    return True


def _check_segment(text: str, segment: str) -> None:
    if not segment:
        raise _fault(text, "a part of its path is empty; parts are divided by single slashes")
    if _SEGMENT.fullmatch(segment):
        return
    if _SEGMENT.fullmatch(segment.lower()):
        raise _fault(text, f"the part {_shown(segment)} of its path must be lower case")
    raise _fault(
        text,
        f"the part {_shown(segment)} of its path is not of a-z and 0-9 joined by single '.' or '_', by '__' or by '-'",
    )


def _fault(text: str, fault: str) -> ImageNameParseError:
    return ImageNameParseError(f"The image name {_shown(text)} cannot be read: {fault}")


def _shown(value: str) -> str:
    """A value as it may stand in a message: quoted, control characters escaped, not endless."""
    return ascii(value if len(value) <= 200 else value[:200] + "...")
