"""How containers of a run that failed at JAWS are recorded."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cdmtaskservice.domain.states import JobState
from cdmtaskservice.reconciler.jaws_results import JawsResults
from cdmtaskservice.store.containers import ContainerStore
from cdmtaskservice.store.files import FileStore
from test.stand_ins.clockwork import START
from test.unit.api_records import job_record


class Reports:
    """Instead of the store: what is reported, by container."""

    def __init__(self) -> None:
        self.told: dict[int, tuple[JobState, dict[str, Any]]] = {}

    async def report(self, job_id: str, number: int, state: JobState, reached: object, **fields: Any) -> None:
        self.told[number] = (state, fields)


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ({"exit_code": 3, "failure": "it failed", "error": "It exited"}, "It exited"),
        ({"exit_code": 3, "failure": "it failed", "error": None}, None),
        ({"exit_code": None, "failure": "it failed", "error": None}, "JAWS could not start it"),
        ({"exit_code": None, "failure": None, "error": None}, "another container of the job failed"),
        # Of an earlier version of the code at NERSC, before the service was upgraded.
        ({"exit_code": 3, "failure": "it failed", "script_failure": None}, None),
        ({"exit_code": None, "failure": "it failed", "script_failure": None}, "JAWS could not start it"),
    ],
)
async def test_what_owners_are_told(found: dict[str, Any], error: str | None) -> None:
    reports = Reports()
    results = JawsResults(cast("ContainerStore", reports), cast("FileStore", None))
    await results.store_failure(job_record(), [{**found, "outputs": [], "logs": []}], START)
    state, told = reports.told[0]
    assert state is JobState.ERROR
    assert (told["exit_code"], told["admin_error"]) == (found["exit_code"], found["failure"])
    assert told["error"] == error if error is None else error in told["error"]
