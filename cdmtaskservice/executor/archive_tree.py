"""What comes out of an archive, written where nothing of it can reach anything else.

Whoever made the archive may have meant harm. So all that is believed is what this process has done itself: a directory
is one that it made, below directories that it made; a file is new when it is opened; and a hard link is to a file that
it wrote. Symbolic links are never followed, and each is looked at when all is there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Callable, NamedTuple

from .checksum import READ_SIZE, crc64nvme, encoded
from .failures import ContainerFailure
from .stopping import Stop

_LONGEST_NAME = 255
_LONGEST_PATH = 3072
"""Bytes. Less than Linux allows, so that there is room for where the tree lies."""
_DEEPEST = 100
"""Directories. Deeper ones are nobody's data, and are more than what removes a tree can go down."""
_MOST_STEPS = 40
"""Symbolic links that lead on to others; Linux follows no more."""
_NO_HARD_LINKS = (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP)
_LATEST = 1 << 32
_SHOWN = 200


class Limits(NamedTuple):
    """The most that an archive may unpack to: entries, with the directories that they need, and bytes written."""

    files: int
    bytes: int


class Written(NamedTuple):
    """A file of the tree."""

    size: int
    crc: int


class Tree:
    """Directories and files below `path`, an empty directory that nobody else writes to.

    archive: its name, for messages. Every refusal is a ContainerFailure that names the archive and the entry.
    """

    def __init__(self, path: str, archive: str, limits: Limits, stop: Stop) -> None:
        self.path = path
        self.files_done = 0
        self.bytes_written = 0
        self._archive = archive
        self._limits = limits
        self._stop = stop
        self._entries = 0
        self._directories = {""}
        self._files: dict[str, Written] = {}
        self._links: dict[str, str] = {}
        self._buffer = memoryview(bytearray(READ_SIZE))

    def directory(self, name: str) -> None:
        """Make a directory; one that is there already stays."""
        path = "/".join(self._steps(name))
        self._count(name)
        if path not in self._directories:
            self._enter(path.rpartition("/")[0], name)
            self._make(path, name)

    def file(
        self, name: str, read: Callable[[memoryview], int], executable: bool = False, mtime: float | None = None
    ) -> None:
        """Write a file with what `read` puts into buffers, until it puts nothing."""
        path = self._place(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._creating(name):
            fd = os.open(self._at(path), flags, 0o600)
        try:
            size = crc = 0
            while count := read(self._buffer):
                self._stop.check()
                size += count
                self.bytes_written += count
                if self.bytes_written > self._limits.bytes:
                    raise self._too_large()
                data = self._buffer[:count]
                crc = crc64nvme(data, crc)
                while data:
                    data = data[os.write(fd, data) :]
            # No set-user-ID and the like, whatever the archive says; and the umask does not count here.
            os.fchmod(fd, 0o755 if executable else 0o644)
            if mtime is not None:
                # Not a number, as a header may say, is not larger than 0 either.
                seconds = int(min(mtime, _LATEST)) if mtime > 0 else 0
                os.utime(fd, (seconds, seconds))
        finally:
            os.close(fd)
        self._files[path] = Written(size, crc)
        self.files_done += 1

    def adopt(self, name: str, file: str, written: Written) -> None:
        """Have `file`, which has been checked, in the tree by this name, without a copy."""
        path = self._place(name)
        os.chmod(file, 0o644)
        with self._creating(name):
            try:
                os.link(file, self._at(path), follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                os.rename(file, self._at(path))
        self._files[path] = written
        self.files_done += 1
        self.bytes_written += written.size

    def symlink(self, name: str, target: str) -> None:
        """Make a symbolic link. Whether it stays below the tree, `check_links` says."""
        path = self._place(name)
        if target.startswith("/"):
            raise self.refusal(name, f"is a symbolic link to the absolute path {shown(target)}")
        self._check_text(name, target, "is a symbolic link whose target")
        if not target or len(target.encode()) > _LONGEST_PATH:
            raise self.refusal(name, f"is a symbolic link to {shown(target)}, which no link can hold")
        with self._creating(name):
            os.symlink(target.encode(), self._at(path))
        self._links[path] = target

    def hard_link(self, name: str, target: str) -> None:
        """Have a file that was written before by a second name."""
        source = "/".join(self._steps(target))
        if source not in self._files:
            raise self.refusal(name, f"is a hard link to {shown(target)}, which is no file of the archive before it")
        if "/".join(self._steps(name)) == source:
            return
        path = self._place(name)
        with self._creating(name):
            os.link(self._at(source), self._at(path), follow_symlinks=False)
        self._files[path] = self._files[source]
        self.files_done += 1

    def check_links(self) -> None:
        """Refuse a symbolic link that leads out of the tree, be it by others and only to come back."""
        for path, target in self._links.items():
            self._stop.check()
            if not self._stays_below(path):
                raise self.refusal(path, f"is a symbolic link to {shown(target)}, which leads out of the archive")

    def totals(self) -> tuple[int, int]:
        """The number of files, and their bytes."""
        return len(self._files), sum(w.size for w in self._files.values())

    def manifest(self) -> Iterator[Mapping[str, object]]:
        """What says which files and symbolic links there are, by path."""
        for path in sorted([*self._files, *self._links]):
            if path in self._links:
                yield {"path": path, "link": self._links[path]}
            else:
                size, crc = self._files[path]
                yield {"path": path, "size": size, "crc64nvme": encoded(crc)}

    def refusal(self, name: str, what: str) -> ContainerFailure:
        """The failure for the entry `name`, of which `what` goes on to tell."""
        return ContainerFailure(
            f"The file {self._archive} was not unpacked: its entry {shown(name)} {what}. "
            "Pack it anew without, and register it again."
        )

    def _steps(self, name: str) -> Sequence[str]:
        """The directories and the name at the end of a path in the archive; none for its top."""
        self._check_text(name, name, "has a name that")
        if name.startswith("/"):
            raise self.refusal(name, "has an absolute path")
        steps = [s for s in name.split("/") if s not in ("", ".")]
        if ".." in steps:
            raise self.refusal(name, "has a path with '..'")
        if any(len(s.encode()) > _LONGEST_NAME for s in steps):
            raise self.refusal(name, f"has a name of more than {_LONGEST_NAME} bytes")
        if len("/".join(steps).encode()) > _LONGEST_PATH:
            raise self.refusal(name, f"has a path of more than {_LONGEST_PATH} bytes")
        if len(steps) > _DEEPEST:
            raise self.refusal(name, f"lies below more than {_DEEPEST} directories")
        return steps

    def _check_text(self, name: str, text: str, which: str) -> None:
        if "\0" in text:
            raise self.refusal(name, f"{which} has a NUL")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.refusal(name, f"{which} is not UTF-8") from None

    def _place(self, name: str) -> str:
        """Where what is no directory goes: its directory is there, and nothing by its name any more."""
        steps = self._steps(name)
        if not steps:
            raise self.refusal(name, "has no name")
        self._count(name)
        self._enter("/".join(steps[:-1]), name)
        path = "/".join(steps)
        if path in self._directories:
            raise self.refusal(name, "has the name of a directory")
        if path in self._files or path in self._links:
            # Never written through: other names of it keep what they have.
            os.unlink(self._at(path))
            self._files.pop(path, None)
            self._links.pop(path, None)
        return path

    def _enter(self, directory: str, name: str) -> None:
        """Make the directory that the entry `name` lies in, and those above."""
        if directory not in self._directories:
            self._enter(directory.rpartition("/")[0], name)
            self._count(name)
            self._make(directory, name)

    def _make(self, path: str, name: str) -> None:
        """Make a directory in one that is there."""
        if path in self._files or path in self._links:
            what = "a file" if path in self._files else "a symbolic link"
            raise self.refusal(name, f"needs the directory {shown(path)}, which is {what}")
        with self._creating(name):
            os.mkdir(self._at(path), 0o700)
        os.chmod(self._at(path), 0o755)  # noqa: S103
        self._directories.add(path)

    def _at(self, path: str) -> bytes:
        """In bytes: names are UTF-8, whatever this machine's locale says."""
        return os.fsencode(self.path) + b"/" + path.encode()

    @contextmanager
    def _creating(self, name: str) -> Iterator[None]:
        """Refuses what this file system cannot have: another try would come to the same."""
        try:
            yield
        except FileExistsError as error:
            raise self.refusal(name, "has a name that this file system takes for that of another entry") from error
        except OSError as error:
            if error.errno not in (*_NO_HARD_LINKS, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                raise
            raise self.refusal(name, f"is nothing that this file system can have: {error.strerror}") from error

    def _count(self, name: str) -> None:
        self._stop.check()
        self._entries += 1
        if self._entries > self._limits.files:
            raise ContainerFailure(
                f"The file {self._archive} was not unpacked: it has more than {self._limits.files} files and "
                f"directories, the most that reference data may have. The first too many is {shown(name)}."
            )

    def _too_large(self) -> ContainerFailure:
        return ContainerFailure(
            f"The file {self._archive} was not unpacked: it unpacks to more than {self._limits.bytes} bytes, the most "
            "that reference data may have."
        )

    def _stays_below(self, link: str) -> bool:
        """Whether the kernel, following the link, comes nowhere above the tree and to an end.

        Not only the end counts: a path that leaves the tree and comes back leads elsewhere once the tree is moved.
        """
        here: list[str] = []  # real directories, none of them a link
        left = link.split("/")[::-1]
        followed = 0
        while left:
            step = left.pop()
            if step == "..":
                if not here:
                    return False
                here.pop()
            elif step not in ("", "."):
                here.append(step)
                with suppress(OSError):  # it is no link, or not there
                    target = os.readlink(self._at("/".join(here))).decode("utf-8", "surrogateescape")
                    here.pop()
                    followed += 1
                    if followed > _MOST_STEPS or target.startswith("/"):
                        return False
                    left.extend(target.split("/")[::-1])
        return True


def shown(name: str) -> str:
    """A name from an archive, fit to be read: quoted, and not too long."""
    text = repr(name if len(name) <= _SHOWN else name[:_SHOWN])
    return text if len(name) <= _SHOWN else f"{text}… ({len(name)} characters)"
