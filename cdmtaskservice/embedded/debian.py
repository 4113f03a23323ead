"""Fetch the container tools from Debian's archive into a private directory; the system stays as it is.

    python -m cdmtaskservice.embedded.debian PARTS

`PARTS/debian` then holds podman, runc, conmon and the libraries that this machine lacks, docker-registry,
crane, a static busybox and a static bash, unpacked and never installed. It is replaced as a whole or not at
all. The mirror is the one that this machine's own apt is configured with.
"""

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

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
_NEWER_SUITES = ("testing", "sid")  # where crane is, which Debian 12 does not have
_INSTALLED = Path("/var/lib/dpkg/status")
_FORMAT = 1  # raise when the layout of the result changes

_VERSION_ARGUMENTS = {"crane": "version", "busybox": "true"}
_PAUSES = (2, 6)  # seconds before the second and the third try of anything that needs the network
_WRAPPER = """\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/..
{libraries}exec "$here/{program}" "$@"
"""


class FetchFailed(Exception):
    """The parts could not be fetched; the text says why and what to do."""


def fetch(parts: Path) -> bool:
    """Bring `parts`/debian up to date; False if it was so already. Raises FetchFailed."""
    prefix = parts / "debian"
    if is_complete(parts):
        return False
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise FetchFailed(
                f"{tool} is missing: the container tools come from Debian packages, which needs a machine "
                "with Debian or one of its relatives. No root rights are needed to fetch them."
            )
    parts.mkdir(parents=True, exist_ok=True)
    with _only_one(parts / "debian.lock"):
        if is_complete(parts):  # another set-up did it while this one waited
            return False
        work = parts / "debian.new"
        shutil.rmtree(work, ignore_errors=True)
        try:
            _make(work)
            shutil.rmtree(prefix, ignore_errors=True)
            (work / "unpacked").rename(prefix)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return True


def is_complete(parts: Path) -> bool:
    """Whether `parts`/debian holds all that this version of the project asks for."""
    try:
        return (parts / "debian" / "COMPLETE").read_text() == _key()
    except OSError:
        return False


def main(arguments: Sequence[str]) -> int:
    """Fetch into the directory that is the only argument; exit code 1 with the reason on standard error."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m cdmtaskservice.embedded.debian PARTS\n")
        return 2
    parts = Path(arguments[0]).absolute()
    started = time.monotonic()
    if not is_complete(parts):
        _say(f"fetching podman, crane, a registry and static shells from Debian into {parts}/debian …")
    try:
        fetched = fetch(parts)
    except (FetchFailed, OSError) as error:
        sys.stderr.write(f"container tools: {error}\n")
        return 1
    _say(f"container tools fetched in {time.monotonic() - started:.0f} s" if fetched else "container tools: ready")
    return 0


def _key() -> str:
    """Names what a finished directory was made from and for: another key means to fetch again."""
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    return json.dumps(
        {
            "format": _FORMAT,
            "packages": [*sorted(_ALWAYS_OURS), *_SELF_CONTAINED, "crane"],
            "for": [release.get("ID"), release.get("VERSION_ID"), platform.machine()],
        }
    )


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _make(work: Path) -> None:
    """Everything that `PARTS/debian` is to hold, in `work`/unpacked, tried out."""
    unpacked = work / "unpacked"
    unpacked.mkdir(parents=True)
    for package in _download(work / "apt"):
        _run(["dpkg", "-x", str(package), str(unpacked)])
    _write_wrappers(unpacked)
    _try_out(unpacked)
    (unpacked / "COMPLETE").write_text(_key())


def _download(apt: Path) -> list[Path]:
    """Download all packages through an apt whose lists, cache and status are ours; returns the files."""
    own = _apt_options(apt / "own")
    # With the machine's status apt leaves out the libraries that are there already.
    (apt / "own/status").write_text(_status_without(_ALWAYS_OURS))
    _apt([*own, "update"])
    _apt([*own, "install", "--yes", "--download-only", "--no-install-recommends", *_WITH_DEPENDENCIES])
    into = apt / "downloads"
    into.mkdir()
    _apt([*own, "download", *_SELF_CONTAINED], cwd=into)
    _download_crane(apt, own, into)
    return sorted([*(apt / "own/cache/archives").glob("*.deb"), *into.glob("*.deb")])


def _download_crane(apt: Path, own: Sequence[str], into: Path) -> None:
    """From the machine's own release where it has crane, else from the first newer suite that does."""
    if "Package: crane\n" in _run(["apt-cache", *own, "show", "--no-all-versions", "crane"], may_fail=True):
        _apt([*own, "download", "crane"], cwd=into)
        return
    mirror = _mirror()
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed_by = f"[signed-by={keyring}] " if keyring.exists() else ""
    failures = []
    for suite in _NEWER_SUITES:
        newer = _apt_options(apt / suite)
        sources = apt / suite / "sources.list"
        sources.write_text(f"deb {signed_by}{mirror} {suite} main\n")
        newer += ["-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/dev/null"]
        try:
            _apt([*newer, "update"])
            _apt([*newer, "download", "crane"], cwd=into)
            return
        except FetchFailed as failure:
            failures.append(str(failure))
    raise FetchFailed("crane is in none of the suites " + ", ".join(_NEWER_SUITES) + ":\n" + "\n".join(failures))


