"""The service, whose looks at jobs stand still for as long as the file that `CTS_LOOKS_HANG` names is there."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from cdmtaskservice.cli.serve import serve
from cdmtaskservice.reconciler.container_jobs import ContainerJobs

_look = ContainerJobs.look


async def _hanging(self: ContainerJobs, *arguments: Any, **named: Any) -> Any:
    while Path(os.environ["CTS_LOOKS_HANG"]).exists():
        await asyncio.sleep(0.05)
    return await _look(self, *arguments, **named)


if __name__ == "__main__":
    ContainerJobs.look = _hanging  # type: ignore[method-assign]
    serve(Path(sys.argv[sys.argv.index("--config") + 1]))
