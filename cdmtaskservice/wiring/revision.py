"""Which commit this is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def git_hash(root: Path = _ROOT) -> str:
    """The commit that runs: CTS_GIT_HASH, which our image sets, or what git says of a checkout; else "unknown"."""
    told = os.environ.get("CTS_GIT_HASH")
    if told:
        return told
    if not (root / ".git").exists():  # an installed package may lie in some other repository, which says nothing of it
        return "unknown"
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env["GIT_CEILING_DIRECTORIES"] = str(root.parent)
    try:
        found = subprocess.run(
            ["git", "-C", root, "rev-parse", "HEAD"], env=env, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
