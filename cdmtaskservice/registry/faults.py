"""What crane's error texts mean.

Crane exits with 1 whatever went wrong, so only its text tells. The patterns were taken from crane 0.20
against real registries; each needs a blank or a colon where a name or a tag can have none, so that no image
name is taken for a fault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cdmtaskservice.domain.errors import CTSError, ImageFetchError, ImageNameParseError
from cdmtaskservice.registry.names import ImageName


def crane_fault(name: ImageName, stderr: str) -> CTSError:
    """The error to raise when crane failed on image `name` with these words: what is wrong and what to do."""
    line = _error_line(stderr)
    for fault in _FAULTS:
        if fault.pattern.search(line):
            return fault.error(fault.message.format(image=name, host=name.host, text=_shown(line)))
    return ImageFetchError(f"The registry {name.host} did not give image {name}: {_shown(line)}")


def is_answer(stderr: str) -> bool:
    """Whether crane failed because of what the registry, or crane itself, has to say of the image."""
    line = _error_line(stderr)
    return next((fault.answer for fault in _FAULTS if fault.pattern.search(line)), False)


def error_line(stderr: str) -> str:
    """The line of crane's output that says why it failed, not longer than a message may be."""
    return _shown(_error_line(stderr))


_MAX_TEXT = 500


def _error_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("Error:").strip() for line in lines if line.startswith("Error:")]
    return errors[-1] if errors else lines[-1] if lines else "crane failed without a word"


def _shown(line: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in line[:_MAX_TEXT])
    return text + "..." if len(line) > _MAX_TEXT else text


@dataclass(frozen=True)
class _Fault:
    pattern: re.Pattern[str]
    message: str
    error: type[CTSError] = ImageFetchError
    answer: bool = False
    """Whether it is the registry's word on the image, and no fault of the registry's or between us."""


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


# Read from the top: where plain HTTP is allowed crane tries HTTPS first and reports both faults, so those of TLS that
# only say "this was not TLS" come last.
_FAULTS: tuple[_Fault, ...] = (
    _Fault(
        _any_of("could not parse reference"),
        "The image name {image} is not taken by crane: {text}",
        ImageNameParseError,
        answer=True,
    ),
    _Fault(
        _any_of("no child with platform"),
        "Image {image} has no variant for linux/amd64; build it for that platform too and push it",
        answer=True,
    ),
    _Fault(
        _any_of(r"MANIFEST_UNKNOWN: ", r": NAME_UNKNOWN: ", r": NOT_FOUND: ", r"status code 404 "),
        "There is no image {image}: the registry {host} knows no such repository, tag or digest. Compare the name with"
        " what was pushed",
        answer=True,
    ),
    _Fault(
        _any_of(r"UNAUTHORIZED: ", r" DENIED: ", r"status code 40[13] "),
        "The registry {host} does not let the service read image {image}: it is private, or does not exist. Make it"
        " public, or give the service credentials for the registry",
        answer=True,
    ),
    _Fault(
        _any_of(r" TOOMANYREQUESTS: ", r"status code 429 "),
        "The registry {host} refuses image {image} for now, having been asked too often; try again later",
    ),
    _Fault(
        _any_of("no such host", "server misbehaving", "failure in name resolution"),
        "The registry host {host} of image {image} is not known; check its spelling",
    ),
    _Fault(
        _any_of("connection refused"),
        "The registry {host} of image {image} refuses connections; check host and port, or try again later",
    ),
    _Fault(
        _any_of("x509: ", "certificate "),
        "The certificate of the registry {host} of image {image} is not trusted ({text}); install its authority's"
        " certificate where the service runs, or name the host among the insecure registries",
    ),
    _Fault(
        _any_of(
            "i/o timeout",
            "deadline exceeded",
            "handshake timeout",
            "no route to host",
            "network is unreachable",
        ),
        "The registry {host} of image {image} cannot be reached ({text}); see whether the service may reach it, or try"
        " again later",
    ),
    _Fault(
        _any_of(r"status code 5\d\d "),
        "The registry {host} fails when asked for image {image} ({text}); try again later",
    ),
    _Fault(
        _any_of("server gave HTTP response to HTTPS client"),
        "The registry {host} of image {image} speaks plain HTTP only; serve it over HTTPS, or name the host among the"
        " insecure registries",
    ),
    _Fault(
        _any_of("tls: ", "malformed HTTP response", ": EOF$", "connection reset"),
        "What answers at {host} for image {image} does not speak as a registry does ({text}); check host and port",
    ),
)
