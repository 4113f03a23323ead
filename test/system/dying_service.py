"""`cts serve` that kills itself, as kill -9 would, after one chosen outside call has taken effect: see `dying`."""

from __future__ import annotations

import sys
from pathlib import Path

from cdmtaskservice.cli.imports import uncollected

with uncollected():
    from cdmtaskservice.cli.serve import serve
    from cdmtaskservice.events.kafka import KafkaPublisher
    from cdmtaskservice.s3.client import S3Client
    from cdmtaskservice.sites.htcondor.site import HTCondorSite
    from cdmtaskservice.sites.jaws.site import JawsSite
    from cdmtaskservice.sites.local.site import LocalSite
    from cdmtaskservice.store.containers import ContainerStore
    from cdmtaskservice.store.files import FileStore
    from cdmtaskservice.store.jobs import JobStore
    from cdmtaskservice.store.refdata import RefdataStore
    from cdmtaskservice.store.stagings import StagingStore
    from test.system.dying import die_as_told

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
    "handles": (JobStore, "note_handles"),
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
    "register": (RefdataStore, "insert"),
    "retire": (RefdataStore, "retire"),
    "insert_staging": (StagingStore, "insert"),
    "move_staging": (StagingStore, "transition"),
    "note_staging": (StagingStore, "note_flow"),
    "release_staging": (StagingStore, "release"),
    "set_staging": (StagingStore, "set_fields"),
    "claim_errand": (StagingStore, "claim_errand"),
    "end_errand": (StagingStore, "end_errand"),
}


if __name__ == "__main__":
    die_as_told(CALLS)
    serve(Path(sys.argv[sys.argv.index("--config") + 1]))
