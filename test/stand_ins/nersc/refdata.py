"""JAWS's copying of reference data to the sites that are not at NERSC, as `USER_TEAM_ID_changes.txt` asks for it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

from .layout import ELSEWHERE, Layout
from .switches import Switches

_INTERVAL = 0.1
_REQUEST = re.compile(r"[^_/]+_[^_/]+_[^_/]+_changes\.txt")


class RefdataCopies:
    """Looks for requests, and does what they ask."""

    def __init__(self, layout: Layout, switches: Switches) -> None:
        self._layout = layout
        self._switches = switches

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if not self._switches["hold_copies"]:
                for request in sorted(self._layout.refdata_dir.glob("*_changes.txt")):
                    if _REQUEST.fullmatch(request.name):
                        await asyncio.to_thread(self._serve, request)
            await asyncio.sleep(_INTERVAL)

    def _serve(self, request: Path) -> None:
        fails = self._switches.take("copy_fails")
        named = [line for line in request.read_text().splitlines() if line.strip()]
        for site in ELSEWHERE:
            result = "failed" if fails else "succeeded"
            for name in named if not fails else ():
                try:
                    self._copy(name, self._layout.refdata_at(site))
                except (OSError, ValueError) as error:
                    result = f"failed: {error}"
            log = self._layout.refdata_dir / "log" / f"{request.name}_{site}.complete"
            aside = log.with_name(f".{log.name}")
            aside.write_text(json.dumps({"result": result}))
            aside.rename(log)
        request.unlink()

    def _copy(self, name: str, to: Path) -> None:
        """Make the directory there what it is here."""
        if ".." in Path(name).parts or name.startswith("/"):
            raise ValueError(f"{name} is no directory of reference data")
        source, target = self._layout.refdata_dir / name, to / name
        if target.exists():
            shutil.rmtree(target)
        if source.exists():
            shutil.copytree(source, target, symlinks=True)
