"""A reference data service as a part: a process beside a service's, that brings the data of one site."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cdmtaskservice.embedded.part import Part
from cdmtaskservice.embedded.service import EmbeddedService


class EmbeddedRefdataService(Part):
    """`cts refdata serve` for a site of a service. Several may run for one directory."""

    name: ClassVar[str] = "refdata-service"
    port_names: ClassVar[tuple[str, ...]] = ()
    term_grace: ClassVar[float] = 45.0

    def __init__(
        self,
        service: EmbeddedService,
        site: str,
        directory: Path,
        overrides: Mapping[str, str] | None = None,
        *,
        command: Sequence[str] = ("-m", "cdmtaskservice.cli", "refdata", "serve"),
        name: str = "refdata-service",
    ) -> None:
        """service: must have been started. directory: of the data. overrides: further variables. command: arguments of
        Python that stand for `cts refdata serve`. name: tells several of one service's apart."""
        stack, home = service.stack, service.home.parent
        super().__init__(home / name, stack.logs / f"{home.name}-{name}.log", stack.launcher)
        self.site = site
        self.directory = directory
        self._service = service
        self._overrides = dict(overrides or {})
        self._command = tuple(command)

    def command(self, ports: Mapping[str, int]) -> list[str]:
        template = Path(__file__).parents[2] / "refdata-service.toml.jinja"
        return [sys.executable, *self._command, "--config", str(template)]

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "KBCTS_REFDATA_SERVICE_URL": self._service.url,
            "KBCTS_REFDATA_TOKEN_FILE": str(self._service.token_file("refserv")),
            "KBCTS_REFDATA_SITE": self.site,
            "KBCTS_REFDATA_DIR": str(self.directory),
            "KBCTS_REFDATA_SERVICE__POLL_INTERVAL": "0.5",
            **self._overrides,
        }

    def answers(self) -> bool:
        """Whether it has begun to look for work."""
        return any((self.directory / ".cts/services").glob("*"))
