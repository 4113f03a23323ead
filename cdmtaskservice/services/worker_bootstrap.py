"""What `executable.sh` runs on a worker: gets the executor's code, checks it, keeps it, and runs it in its own process.

Shipped as text inside the script, so: standard library only, nothing of ours, Python 3.9. `__SHA256__` is replaced by
the SHA-256 of the archive when the script is made. From the environment:

    CTS_CODE_ARCHIVE_SHA256   overrides the SHA-256 that the script pins
    CTS_CODE_ARCHIVE_URL      where the archive is; else it is asked from the service that `--url` names
    CTS_CODE_CACHE            a directory in which unpacked code is kept for the next start on this worker
"""

from __future__ import annotations

# Only what every start needs. What it takes to get the code is imported where it is got: once for many starts.
import importlib
import os
import stat
import sys

PINNED = "__SHA256__"
ARCHIVE = "/external_exec/files/code_archive.tgz"
TIMEOUT = 60.0
TRIES = 12
LONGEST_PAUSE = 60.0
LARGEST = 1 << 28
STALE = 86400.0

# The codes of sysexits.h: what to look for when the worker's engine shows only a number.
UNAVAILABLE, CANNOT_CREATE, PROTOCOL, CONFIGURATION = 69, 73, 76, 78


def main(arguments: list[str]) -> None:
    """Be the executor with these arguments. Ends the process in any case."""
    sha256 = (os.environ.get("CTS_CODE_ARCHIVE_SHA256") or PINNED).strip().lower()
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        give_up(CONFIGURATION, f"CTS_CODE_ARCHIVE_SHA256 is {sha256!r}, which is not 64 hex digits")
    try:
        cache = cache_directory()
        code = os.path.join(cache, sha256)
        if not os.path.isdir(code):
            unpack(fetch(archive_url(arguments), sha256), cache, code)
    except OSError as error:
        give_up(CANNOT_CREATE, f"the executor's code cannot be kept on this worker: {error}")
    # Neither the working directory nor what the worker has installed is looked into for modules: the script starts
    # Python so, and with UTF-8. The modules are compiled once and kept beside the code.
    sys.path.insert(0, code)
    # By name, as this text has nothing to do with the code beside which it is kept.
    sys.exit(importlib.import_module("cdmtaskservice.executor.__main__").main(arguments))


def archive_url(arguments: list[str]) -> str:
    """Where the archive is."""
    override = os.environ.get("CTS_CODE_ARCHIVE_URL")
    if override:
        return override
    for i, argument in enumerate(arguments):
        if argument == "--url" and i + 1 < len(arguments):
            return arguments[i + 1].rstrip("/") + ARCHIVE
        if argument.startswith("--url="):
            return argument[len("--url=") :].rstrip("/") + ARCHIVE
    if os.environ.get("CTS_EXECUTOR_URL"):
        return os.environ["CTS_EXECUTOR_URL"].rstrip("/") + ARCHIVE
    give_up(CONFIGURATION, "neither --url nor CTS_CODE_ARCHIVE_URL says where the executor's code is")
    raise AssertionError("unreachable")


def cache_directory() -> str:
    """The directory of unpacked code: one that nobody else can write, since what is there is run."""
    wanted = os.environ.get("CTS_CODE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME") or "/nonexistent", ".cache")
    for directory in [wanted] if wanted else [os.path.join(home, "cdmtaskservice"), None]:
        if directory is None:
            # No home to keep it in: unpacked anew for each start, where the engine removes it.
            import tempfile

            return tempfile.mkdtemp(prefix="cts-code-", dir=os.environ.get("_CONDOR_SCRATCH_DIR"))
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            state = os.stat(directory)
            safe = state.st_uid in (os.geteuid(), 0) and not stat.S_IMODE(state.st_mode) & 0o022
            if safe and os.access(directory, os.W_OK | os.X_OK):
                return os.path.abspath(directory)
        except OSError as error:
            if wanted:
                give_up(CONFIGURATION, f"CTS_CODE_CACHE is {wanted}, which cannot be used: {error}")
            continue
        if wanted:
            give_up(
                CONFIGURATION,
                f"CTS_CODE_CACHE is {wanted}, which must belong to this user and be writable by nobody else: "
                f"chown it to {os.geteuid()} and chmod it to 700",
            )
    raise AssertionError("unreachable")


def fetch(url: str, sha256: str) -> bytes:
    """The archive, checked. Tried again, with growing pauses, while the service does not answer."""
    import hashlib
    import random
    import time
    import urllib.error
    import urllib.request

    pause, why = 1.0, ""
    mismatched = False
    for attempt in range(TRIES):
        if attempt:
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, LONGEST_PAUSE)
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310
                data = answer.read(LARGEST)
            found = hashlib.sha256(data).hexdigest()
            if found == sha256:
                return bytes(data)
            why = f"{url} has the SHA-256 {found}, and {sha256} is expected"
            if mismatched:
                # Twice the same cannot be a broken connection: it is another archive, or one that was changed.
                give_up(PROTOCOL, why)
            mismatched = True
        except urllib.error.HTTPError as error:
            why = f"{url} was answered {error.code}"
            # Anything else may be a proxy before a service that is away.
            if error.code in (401, 403):
                give_up(UNAVAILABLE, why)
        except (OSError, ValueError) as error:
            why = f"{url} cannot be fetched: {error}"
        say(f"{why}; try {attempt + 1} of {TRIES}")
    give_up(UNAVAILABLE, why)
    raise AssertionError("unreachable")


def unpack(archive: bytes, cache: str, code: str) -> None:
    """Unpack aside and rename: whoever finds `code` finds it whole, and of several at once any one may win."""
    import io
    import shutil
    import tarfile
    import tempfile

    sweep(cache)
    aside = tempfile.mkdtemp(prefix=".unpacking-", dir=cache)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            # What is in it was checked as a whole, so the names in it are ours.
            if hasattr(tarfile, "data_filter"):
                tar.extractall(aside, filter="data")
            else:
                tar.extractall(aside)  # noqa: S202
        os.chmod(aside, 0o755)  # noqa: S103
        os.rename(aside, code)
    except OSError:
        if not os.path.isdir(code):
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sweep(cache: str) -> None:
    """Remove what starts that were killed have left half unpacked."""
    import shutil
    import time
    from contextlib import suppress

    for entry in os.listdir(cache):
        path = os.path.join(cache, entry)
        with suppress(OSError):
            if entry.startswith(".unpacking-") and time.time() - os.stat(path).st_mtime > STALE:
                shutil.rmtree(path, ignore_errors=True)


def say(text: str) -> None:
    """For the log that the engine keeps of this start."""
    sys.stderr.write(f"cts executable: {text}\n")


def give_up(code: int, text: str) -> None:
    """End the process."""
    say(text)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
