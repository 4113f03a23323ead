"""What reference data services send, beyond what the path says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cdmtaskservice.domain.parameters import StrictModel, check_text

_MOST = 2**53 - 1

_Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(check_text)]
_Count = Annotated[int, Field(ge=0, le=_MOST)]
_Words = Annotated[str, Field(max_length=100_000)]


def _check_root(path: str) -> str:
    if not check_text(path).startswith("/") or ".." in path.split("/"):
        raise ValueError("must be an absolute path without ..")
    return path.rstrip("/") or "/"


class RefdataWorkRequest(StrictModel):
    """A reference data service looks for something to do."""

    claim: _Name = Field(description="Who asks: the same after a restart, and nobody else's")
    root: Annotated[str, Field(max_length=4096), AfterValidator(_check_root)] = Field(
        description="The directory that holds the data, where the tasks are done"
    )
    room: Annotated[int, Field(ge=0, le=100)] = Field(default=1, description="How many further tasks it can take")


class TransferProgress(StrictModel):
    """How far a transfer has come."""

    phase: Annotated[str, Field(max_length=20), AfterValidator(check_text)]
    bytes_done: _Count = Field(description="Bytes of the file that have come")
    bytes_total: _Count
    files_done: _Count = Field(description="Files that are unpacked")
    bytes_unpacked: _Count
    time: float = Field(ge=0, le=_MOST, allow_inf_nan=False, description="Seconds since 1970")


class RefdataProgress(StrictModel):
    """A sign of life."""

    task: _Name
    claim: _Name
    progress: TransferProgress | None = None


class RefdataUpdate(StrictModel):
    """How a task ended. task and claim as in the work order; without them the staging under way is meant."""

    task: _Name | None = None
    claim: _Name | None = None
    error: _Words | None = Field(default=None, description="For everybody")
    admin_error: _Words | None = Field(default=None, description="For administrators")
    traceback: _Words | None = None
    again: Literal["later", "renewed", "absent", "held"] | None = Field(
        default=None, description="When another try is worth it; left out where it would end the same"
    )
    crashed: bool = Field(default=False, description="It ended without saying why")
    files: _Count | None = Field(default=None, description="Files that are staged")
    bytes: _Count | None = Field(default=None, description="Bytes of these")
