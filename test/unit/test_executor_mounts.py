"""What a container gets of the worker, and under which path the engine is told of it."""

from pathlib import Path

import pytest

from cdmtaskservice.executor.failures import ContainerFailure
from cdmtaskservice.executor.mounts import MountPrefix, mounts_of
from cdmtaskservice.executor.order import parse_order
from cdmtaskservice.executor.workdir import WorkDir

from .test_executor_order import ORDER

REFDATA = {**ORDER, "refdata": {"id": "r-1", "mount_point": "/ref"}}


def test_mounts_as_the_order_says(tmp_path: Path) -> None:
    (tmp_path / "r-1").mkdir()
    mounts = mounts_of(parse_order(REFDATA), WorkDir("/scratch/w"), str(tmp_path), None)
    assert [(m.source, m.target, m.read_only) for m in mounts] == [
        ("/scratch/w/input", "/input_files", True),
        ("/scratch/w/output", "/output_files", False),
        (f"{tmp_path}/r-1", "/ref", True),
    ]


@pytest.mark.parametrize("directory", [None, "/no/such"])
def test_reference_data_that_is_not_here(directory: str | None) -> None:
    with pytest.raises(ContainerFailure, match="does not have the reference data r-1"):
        mounts_of(parse_order(REFDATA), WorkDir("/w"), directory, None)


@pytest.mark.parametrize(
    ("prefix", "source"),
    [
        ("/scratch:/host/x", "/host/x/w/input"),
        ("/scratch/:/host/x/", "/host/x/w/input"),
        ("/scratch/w/input:/in", "/in"),
        ("/:/host", "/host/scratch/w/input"),
        ("/scratch:/", "/w/input"),
    ],
)
def test_every_source_is_given_as_the_engine_sees_it(prefix: str, source: str) -> None:
    assert MountPrefix.parse(prefix).there_is("/scratch/w/input") == source


def test_all_mounts_are_translated(tmp_path: Path) -> None:
    (tmp_path / "ref/r-1").mkdir(parents=True)
    prefix = MountPrefix.parse(f"{tmp_path}:/host")
    mounts = mounts_of(parse_order(REFDATA), WorkDir(f"{tmp_path}/w"), f"{tmp_path}/ref", prefix)
    assert [m.source for m in mounts] == ["/host/w/input", "/host/w/output", "/host/ref/r-1"]
    assert [m.target for m in mounts] == ["/input_files", "/output_files", "/ref"]


@pytest.mark.parametrize("outside", ["/scratchy/w", "/other"])
def test_a_source_that_the_engine_does_not_see(outside: str) -> None:
    with pytest.raises(ContainerFailure) as failure:
        mounts_of(parse_order(ORDER), WorkDir(outside), None, MountPrefix.parse("/scratch:/host"))
    assert failure.value.error == "This worker is not set up right. It is not the job's fault."
    assert f"{outside}/input is not below /scratch" in str(failure.value.admin_error)
