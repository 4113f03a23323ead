"""`refdata`: reference data from S3 to where containers read it, verified, and unpacked while it comes.

ROOT/ID                         the data; it appears whole, once everything is right
ROOT/.cts/manifests/ID.jsonl    what it is, see `manifest.py`
ROOT/.cts/incoming/ID/lock      held by the process that stages it
                      archive   the file as it comes; with `pieces.jsonl`, see `pieces.py`
                      tree      what is unpacked of it

A task that died or was stopped goes on with the pieces that it has. Where another try would come to the same, and where
the disk is full, nothing is left.

Plan: `root` (directory, made if missing), `id` (a plain name), `file` (its S3 path), `url`, `size`, `crc64nvme`,
`unpack` (null, "tar.gz", "tar.zst", "gz" or "zip"), `connections`, `piece_size` (bytes), `patience` (seconds without a
byte), `max_files` and `max_bytes` (of what is unpacked).
Result: `files`, `bytes`, and `reused`: whether it was there before.

While it runs, `progress.json` in the task's directory says how far it is.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Callable

from ..archive_tree import Limits, Tree, Written
from ..archives import STREAMED, ZIP, require, unpack, unpack_zip
from ..checksum import decoded, encoded
from ..directory_lock import Held, HeldDirectory
from ..failures import HELD, LATER, ContainerFailure
from ..manifest import read_header, write_manifest
from ..pieces import ARCHIVE, RECORD, Arriving, Pieces
from ..ranged_download import Changed, RangedDownload
from ..retry import Retry
from ..stopping import Stop
from .task import Task, write_aside

_TRIES = 3
"""Whole downloads whose bytes are wrong, before the file counts as another than the one that was registered."""
_SHOW_INTERVAL = 1.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def work(task: Task) -> Mapping[str, object]:
    """Stage the reference data of the task's plan."""
    task.stop.check()
    return _Staging(task).run()


class _Staging:
    """Reference data that is staged."""

    def __init__(self, task: Task) -> None:
        plan = task.plan
        self._task = task
        self._plan = plan
        self._id: str = plan["id"]
        self._file: str = plan["file"]
        self._root: str = plan["root"]
        if not re.fullmatch("[0-9A-Za-z-]{1,64}", self._id) or not self._root.startswith("/"):
            raise ContainerFailure("Reference data cannot be staged there.", f"id {self._id!r}, root {self._root!r}")
        if plan["unpack"] not in (None, ZIP, *STREAMED):
            raise ContainerFailure(f"{self._file} cannot be unpacked as {plan['unpack']!r}.")
        self._manifests = os.path.join(self._root, ".cts/manifests")
        self._incoming = os.path.join(self._root, ".cts/incoming", self._id)
        self._header = {"id": self._id, **{key: plan[key] for key in ("file", "crc64nvme", "size", "unpack")}}
        self._shown = _Shown(os.path.join(task.directory, "progress.json"), plan["size"])

    def run(self) -> Mapping[str, object]:
        for directory in (self._manifests, os.path.dirname(self._incoming)):
            _make_readable(directory)
        try:
            held = HeldDirectory.hold(self._incoming, create=True)
        except Held as error:
            raise ContainerFailure(
                f"Another process stages the reference data {self._id} already.", str(error), HELD
            ) from error
        assert held is not None
        try:
            with self._kept_only_what_helps(held):
                told = self._find() or self._stage()
            held.remove()
            return told
        finally:
            held.release()

    @contextmanager
    def _kept_only_what_helps(self, held: HeldDirectory) -> Iterator[None]:
        """After a failure, what shortens the next try stays, and everything else goes."""
        try:
            yield
        except ContainerFailure as failure:
            if failure.again is None:
                held.remove()
            else:
                held.clear(keep=(ARCHIVE, RECORD))
            raise
        except OSError as error:
            if error.errno not in _NO_ROOM:
                held.clear(keep=(ARCHIVE, RECORD))
                raise
            free = _free(self._root)
            held.remove()
            raise ContainerFailure(
                f"There is no space left for it at the site. {self._file} has {self._plan['size']} bytes, and what is "
                "unpacked of it comes on top.",
                f"{free} bytes are free in {self._root}: {error}",
                LATER,
            ) from error
        except BaseException:
            held.clear(keep=(ARCHIVE, RECORD))
            raise

    def _find(self) -> Mapping[str, object] | None:
        """The result where the data is there already. Raises ContainerFailure where other data is."""
        place = os.path.join(self._root, self._id)
        if not os.path.lexists(place):
            return None
        found = read_header(os.path.join(self._manifests, f"{self._id}.jsonl"))
        if found is not None and self._header.items() <= found.items() and os.path.isdir(place):
            return {"files": found["files"], "bytes": found["bytes"], "reused": True}
        raise ContainerFailure(
            f"A directory {self._id} is there already, and is not known to be {self._file}. An administrator must look "
            "what it is, and remove it if nobody needs it.",
            f"{place}: the manifest says {json.dumps(found)}, the plan {json.dumps(self._header)}",
        )

    def _stage(self) -> Mapping[str, object]:
        require(self._plan["unpack"])
        with self._shown.kept():
            tree = self._received()
            self._shown.phase = "finishing"
            return self._publish(tree)

    def _received(self) -> Tree:
        """What came, once it is what was registered."""
        plan, stop = self._plan, self._task.stop
        retry = Retry(stop, plan["patience"])
        found = ""
        for _ in range(_TRIES):
            if found:
                retry.wait()
            pieces = Pieces(self._incoming, self._header, plan["size"], plan["piece_size"])
            try:
                missing = plan["size"] - pieces.recorded
                if missing > _free(self._root):
                    raise OSError(errno.ENOSPC, f"{missing} bytes are still to come")
                return self._receive(pieces)
            except Changed as changed:
                found = changed.found
                self._task.log.event("wrong_bytes", file=self._file, found=found)
                pieces.forget()
            finally:
                pieces.close()
        raise ContainerFailure(
            f"The file {self._file} has changed since it was registered: expected {plan['size']} bytes with CRC64NVME "
            f"{plan['crc64nvme']}, found {found}. Register it again if the new content is the right one.",
            f"checksum mismatch of {self._file} in {_TRIES} downloads, the last found {found}",
        )

    def _receive(self, pieces: Pieces) -> Tree:
        """Download, and unpack what can be unpacked while it comes. Raises Changed for the wrong bytes."""
        plan, kind = self._plan, self._plan["unpack"]
        scope = Stop(self._task.stop)
        tree = self._new_tree(scope)
        self._shown.begin(tree)
        download = RangedDownload(
            self._file, plan["url"], plan["patience"], plan["connections"], self._shown.add, self._task.log
        )
        refused: ContainerFailure | None = None
        with _beside(lambda: download.fetch(pieces, scope), scope, self._shown.unpacking):
            if kind in STREAMED:
                try:
                    unpack(kind, Arriving(pieces, scope), self._file, tree)
                except ContainerFailure as failure:
                    # It counts once these are known to be the right bytes: until then, they may be to blame.
                    refused = failure
        crc = encoded(pieces.crc())
        if crc != plan["crc64nvme"]:
            raise Changed(f"CRC64NVME {crc}")
        if refused is not None:
            raise refused
        if kind == ZIP:
            unpack_zip(pieces.path, self._file, tree)
        elif kind is None:
            written = Written(plan["size"], decoded(plan["crc64nvme"]))
            tree.adopt(self._file.rpartition("/")[2], pieces.path, written)
        return tree

    def _new_tree(self, stop: Stop) -> Tree:
        path = os.path.join(self._incoming, "tree")
        with suppress(FileNotFoundError):
            shutil.rmtree(path)
        os.mkdir(path)
        os.chmod(path, 0o755)  # noqa: S103
        return Tree(path, self._file, Limits(self._plan["max_files"], self._plan["max_bytes"]), stop)

    def _publish(self, tree: Tree) -> Mapping[str, object]:
        """Give the tree its place. The manifest is there first: data without one is nobody's."""
        files, size = tree.totals()
        manifest = os.path.join(self._incoming, "manifest")
        write_manifest(manifest, {**self._header, "files": files, "bytes": size}, tree.manifest())
        _sync_file_system(self._root)
        self._task.stop.check()
        os.rename(manifest, os.path.join(self._manifests, f"{self._id}.jsonl"))
        os.rename(tree.path, os.path.join(self._root, self._id))
        for directory in (self._manifests, self._root):
            _sync_directory(directory)
        return {"files": files, "bytes": size, "reused": False}


