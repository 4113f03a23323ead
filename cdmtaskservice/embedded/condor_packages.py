"""Fetch HTCondor's daemons and tools from Debian's archive into `PARTS/condor`; the system stays as it is.

Debian 12 has no HTCondor, so it comes from a newer suite, together with that suite's C library and dynamic
linker. Each program is a wrapper that finds itself and starts the real one beside it through that linker:
nothing is installed, and the tree may be moved or mounted elsewhere.
"""

import os
import re
import shutil
from pathlib import Path

from cdmtaskservice.embedded import apt

_FORMAT = 1  # raise when the layout of the result changes
_PROGRAMS = ("usr/bin", "usr/sbin", "usr/libexec/condor")
# Alone they are nearly half of it: documentation, bindings for Python, gateways to other batch systems and clouds.
_UNNEEDED = (
    *("etc", "var", "usr/include", "usr/share", "usr/lib/python3", "usr/lib/systemd", "usr/lib/tmpfiles.d"),
    *("usr/lib/*/gconv", "usr/libexec/blahp", "usr/libexec/condor/*.py", "usr/libexec/condor/singularity_test_sandbox"),
    *("usr/libexec/condor/htcondor_docker_test*", "usr/sbin/*gahp*", "usr/sbin/*GAHP*", "usr/sbin/condor_credmon_*"),
)
_NOT_LIBRARIES = re.compile(r"libjs-|.*-perl$")
_WRAPPER = """\
#!/bin/sh
here=$(readlink -f "$0")
here=${{here%/*}}
exec "$here/{up}/{loader}" --argv0 "$0" --inhibit-cache --library-path "{libraries}" "$here/{real}" "$@"
"""


def fetch(parts: Path) -> bool:
    """Bring `parts`/condor up to date; False if it was so already. Raises FetchFailed."""
    return apt.bring(parts / "condor", _key(), _make)


def is_complete(parts: Path) -> bool:
    """Whether `parts`/condor holds all that this version of the project asks for."""
    return apt.is_brought(parts / "condor", _key())


def _key() -> str:
    return apt.key_of(_FORMAT, ["condor"])


def _make(work: Path) -> None:
    unpacked = work / "unpacked"
    apt.first_of_newer_suites(work / "apt", "condor", _download).unpack(unpacked)
    for pattern in _UNNEEDED:
        for path in unpacked.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    _wrap(unpacked)
    for program in ("condor_master", "condor_collector", "condor_schedd", "condor_startd", "condor_starter"):
        apt.run([str(unpacked / "usr/sbin" / program), "-version"])


def _download(newer: apt.Apt) -> None:
    """condor with the libraries among its dependencies, but without Python, Perl and what else it recommends."""
    wanted = newer.show("condor").get("Depends", "")
    first_choices = (re.split(r"[\s(|]", choice.strip())[0] for choice in wanted.split(","))
    libraries = [name for name in first_choices if name.startswith("lib") and not _NOT_LIBRARIES.match(name)]
    newer.fetch(["condor"])
    newer.fetch_with_dependencies(libraries)


def _wrap(unpacked: Path) -> None:
    [libraries] = unpacked.glob("usr/lib/*-linux-gnu*")
    loader = next(libraries.glob("ld-linux*.so.*")).relative_to(unpacked)
    for folder in _PROGRAMS:
        up = os.path.relpath(".", folder)
        paths = ":".join(
            f"$here/{up}/{path}" for path in ("usr/lib", "usr/lib/condor", libraries.relative_to(unpacked))
        )
        for program in sorted((unpacked / folder).iterdir()):
            if program.is_symlink() or not _is_dynamic(program):
                continue
            real = program.rename(program.with_name(_real(program.name)))
            program.write_text(_WRAPPER.format(up=up, loader=loader, libraries=paths, real=real.name))
            program.chmod(0o755)


def _real(name: str) -> str:
    return f"{name}.real"


def _is_dynamic(path: Path) -> bool:
    """Whether a file is a program that needs the dynamic linker."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    return content.startswith(b"\x7fELF") and b"/ld-linux" in content[:4096]
