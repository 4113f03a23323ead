"""Getting the image, and saying in words why it cannot be had."""

from __future__ import annotations

import re

from .failures import ContainerFailure
from .jsonlog import Log
from .memory import Memory
from .retry import Retry
from .runtimes import Runtime
from .stopping import Stop

OUTAGE_PATIENCE = 3600.0
"""Seconds for which a registry may be out of reach."""
_UNKNOWN_TRIES = 3

# What engines and registries say, in the order in which it is looked for.
_PERMANENT = (
    (
        r"no image found in (image index|manifest list)|does not match the specified platform|no matching manifest",
        "The image {image} has no build for this worker's kind of machine.",
    ),
    (
        r"unauthorized|authentication required|access denied|denied:|forbidden",
        "The registry does not let the worker pull the image {image}.",
    ),
    (
        r"manifest unknown|name unknown|not found: manifest|repository .* not found|blob unknown",
        "The image {image} is not in its registry any more.",
    ),
    (r"no space left|disk quota", "The image {image} could not be stored: the worker's disk was full."),
)
_OUTAGE = re.compile(
    r"connection re(fused|set)|no such host|time-?out|timed out|deadline exceeded|unexpected EOF|\bEOF\b|TLS handshake"
    r"|network is unreachable|no route to host|temporary failure|too many requests|server misbehaving"
    r"|\b(429|500|502|503|504)\b",
    re.IGNORECASE,
)


def ensure_image(runtime: Runtime, image: str, memory: Memory, stop: Stop, log: Log) -> None:
    """Have `image`, named by digest, on this worker; where it was before, that is believed. Raises ContainerFailure.

    An outage is waited for as long as an hour; what the registry says of the image itself is final; anything else is
    tried three times.
    """
    # An engine that has lost a named image says so at the start; for others its file is the image.
    if runtime.named and memory.has_image(runtime.path, image):
        log.event("image_known", image=image)
        return
    if runtime.has_image(image, stop):
        log.event("image_present", image=image)
        memory.learn_image(runtime.path, image)
        return
    retry = Retry(stop, OUTAGE_PATIENCE)
    tries = 0
    while True:
        tries += 1
        said = runtime.pull(image, stop)
        if not said:
            log.event("image_pulled", image=image)
            memory.learn_image(runtime.path, image)
            return
        log.event("image_pull_failed", image=image, error=said)
        words = _permanent(said)
        outage = bool(_OUTAGE.search(said))
        if words:
            raise ContainerFailure(words.format(image=image), f"pull of {image}: {said}")
        if (not outage and tries >= _UNKNOWN_TRIES) or not retry.wait():
            why = "its registry does not answer" if outage else "the administrators see the cause"
            raise ContainerFailure(f"The image {image} could not be pulled: {why}.", f"pull of {image}: {said}")


def _permanent(said: str) -> str | None:
    return next((words for pattern, words in _PERMANENT if re.search(pattern, said, re.IGNORECASE)), None)