def _apt_options(state: Path) -> list[str]:
    """Options that keep apt out of the system's directories; sources, keys and proxies stay the machine's."""
    for directory in ("state/lists/partial", "cache/archives/partial"):
        (state / directory).mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "Dir::State": state / "state",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Debug::NoLocking": "true",  # nothing of the system's is written, and its locks need root
        "APT::Sandbox::User": "root",  # the user _apt may not enter our directories
        "APT::Update::Error-Mode": "any",  # an index that could not be fetched must not pass as a warning
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
        "Acquire::Retries": "3",
        "Acquire::http::Timeout": "30",
        "Acquire::https::Timeout": "30",
    }
    return ["-q", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


def _status_without(packages: frozenset[str]) -> str:
    """The machine's list of installed packages, less those named."""
    stanzas = re.split(r"\n{2,}", _INSTALLED.read_text(errors="surrogateescape").strip())
    kept = [stanza for stanza in stanzas if stanza.partition("\n")[0].removeprefix("Package: ") not in packages]
    return "\n\n".join(kept) + "\n"


def _mirror() -> str:
    """Where this machine gets Debian itself from."""
    told = _run(["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"])
    for line in told.splitlines():
        label, _, address = line.partition(" ")
        if label == "Debian":
            return address
    raise FetchFailed(
        "apt has no source of Debian's own archive configured, so there is nowhere to get crane from: "
        "add one to /etc/apt/sources.list.d and run this again."
    )


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
        _run([str(unpacked / "tools" / name), _VERSION_ARGUMENTS.get(name, "--version")])


def _apt(arguments: Sequence[str], cwd: Path | None = None) -> None:
    for pause in (*_PAUSES, None):
        try:
            _run(["apt-get", *arguments], cwd=cwd)
            return
        except FetchFailed as failure:
            if pause is None:
                raise FetchFailed(
                    f"{failure}\nIf that is the network, mend it (a proxy is set in apt's own configuration) and "
                    "run this again; `apt-get update` must work on this machine."
                ) from failure
            _say(f"trying again in {pause} s: {str(failure).splitlines()[0]}")
            time.sleep(pause)


def _run(argv: Sequence[str], *, cwd: Path | None = None, may_fail: bool = False) -> str:
    """Standard output of a program; FetchFailed with the end of what it said if it fails."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
    )
    if done.returncode and not may_fail:
        shown = " ".join(word for word in argv if "::" not in word and word != "-o")
        told = "\n".join(f"    {line}" for line in (done.stderr or done.stdout).strip().splitlines()[-8:])
        raise FetchFailed(f"`{shown}` ended with exit code {done.returncode}:\n{told}")
    return done.stdout


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
