"""An executor that is told that the engine sees its directories elsewhere."""

import pytest

from cdmtaskservice.embedded.image import Pushed
from test.stand_ins.executor_service import Fault, Work

from .executor_worker import Begin, outputs


def test_directories_that_the_engine_sees_elsewhere(begin: Begin, bash_image: Pushed) -> None:
    worker = begin(
        Work(bash_image.by_digest, args=["cat /input_files/seen > /output_files/seen"], inputs={"data/seen": "seen"}),
        {"seen": b"x"},
    )
    # The very same directories, by another name.
    elsewhere = worker.directory.with_name("elsewhere")
    elsewhere.symlink_to(worker.directory)
    assert worker.run("--mount-prefix", f"{worker.directory}:{elsewhere}") == 0
    assert outputs(worker) == {"seen": b"x"}
    assert worker.nothing_left()


def test_directories_that_the_engine_does_not_see(begin: Begin, bash_image: Pushed) -> None:
    worker = begin(Work(bash_image.by_digest, args=["true"]))
    assert worker.run("--mount-prefix", "/no/such:/host") == 0
    error = worker.service.update("error")
    assert error["error"] == "This worker is not set up right. It is not the job's fault."
    assert str(worker.work_dir) in error["admin_error"]
    assert worker.nothing_left()


@pytest.mark.parametrize("run", [1, 2])
def test_started_for_a_run(begin: Begin, bash_image: Pushed, run: int) -> None:
    """A run that the container has moved on from is over: that is no failure."""
    worker = begin(Work(bash_image.by_digest, args=["true"]))
    worker.service.fault = lambda call: Fault(503) if len(worker.service.calls) == 1 else None
    assert worker.run(CTS_EXECUTOR_RUN=str(run)) == 0
    assert [c.body["run"] for c in worker.service.calls if c.path == "/work"] == [run, run]
    assert ("complete" in worker.service.states()) == (run == 1)
    assert worker.nothing_left()
