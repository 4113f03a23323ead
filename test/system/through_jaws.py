"""A service whose jobs run through JAWS at NERSC, which stand-ins play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cdmtaskservice.embedded.service import EmbeddedService
from cdmtaskservice.embedded.stack import EmbeddedStack
from test.stand_ins.nersc.part import NerscSite

PERLMUTTER, LAWRENCIUM = "perlmutter-jaws", "lawrencium-jaws"

QUICK_JAWS = {
    "KBCTS_RECONCILER__LOOK_DELAY": "0.3",
    "KBCTS_JAWS_SUBMIT_TIMEOUT": "10",
    "KBCTS_JAWS_START_TIME": "0",
    "KBCTS_JAWS_TRANSFER_PATIENCE": "5",
    "KBCTS_NERSC__TIMEOUT": "5",
    "KBCTS_JAWS__TIMEOUT": "5",
}


def jaws_service(
    stack: EmbeddedStack,
    home: Path,
    nersc: NerscSite,
    overrides: Mapping[str, str],
    *,
    name: str = "service",
    command: Sequence[str] = ("-m", "cdmtaskservice.cli", "serve"),
) -> EmbeddedService:
    """A service with both JAWS sites beside the local one."""
    settings = {**nersc.settings(), **overrides}
    return EmbeddedService(stack, home, settings, name=name, command=command)