class _Shown:
    """`progress.json`: how far the task is."""

    def __init__(self, path: str, total: int) -> None:
        self._path = path
        self._total = total
        self._lock = threading.Lock()
        self._done = 0
        self._tree: Tree | None = None
        self.phase = "downloading"

    def begin(self, tree: Tree) -> None:
        """It begins, or begins anew."""
        with self._lock:
            self._done = 0
        self._tree = tree
        self.phase = "downloading"

    def add(self, count: int) -> None:
        """So many bytes more are there."""
        with self._lock:
            self._done += count

    def unpacking(self) -> None:
        """All bytes are there."""
        self.phase = "unpacking"

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write the file now and then, and at the end."""
        over = threading.Event()

        def write() -> None:
            while not over.wait(_SHOW_INTERVAL):
                self._write()

        thread = threading.Thread(target=write, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._write()

    def _write(self) -> None:
        tree = self._tree
        told = {
            "phase": self.phase,
            "bytes_done": self._done,
            "bytes_total": self._total,
            "files_done": tree.files_done if tree else 0,
            "bytes_unpacked": tree.bytes_written if tree else 0,
            "time": int(time.time()),
        }
        with suppress(OSError):  # the task's directory may be full, and the data's not
            write_aside(self._path, json.dumps(told))


@contextmanager
def _beside(work: Callable[[], None], scope: Stop, done: Callable[[], None]) -> Iterator[None]:
    """Do `work` in a thread meanwhile, and wait for it at the end. A failure on either side sets `scope`, for both."""

    def run() -> None:
        try:
            work()
            done()
        except BaseException as error:
            scope.set(error)

    thread = threading.Thread(target=run, name="download", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        scope.set(error)
    thread.join()
    scope.check()


def _make_readable(directory: str) -> None:
    """Make a directory that containers of any user may read, and what is missing above it."""
    if os.path.isdir(directory):
        return
    _make_readable(os.path.dirname(directory))
    with suppress(FileExistsError):
        os.mkdir(directory)
        os.chmod(directory, 0o755)  # noqa: S103


def _free(path: str) -> int:
    """Bytes that there is room for."""
    space = os.statvfs(path)
    return space.f_bavail * space.f_frsize


def _sync_file_system(path: str) -> None:
    """Have the disk hold all that was written to the file system of `path`."""
    syncfs: Any = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if syncfs(fd):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(fd)


def _sync_directory(path: str) -> None:
    """Have the disk hold the names in a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
