"""`stage`: a job's inputs into the cache of a site, each verified, under a name that says what it is.

A cached file is named by its checksum and size, so it serves every job that has the same bytes as an input. It is
never trusted: what lies there is read and checked before it is used again, and fetched anew where it differs. When it
was last used is its modification time.

Plan: `cache` (directory), `inputs` (each `file`, its `name` in the cache, `url`, `size`, `crc64nvme`), `connections`,
`patience` (seconds without a byte).
Result: `fetched` and `reused`, numbers of files.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ..checksum import READ_SIZE, crc64nvme, encoded
from ..download import Downloads
from ..order import InputFile
from ..parallel import for_each
from ..reporting import Progress
from ..stopping import Stop
from .task import Task, make_open


def work(task: Task) -> Mapping[str, object]:
    """Stage the inputs of the task's plan."""
    task.stop.check()
    plan = task.plan
    cache: str = plan["cache"]
    make_open(cache)
    wanted = {i["name"]: i for i in plan["inputs"]}  # the same bytes may be an input twice
    inputs = [
        InputFile(file=i["file"], path=name, url=i["url"], size=i["size"], crc64nvme=i["crc64nvme"])
        for name, i in wanted.items()
    ]
    missing = _missing(cache, inputs, plan["connections"], task.stop)
    urls = {i.file: i.url for i in missing}
    if missing:
        for directory in {os.path.dirname(i.path) for i in missing}:
            make_open(os.path.join(cache, directory))
        aside = tempfile.mkdtemp(prefix=".incoming-", dir=cache)
        try:
            downloads = Downloads(
                lambda files: {f: urls[f] for f in files},
                Progress(),
                plan["patience"],
                plan["connections"],
                task.log,
            )
            downloads.fetch(missing, cache, aside, task.stop)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        for name in (i.path for i in missing):
            # Containers get this very file, by a hard link: the engine's user may read it, and nobody write to it.
            os.chmod(os.path.join(cache, name), 0o440)
    return {"fetched": len(missing), "reused": len(inputs) - len(missing)}


def _missing(cache: str, inputs: Sequence[InputFile], threads: int, stop: Stop) -> list[InputFile]:
    """Those that are not in the cache as they should be. The others are marked as just used."""
    there: set[str] = set()
    scope = Stop(stop)

    def one(wanted: InputFile) -> None:
        path = os.path.join(cache, wanted.path)
        if _holds(path, wanted, scope):
            os.utime(path)
            os.chmod(path, 0o440)  # it may be of a stage that failed on the way
            there.add(wanted.path)

    for_each(inputs, one, threads, scope)
    return [i for i in inputs if i.path not in there]


def _holds(path: str, wanted: InputFile, stop: Stop) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        os.unlink(path)
        return False
    crc = 0
    with os.fdopen(fd, "rb", buffering=0) as file:
        info = os.fstat(fd)
        good = stat.S_ISREG(info.st_mode) and info.st_size == wanted.size
        while good and (data := file.read(READ_SIZE)):
            stop.check()
            crc = crc64nvme(data, crc)
    if good and encoded(crc) == wanted.crc64nvme:
        return True
    with suppress(FileNotFoundError):
        os.unlink(path)  # a job that has linked it keeps what it has
    return False
