"""Fetch the container tools from Debian's archive into a private directory; the system stays as it is.

    python -m cdmtaskservice.embedded.debian PARTS

`PARTS/debian` then holds podman, runc, conmon and the libraries that this machine lacks, docker-registry,
crane, a static busybox and a static bash, unpacked and never installed. `PARTS/condor`, which the command
fetches too, holds HTCondor. Each is replaced as a whole or not at all.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from cdmtaskservice.embedded import apt, condor_packages
from cdmtaskservice.embedded.apt import FetchFailed

TOOLS = ("podman", "runc", "conmon", "crane", "docker-registry", "busybox", "bash-static")
"""What can be run from `PARTS/debian/tools` afterwards."""

_WITH_DEPENDENCIES = ("podman", "runc")
# Fetched even where the machine has them: what we run should not depend on what else is installed.
_ALWAYS_OURS = frozenset(
    {
        *_WITH_DEPENDENCIES,
        "conmon",
        "containernetworking-plugins",
        "golang-github-containers-common",
        "golang-github-containers-image",
    }
)
_SELF_CONTAINED = ("busybox-static", "bash-static", "docker-registry")
_FORMAT = 1  # raise when the layout of the result changes

_VERSION_ARGUMENTS = {"crane": "version", "busybox": "true"}
_WRAPPER = """\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/..
{libraries}exec "$here/{program}" "$@"
"""


def fetch(parts: Path) -> bool:
    """Bring `parts`/debian up to date; False if it was so already. Raises FetchFailed."""
    return apt.bring(parts / "debian", _key(), _make)


def is_complete(parts: Path) -> bool:
    """Whether `parts`/debian holds all that this version of the project asks for."""
    return apt.is_brought(parts / "debian", _key())


def main(arguments: Sequence[str]) -> int:
    """Fetch all into the directory that is the only argument; exit code 1 with the reasons on standard error."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m cdmtaskservice.embedded.debian PARTS\n")
        return 2
    parts = Path(arguments[0]).absolute()
    container_tools = apt.bring_and_say(
        "container tools",
        f"podman, crane, a registry and static shells from Debian into {parts}/debian",
        lambda: is_complete(parts),
        lambda: fetch(parts),
    )
    condor = apt.bring_and_say(
        "HTCondor",
        f"HTCondor from Debian into {parts}/condor",
        lambda: condor_packages.is_complete(parts),
        lambda: condor_packages.fetch(parts),
    )
    return 0 if container_tools and condor else 1


def _key() -> str:
    return apt.key_of(_FORMAT, [*sorted(_ALWAYS_OURS), *_SELF_CONTAINED, "crane"])


def _make(work: Path) -> None:
    """Everything that `PARTS/debian` is to hold, in `work`/unpacked, tried out."""
    unpacked = work / "unpacked"
    # With the machine's status apt leaves out the libraries that are there already.
    own = apt.Apt(work / "apt/own", status=apt.status_without(_ALWAYS_OURS))
    own.update()
    own.fetch_with_dependencies(_WITH_DEPENDENCIES)
    own.fetch(_SELF_CONTAINED)
    if own.show("crane"):
        own.fetch(["crane"])
    else:
        apt.first_of_newer_suites(work / "apt", "crane", lambda newer: newer.fetch(["crane"])).unpack(unpacked)
    own.unpack(unpacked)
    _write_wrappers(unpacked)
    _try_out(unpacked)


def _write_wrappers(unpacked: Path) -> None:
    """`tools/NAME` for each tool; they find their libraries relative to themselves, so the tree may move."""
    folders = sorted({so.parent.relative_to(unpacked) for so in unpacked.glob("**/*-linux-gnu*/*.so.*")})
    libraries = (
        'export LD_LIBRARY_PATH="{}"\n'.format(":".join(f"$here/{folder}" for folder in folders)) if folders else ""
    )
    tools = unpacked / "tools"
    tools.mkdir()
    for name in TOOLS:
        places = [f"{folder}/{name}" for folder in ("usr/bin", "usr/sbin", "bin", "sbin")]
        program = next((place for place in places if (unpacked / place).is_file()), None)
        if program is None:
            raise FetchFailed(f"{name} is in none of the packages that were fetched: was it renamed upstream?")
        wrapper = tools / name
        wrapper.write_text(_WRAPPER.format(libraries=libraries, program=program))
        wrapper.chmod(0o755)


def _try_out(unpacked: Path) -> None:
    for name in TOOLS:
        apt.run([str(unpacked / "tools" / name), _VERSION_ARGUMENTS.get(name, "--version")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
