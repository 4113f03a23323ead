"""What workers download: a script that an engine starts, and the archive of the executor's code that it gets.

A worker has Python 3.9 or later and a container runtime; nothing is installed there. The archive therefore carries
`awscrt` beside the executor: its one native library is built against Python's stable ABI, so the service's own copy
serves every later Python on the same kind of machine (Linux, glibc, the service's processor).
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import importlib.metadata
import io
import shlex
import tarfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import cdmtaskservice
from cdmtaskservice.services import worker_bootstrap

_CARRIED = "awscrt"

_SCRIPT = """\
#!/bin/bash
# Starts the CDM Task Service's executor on a worker. Arguments: those of the executor, see its --help.
# Needs Python 3.9 or later, and no other package. Settings from the environment:
#   CTS_PYTHON                the interpreter, if it is not found as python3 on the PATH
#   CTS_CODE_ARCHIVE_URL      where the executor's code is, if not at the service that --url names
#   CTS_CODE_ARCHIVE_SHA256   the code's SHA-256, if not {sha256}
#   CTS_CODE_CACHE            where unpacked code is kept between starts

export PATH="${{PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}}"

# Whether $1 is Python 3.9 or later. A name like python3.11 says so; what has another one must be tried.
serves() {{
    case $(readlink -f -- "$(command -v -- "$1")") in
        */python3.9 | */python3.[1-9][0-9]) return 0 ;;
    esac
    "$1" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null
}}

for python in "${{CTS_PYTHON:-python3}}" python3.13 python3.12 python3.11 python3.10 python3.9; do
    if serves "$python"; then
        # Modules come from the standard library and from our code alone, texts are UTF-8 whatever the locale is.
        exec "$python" -I -S -X utf8 -c {program} "$@"
    fi
    # Whoever names an interpreter means that one.
    [ -n "$CTS_PYTHON" ] && break
done
echo "cts executable: there is no Python 3.9 or later as ${{CTS_PYTHON:-python3}}: set CTS_PYTHON" >&2
exit 78
"""


class CodeMissingError(RuntimeError):
    """The service's installation lacks what workers need."""


@dataclass(frozen=True)
class _Built:
    archive: bytes
    executable: bytes


class WorkerFiles:
    """The two files, made once and kept. The same installation always makes the same bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def build(self) -> WorkerFiles:
        """Make the files now, in a thread, unless that has been done: it takes a second.

        Raises CodeMissingError.
        """
        if "_built" not in self.__dict__:
            await asyncio.to_thread(lambda: self._files)
        return self

    @property
    def archive(self) -> bytes:
        """`code_archive.tgz`."""
        return self._files.archive

    @property
    def executable(self) -> bytes:
        """`executable.sh`, which takes only the archive whose SHA-256 it pins."""
        return self._files.executable

    @cached_property
    def archive_sha256(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(self.archive).hexdigest()

    @cached_property
    def executable_sha256(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(self.executable).hexdigest()

    @property
    def archive_etag(self) -> str:
        """A strong entity tag."""
        return f'"{self.archive_sha256}"'

    @property
    def executable_etag(self) -> str:
        """A strong entity tag."""
        return f'"{self.executable_sha256}"'

    @property
    def _files(self) -> _Built:
        with self._lock:
            return self._built

    @cached_property
    def _built(self) -> _Built:
        archive = _archive_of({**_executor_files(), **_carried_files()})
        return _Built(archive, _script(hashlib.sha256(archive).hexdigest()))


def _script(sha256: str) -> bytes:
    program = Path(worker_bootstrap.__file__).read_text(encoding="utf-8").replace("__SHA256__", sha256)
    return _SCRIPT.format(sha256=sha256, program=shlex.quote(program)).encode()


def _executor_files() -> Mapping[str, Path]:
    """The executor's modules, by their name in the archive."""
    package = Path(cdmtaskservice.__file__).parent
    modules = [package / "__init__.py", *package.joinpath("executor").rglob("*.py")]
    return {str(PurePosixPath(m.relative_to(package.parent))): m for m in modules}


def _carried_files() -> Mapping[str, Path]:
    """The files of the installed `awscrt`: the package, its native library, and the licence that must go with it."""
    try:
        distribution = importlib.metadata.distribution(_CARRIED)
    except importlib.metadata.PackageNotFoundError as error:
        raise CodeMissingError(f"{_CARRIED} is not installed, and workers need it: install it") from error
    files = {}
    for file in distribution.files or ():
        name = str(file)
        wanted = (
            (name.startswith(f"{_CARRIED}/") and name.endswith(".py"))
            or (name.startswith(f"_{_CARRIED}.") and name.endswith(".so"))
            or ".dist-info/licenses/" in name
        )
        if wanted:
            files[name] = Path(str(distribution.locate_file(file)))
    if not any(name.endswith(".so") for name in files):
        raise CodeMissingError(f"the installed {_CARRIED} has no native library for workers: install a Linux wheel")
    if not any(".abi3." in name for name in files):
        raise CodeMissingError(
            f"the installed {_CARRIED} serves one Python version only: install a wheel for the stable ABI (abi3)"
        )
    return files


def _archive_of(files: Mapping[str, Path]) -> bytes:
    """A .tar.gz of these files whose bytes depend on their names and contents alone."""
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            content = files[name].read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if name.endswith(".so") else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(tar_bytes.getvalue(), compresslevel=6, mtime=0)
