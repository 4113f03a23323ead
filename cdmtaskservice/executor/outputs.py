"""What a container left in its output directory: regular files are outputs, anything else is refused.

The directory was written by a program that nobody trusts, and is read by one that may be root. So nothing is ever
opened through a name that could lead elsewhere: every step of a path is opened below the one before it, without
following links, and what is opened is looked at again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .failures import ABSENT, ContainerFailure

LONGEST_PATH = 1024
"""Bytes. No S3 key can be longer, and a directory that is nested deeper is not walked."""

MOST_OUTPUTS = 10_000
"""Files. The service takes no longer list of outputs from one container."""

_NAMED = 10
"""How many refused outputs an error names."""

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISCHR, "a character device"),
)


@dataclass(frozen=True)
class Output:
    """A regular file below the output directory. path: relative, with slashes. size: bytes."""

    path: str
    size: int
    device: int
    inode: int


class OutputRefused(ContainerFailure):
    """An output is not a regular file that is the container's alone, or has no name that S3 could take; or there are
    too many of them."""


def walk(root: str) -> Sequence[Output]:
    """The outputs below the directory `root`, sorted by path.

    Raises OutputRefused, naming up to ten: links of any kind out of the directory, FIFOs, sockets, devices, names
    that are not UTF-8 or too long; more files than `MOST_OUTPUTS`.
    """
    found: list[Output] = []
    refused: list[str] = []
    links: dict[tuple[int, int], _Link] = {}
    todo = [""]
    while todo:
        directory = todo.pop()
        for name, info in _entries(root, directory):
            path = f"{directory}/{name}" if directory else name
            complaint = _complaint(path, info)
            if complaint:
                refused.append(complaint)
            elif stat.S_ISDIR(info.st_mode):
                todo.append(path)
            else:
                found.append(Output(path, info.st_size, info.st_dev, info.st_ino))
                if info.st_nlink > 1:
                    link = links.setdefault((info.st_dev, info.st_ino), _Link(path, info.st_nlink))
                    link.seen += 1
    refused += [
        f"{link.path} is a hard link to a file outside the output directory"
        for link in links.values()
        if link.seen < link.count
    ]
    if refused:
        more = f", and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
        raise OutputRefused(
            "Only regular files can be outputs. In the output directory, "
            + ", ".join(sorted(refused)[:_NAMED])
            + more
            + "."
        )
    if len(found) > MOST_OUTPUTS:
        raise OutputRefused(
            f"There are {len(found)} files in the output directory, more than the {MOST_OUTPUTS} that one container "
            "may leave. Pack them into archives, or use more containers."
        )
    return sorted(found, key=lambda o: o.path)


def look(root: str, path: str) -> Output:
    """The output at `path` below the directory `root`. Raises OutputRefused unless it is a regular file, and OSError
    where the file system fails."""
    *directories, name = path.split("/")
    try:
        with _directory(root, directories) as parent:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError as error:
        raise OutputRefused(f"The output {path} cannot be found.", f"{root}/{path}: {error}", ABSENT) from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise OutputRefused(f"The output {path} lies behind a link.", f"{root}/{path}: {error}") from error
    complaint = _complaint(path, info)
    if complaint or stat.S_ISDIR(info.st_mode):
        raise OutputRefused(f"Only regular files can be outputs: {complaint or f'{path} is a directory'}.")
    return Output(path, info.st_size, info.st_dev, info.st_ino)


def readable_by_us(root: str) -> bool:
    """Whether all that is below the directory `root` is this process's own, and can be read and removed by it."""
    todo = [""]
    try:
        while todo:
            directory = todo.pop()
            for name, info in _entries(root, directory):
                wanted = 0o700 if stat.S_ISDIR(info.st_mode) else 0o600
                if info.st_uid != os.geteuid() or info.st_mode & wanted != wanted:
                    return False
                if stat.S_ISDIR(info.st_mode):
                    todo.append(f"{directory}/{name}" if directory else name)
    except OSError:
        return False
    return True


@contextmanager
def opened(root: str, output: Output) -> Iterator[int]:
    """A file descriptor to read `output`. Raises OutputRefused if it is not the file that was found there before."""
    *directories, name = output.path.split("/")
    with _directory(root, directories) as parent:
        # Not blocking, in case the name has become a FIFO.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or (info.st_dev, info.st_ino, info.st_size) != (
            output.device,
            output.inode,
            output.size,
        ):
            raise OutputRefused(f"The output {output.path} changed after the container was over.")
        yield fd
    finally:
        os.close(fd)


@dataclass
class _Link:
    """A file with several names: how many it has, and how many of them are in the output directory."""

    path: str
    count: int
    seen: int = 0


@contextmanager
def _directory(root: str, steps: Sequence[str]) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(root, flags)
    try:
        for step in steps:
            below = os.open(step, flags, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def _entries(root: str, directory: str) -> Iterator[tuple[str, os.stat_result]]:
    with _directory(root, directory.split("/") if directory else ()) as fd, os.scandir(fd) as entries:
        for entry in entries:
            yield entry.name, entry.stat(follow_symlinks=False)


def _complaint(path: str, info: os.stat_result) -> str | None:
    """Why `path` cannot be an output, or None."""
    raw = os.fsencode(path)
    shown = raw.decode("utf-8", "backslashreplace")
    if shown.encode() != raw:
        return f"{shown} has a name that is not UTF-8"
    if len(raw) > LONGEST_PATH:
        return f"{shown[:60]}… has a path of more than {LONGEST_PATH} bytes"
    if stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
        return None
    kind = next((kind for test, kind in _KINDS if test(info.st_mode)), "of an unknown kind")
    return f"{shown} is {kind}"
