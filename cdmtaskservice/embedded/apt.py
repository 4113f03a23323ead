"""Packages from Debian's archive into a directory of our own: apt without root rights, the system untouched.

The mirror is the one that this machine's own apt is configured with.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

NEWER_SUITES = ("testing", "sid")
"""Where to look, in this order, for what the machine's own release does not have."""

_INSTALLED = Path("/var/lib/dpkg/status")
_PAUSES = (2, 6)  # seconds before the second and the third try of anything that needs the network
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class FetchFailed(Exception):
    """The parts could not be fetched; the text says why and what to do."""


def bring(prefix: Path, key: str, make: Callable[[Path], None]) -> bool:
    """Replace the directory `prefix` as a whole, or not at all; False if it holds what `key` names already.

    `make` gets a work directory and leaves the result in `unpacked` below it. Raises FetchFailed.
    """
    if is_brought(prefix, key):
        return False
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise FetchFailed(
                f"{tool} is missing: {prefix.name} comes from Debian packages, which needs a machine "
                "with Debian or one of its relatives. No root rights are needed to fetch them."
            )
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(prefix.with_name(f"{prefix.name}.lock")):
        if is_brought(prefix, key):  # another set-up did it while this one waited
            return False
        work = prefix.with_name(f"{prefix.name}.new")
        shutil.rmtree(work, ignore_errors=True)
        try:
            (work / "unpacked").mkdir(parents=True)
            make(work)
            (work / "unpacked/COMPLETE").write_text(key)
            shutil.rmtree(prefix, ignore_errors=True)
            (work / "unpacked").rename(prefix)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return True


def bring_and_say(what: str, how: str, is_there: Callable[[], bool], get: Callable[[], bool]) -> bool:
    """Bring something where it is not there yet, and tell whoever waits. False, with the reason on standard error,
    where it cannot be had."""
    started = time.monotonic()
    if not is_there():
        say(f"fetching {how} …")
    try:
        fetched = get()
    except (FetchFailed, OSError) as error:
        sys.stderr.write(f"{what}: {error}\n")
        return False
    say(f"{what} fetched in {time.monotonic() - started:.0f} s" if fetched else f"{what}: ready")
    return True


def is_brought(prefix: Path, key: str) -> bool:
    """Whether `prefix` was finished from what `key` names."""
    try:
        return (prefix / "COMPLETE").read_text() == key
    except OSError:
        return False


def key_of(layout: int, packages: Sequence[str]) -> str:
    """Names what a finished directory was made from and for: another key means to fetch again."""
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    machine = [release.get("ID"), release.get("VERSION_ID"), platform.machine()]
    return json.dumps({"format": layout, "packages": [*packages], "for": machine})


def status_without(packages: frozenset[str]) -> str:
    """The machine's list of installed packages, less those named."""
    stanzas = re.split(r"\n{2,}", _INSTALLED.read_text(errors="surrogateescape").strip())
    kept = [stanza for stanza in stanzas if stanza.partition("\n")[0].removeprefix("Package: ") not in packages]
    return "\n\n".join(kept) + "\n"


class Apt:
    """An apt whose lists, cache and status are below `state`; sources, keys and proxies stay the machine's.

    status: what counts as installed, in dpkg's format. suite: take Debian's `suite` instead of the machine's sources.
    """

    def __init__(self, state: Path, *, status: str = "", suite: str | None = None) -> None:
        for directory in ("state/lists/partial", "cache/archives/partial", "downloads"):
            (state / directory).mkdir(parents=True)
        (state / "status").write_text(status)
        self._state = state
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
        if suite is not None:
            signed_by = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
            (state / "sources.list").write_text(f"deb {signed_by}{mirror()} {suite} main\n")
            settings |= {
                "Dir::Etc::sourcelist": state / "sources.list",
                "Dir::Etc::sourceparts": "/dev/null",
                "Dir::Etc::preferences": "/dev/null",
                "Dir::Etc::preferencesparts": "/dev/null",
            }
        self._options = ["-q", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]

    def update(self) -> None:
        """Fetch the lists of packages."""
        self._get(["update"])

    def show(self, package: str) -> dict[str, str]:
        """The fields of the newest version of a package; empty where there is none."""
        told = run(["apt-cache", *self._options, "show", "--no-all-versions", package], may_fail=True)
        fields = (line.partition(": ") for line in told.splitlines() if not line.startswith(" "))
        return {name: value for name, colon, value in fields if colon}

    def fetch(self, packages: Sequence[str]) -> None:
        """Download packages, each alone."""
        self._get(["download", *packages], cwd=self._state / "downloads")

    def fetch_with_dependencies(self, packages: Sequence[str]) -> None:
        """Download packages and what they depend on and is not installed."""
        self._get(["install", "--yes", "--download-only", "--no-install-recommends", *packages])

    def unpack(self, into: Path) -> None:
        """Unpack all that was downloaded; nothing of a package is run."""
        for folder in ("cache/archives", "downloads"):
            for package in sorted((self._state / folder).glob("*.deb")):
                run(["dpkg", "-x", str(package), str(into)])

    def _get(self, arguments: Sequence[str], cwd: Path | None = None) -> None:
        for pause in (*_PAUSES, None):
            try:
                run(["apt-get", *self._options, *arguments], cwd=cwd)
                return
            except FetchFailed as failure:
                if pause is None:
                    raise FetchFailed(
                        f"{failure}\nIf that is the network, mend it (a proxy is set in apt's own configuration) "
                        "and run this again; `apt-get update` must work on this machine."
                    ) from failure
                say(f"trying again in {pause} s: {str(failure).splitlines()[0]}")
                time.sleep(pause)


def first_of_newer_suites(state: Path, what: str, attempt: Callable[[Apt], None]) -> Apt:
    """The first suite for which `attempt` works. Raises FetchFailed with every suite's reason if none does."""
    failures = []
    for suite in NEWER_SUITES:
        newer = Apt(state / suite, suite=suite)
        try:
            newer.update()
            attempt(newer)
            return newer
        except FetchFailed as failure:
            failures.append(str(failure))
    raise FetchFailed(f"{what} is in none of the suites {', '.join(NEWER_SUITES)}:\n" + "\n".join(failures))


def run(argv: Sequence[str], *, cwd: Path | None = None, may_fail: bool = False) -> str:
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


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def mirror() -> str:
    """Where this machine gets Debian itself from."""
    told = run(["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"])
    for line in told.splitlines():
        label, _, address = line.partition(" ")
        if label == "Debian":
            return address
    raise FetchFailed(
        "apt has no source of Debian's own archive configured, so there is nowhere to get newer packages from: "
        "add one to /etc/apt/sources.list.d and run this again."
    )
