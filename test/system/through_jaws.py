"""A service whose jobs run through JAWS at NERSC, which stand-ins play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cdmtaskservice.embedded.service import EmbeddedService
from cdmtaskservice.embedded.stack import EmbeddedStack
from test.stand_ins.nersc.part import NerscSite

PERLMUTTER, LAWRENCIUM = "perlmutter-jaws", "lawrencium-jaws"

QUICK_JAWS = {
    "KBCTS_JAWS_SUBMIT_TIMEOUT": "10",
    "KBCTS_JAWS_START_TIME": "0",
    "KBCTS_JAWS_TRANSFER_PATIENCE": "5",
    "KBCTS_NERSC__TIMEOUT": "5",
    "KBCTS_JAWS__TIMEOUT": "5",
}


def jaws_settings(nersc: NerscSite) -> Mapping[str, str]:
    """The variables of the settings template by which a service finds the stand-ins."""
    paths = {
        "KBCTS_NERSC_CREDENTIALS_FILE": nersc.credentials_file,
        "KBCTS_NERSC_CODE_DIR": nersc.code_dir,
        "KBCTS_JAWS_TOKEN_FILE": nersc.jaws_token_file,
        "KBCTS_JAWS_EXECUTABLE": nersc.jaws_command,
        "KBCTS_JAWS_STAGING_DIR": nersc.staging_dir,
        "KBCTS_JAWS_SUBMIT_STAGING_DIR": nersc.submit_staging_dir,
        "KBCTS_JAWS_OUTPUTS_DIR": nersc.outputs_dir,
        "KBCTS_JAWS_SUBMIT_OUTPUTS_DIR": nersc.submit_outputs_dir,
        "KBCTS_JAWS_SCRATCH_DIR": "/pscratch/cts",
    }
    return {
        **{name: str(path) for name, path in paths.items()},
        "KBCTS_NERSC_API_URL": nersc.sfapi_url,
        "KBCTS_NERSC_TOKEN_URL": nersc.token_url,
        "KBCTS_NERSC_USER": nersc.nersc_user,
        "KBCTS_JAWS_URL": nersc.jaws_url,
        "KBCTS_JAWS_USER": nersc.jaws_user,
        "KBCTS_JAWS_TEAM": nersc.jaws_team,
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
    settings = {**jaws_settings(nersc), **overrides}
    return EmbeddedService(stack, home, settings, name=name, command=command)
