"""`cts serve` that kills itself, as kill -9 would, right after one chosen outside call has taken effect.

`CTS_DIE_AFTER` names the call: one of `CALLS`, perhaps with `:` and an argument that it must have, such as a state. It
happens once: a file beside the settings records it.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdmtaskservice.cli.serve import serve
from cdmtaskservice.events.kafka import KafkaPublisher
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.sites.htcondor.site import HTCondorSite
from cdmtaskservice.sites.jaws.site import JawsSite
from cdmtaskservice.sites.local.site import LocalSite
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import FileStore
from cdmtaskservice.store.jobs import JobStore

CALLS: dict[str, tuple[type, str]] = {
    "insert": (JobStore, "insert"),
    "transition": (JobStore, "transition"),
    "lease": (JobStore, "lease"),
    "release": (JobStore, "release"),
    "published": (JobStore, "published"),
    "claim": (ContainerStore, "claim"),
    "report": (ContainerStore, "report"),
    "outputs": (FileStore, "put_outputs"),
    "head": (S3Client, "head_many"),
    "intent": (JobStore, "begin_submission"),
    "handles": (JobStore, "end_submission"),
    "submit": (LocalSite, "submit"),
    "submit_to_pool": (HTCondorSite, "submit"),
    "end_in_pool": (HTCondorSite, "end"),
    "finish": (LocalSite, "release"),
    "note": (JobStore, "note_flow"),
    "begin_task": (JawsSite, "begin_task"),
    "advance": (ContainerStore, "advance"),
    "finish_sending": (JawsSite, "finish_sending"),
    "cancel_run": (JawsSite, "cancel_run"),
    "publish": (KafkaPublisher, "publish"),
}


def die_after(call: str, marker: Path) -> None:
    """Arm the trap; a call with a state fires for that state alone, and for any without."""
    name, _, state = call.partition(":")
    owner, method = CALLS[name]
    original: Callable[..., Any] = getattr(owner, method)

    @functools.wraps(original)
    async def dying(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        told = [getattr(a, "state", a) for a in args[1:]]
        if (not state or any(state in (t, getattr(t, "value", None)) for t in told)) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, dying)


if __name__ == "__main__":
    if call := os.environ.get("CTS_DIE_AFTER"):
        die_after(call, Path(os.environ["CTS_DIE_MARKER"]))
    serve(Path(sys.argv[sys.argv.index("--config") + 1]))
