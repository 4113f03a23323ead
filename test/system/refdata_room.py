"""What the tests of reference data share: archives, an image that looks at its data, and what is at a site."""

import hashlib
import io
import os
import random
import tarfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdmtaskservice.embedded.image import Pushed, build_image, push, shell_image
from cdmtaskservice.embedded.service import BUCKET
from cdmtaskservice.embedded.stack import EmbeddedStack
from test.system.driver import Driver, until

QUICK_REFDATA = {
    "KBCTS_REFDATA__POLL_INTERVAL": "0.2",
    "KBCTS_REFDATA__REPORT_INTERVAL": "0.3",
    "KBCTS_REFDATA__SILENCE": "4",
    "KBCTS_REFDATA__PATIENCE": "4",
    "KBCTS_REFDATA__PIECE_SIZE": "1MiB",
}

_REFTOOL = rb"""#!/bin/bash
# reftool DIRECTORY: what is in it, and whether it can be changed.
cd "$1" || exit 3
find . -type f | LC_ALL=C sort | while read -r file; do sha256sum "$file"; done >/output_files/sums
first=$(find . -type f | head -n 1)
if touch new 2>/dev/null || echo x 2>/dev/null >>"$first" || rm -f "$first" 2>/dev/null || chmod 777 . 2>/dev/null; then
    echo "$1 can be changed"
    exit 5
fi
echo read-only
"""


def push_reftool(stack: EmbeddedStack) -> Pushed:
    """The image, under a name of its own each time, so that each can have reference data of its own."""
    image = build_image(shell_image(stack.parts, _REFTOOL))
    return push(stack.registry, f"tools/reftool-{uuid.uuid4().hex[:8]}", "1.0", image)


def tar_gz(files: Mapping[str, bytes]) -> bytes:
    """An archive of these files, hardly compressed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def random_files(size: int, count: int = 4) -> dict[str, bytes]:
    """So many files of random bytes, `size` bytes together."""
    return {f"db/{n}.bin": os.urandom(size // count) for n in range(count)}


class LargeArchive:
    """A .tar.gz of a few hundred MB on disk: a large file, and a thousand small ones in directories."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.sums: dict[str, str] = {}
        """SHA-256 of each file, by its path."""
        dice = random.Random(file.name)
        with tarfile.open(file, "w:gz", compresslevel=1) as archive:
            for name, size in [
                ("index/large.bin", 220_000_000),
                *((f"parts/{n % 50}/{n}", 40_000) for n in range(1000)),
            ]:
                data = dice.randbytes(size)
                entry = tarfile.TarInfo(name)
                entry.size = size
                archive.addfile(entry, io.BytesIO(data))
                self.sums[f"./{name}"] = hashlib.sha256(data).hexdigest()


class Refdata:
    """What a test does with reference data."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.admin = driver.client("admin")

    async def put(self, data: bytes, name: str = "db.tar.gz") -> str:
        """Put a file into S3; returns its path."""
        return (await self.driver.s3.put(f"{BUCKET}/ref/{uuid.uuid4().hex[:8]}/{name}", data)).path

    async def register(self, file: str, *, unpack: bool = True) -> str:
        """Register a file; returns the ID."""
        reply = await self.driver.client("admin").post(f"/admin/refdata/{file}", params={"unpack": unpack})
        assert reply.status_code == 200, reply.text
        return str(reply.json()["id"])

    async def at(self, refdata_id: str, site: str = "local") -> dict[str, Any]:
        """What administrators see of it at a site."""
        told = await self.driver.admin(f"/admin/refdata/{refdata_id}")
        return next(dict(status) for status in told["statuses"] if status["cluster"] == site)

    async def over(self, refdata_id: str, site: str = "local", state: str = "complete", within: float = 60) -> dict:
        """Wait until its staging at a site is over, in this state."""

        async def there() -> dict[str, Any] | None:
            status = await self.at(refdata_id, site)
            return status if status["state"] in {"complete", "error"} else None

        try:
            status = await until(there, f"{refdata_id} is over at {site}", within)
        except AssertionError as e:
            raise AssertionError(f"{e}; it is {await self.at(refdata_id, site)}") from None
        assert status["state"] == state, status
        return status

    async def approve(self, image: Pushed, refdata_id: str, mount_point: str | None = "/ref") -> None:
        """Approve an image that needs the data."""
        params = {"refdata_id": refdata_id, **({"default_refdata_mount_point": mount_point} if mount_point else {})}
        reply = await self.driver.client("admin").post(f"/admin/images/{image.by_tag}", params=params)
        assert reply.status_code == 200, reply.text

    async def call(self, method: str, path: str, **params: Any) -> tuple[int, int | None]:
        """An administrator's call; returns the status and the application's code of an error."""
        reply = await self.driver.client("admin").request(method, f"/admin/refdata/{path}", params=params)
        return reply.status_code, reply.json()["error"].get("appcode") if reply.status_code >= 400 else None


def files_below(directory: Path) -> dict[str, bytes]:
    """The files of a directory by their path."""
    return {str(f.relative_to(directory)): f.read_bytes() for f in sorted(directory.rglob("*")) if f.is_file()}


def left_by_staging(root: Path) -> list[str]:
    """What staging has left below a store, its locks and names of processes apart."""
    wanted = {"services", "lock"}
    return sorted(
        str(f.relative_to(root))
        for f in root.rglob("*")
        if f.is_file() and not wanted & set(f.relative_to(root).parts) and ".cts/manifests" not in str(f)
    )
