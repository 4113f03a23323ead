"""Which directories of the worker a container gets, and under which path the engine knows them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .failures import ContainerFailure
from .order import WorkOrder
from .runtimes import Mount
from .workdir import WorkDir

NO_MOUNT_HAS = ',"\n'
"""Characters that no mounted path may have: a mount is handed to the engine as comma-separated fields."""


@dataclass(frozen=True)
class MountPrefix:
    """The engine sees what is at `here` at `there`. Both are absolute, without a slash at their end."""

    here: str
    there: str

    @classmethod
    def parse(cls, text: str) -> MountPrefix:
        """Of the form FROM:TO. Raises ValueError."""
        paths = text.split(":")
        if len(paths) != 2 or any(
            not p.startswith("/") or os.path.normpath(p) != (p.rstrip("/") or "/") or set(p) & set(NO_MOUNT_HAS)
            for p in paths
        ):
            raise ValueError(f"{text!r} is not of the form FROM:TO with two plain absolute paths")
        return cls(*(p.rstrip("/") for p in paths))

    def there_is(self, path: str) -> str:
        """Where the engine sees `path`. Raises ContainerFailure for one that it does not see."""
        if path != self.here and not path.startswith(self.here + "/"):
            raise ContainerFailure(
                "This worker is not set up right. It is not the job's fault.",
                f"{path} is not below {self.here or '/'}, the only directory that --mount-prefix says the container "
                f"engine sees",
            )
        return self.there + path[len(self.here) :]


def mounts_of(order: WorkOrder, work: WorkDir, refdata_dir: str | None, prefix: MountPrefix | None) -> Sequence[Mount]:
    """The mounts of the order's container, as the engine is told them.

    Raises ContainerFailure where this worker does not have the reference data, or the engine does not see a directory.
    """
    mounts = [
        Mount(work.input, order.input_mount_point, read_only=True),
        Mount(work.output, order.output_mount_point, read_only=False),
    ]
    if order.refdata:
        place = os.path.join(refdata_dir, order.refdata.id) if refdata_dir else None
        if place is None or not os.path.isdir(place) or set(place) & set(NO_MOUNT_HAS):
            raise ContainerFailure(
                f"This worker does not have the reference data {order.refdata.id}.",
                f"no usable directory {place} below --refdata-dir {refdata_dir}",
            )
        mounts.append(Mount(os.path.abspath(place), order.refdata.mount_point, read_only=True))
    return [replace(m, source=prefix.there_is(m.source)) for m in mounts] if prefix else mounts
