"""The command line, and the environment where a scheduler hands settings over that way."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from .commands import SETTINGS_PREFIX
from .failures import EXIT_USAGE
from .logs import MOST_BYTES
from .mounts import MountPrefix
from .runtimes import CHOICES


@dataclass(frozen=True)
class RunOptions:
    """How to run one container. keep_trying, grace: seconds.

    attempt, run: at most one of them; without any, whichever attempt comes next.
    """

    url: str
    token_file: str
    job: str
    container: int
    attempt: int | None
    run: int | None
    work_dir: str
    runtime: str
    runtime_path: str | None
    refdata_dir: str | None
    cache_dir: str | None
    mount_prefix: MountPrefix | None
    keep_trying: float
    grace: float
    connections: int
    log_limit: int


@dataclass(frozen=True)
class CleanupOptions:
    """What to clean up after."""

    work_dir: str


@dataclass(frozen=True)
class CheckOptions:
    """What to look for on this worker: all that running a container takes, and whether S3 can be reached there."""

    run: RunOptions
    s3_url: str | None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would exit with 2, which here means a bad token.
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


_EPILOG = """\
Every option NAME may also be given as the environment variable CTS_EXECUTOR_NAME, in capitals and with _ for -;
the command line wins.

Exit codes: 0 the service knows how the container ended, or no longer wants it; 2 the token was refused; 64 wrong
usage; 70 a fault that could not be reported; 75 the service did not answer for too long, or the work directory is in
use; 143, 130 ended by SIGTERM, SIGINT: nothing is left behind and the next attempt may start.
"""


def parse(argv: Sequence[str], environment: Mapping[str, str]) -> RunOptions | CleanupOptions | CheckOptions:
    """The options in `argv`. Wrong ones end the process with 64 and say on stderr what was wrong."""
    cleaning, checking = list(argv[:1]) == ["cleanup"], list(argv[:1]) == ["check"]
    parser = _Parser(
        prog="python3 -m cdmtaskservice.executor" + (" cleanup" if cleaning else ""),
        description="Clean up after an executor that was killed."
        if cleaning
        else "Run one container of a job. (`cleanup --work-dir DIR` cleans up after an executor that was killed, and "
        "`check` with the same options looks whether this worker has what it takes.)",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def option(name: str, default: object = None, **more: object) -> None:
        value = environment.get(SETTINGS_PREFIX + name.upper().replace("-", "_")) or default
        required = value is None and more.pop("required", False)
        more.pop("required", None)
        parser.add_argument(f"--{name}", default=value, required=bool(required), **more)  # type: ignore[arg-type]

    option("work-dir", required=True, metavar="DIR", help="made by the executor, and removed at the end")
    if cleaning:
        return CleanupOptions(parser.parse_args(argv[1:]).work_dir)
    option("url", required=True, help="of the service")
    option("token-file", required=True, metavar="FILE", help="holds a token with the executor role")
    option("job", required=True, metavar="ID")
    option("container", required=True, type=_AtLeast(0), metavar="N", help="number, from 0")
    option("attempt", type=_AtLeast(1), metavar="A", help="the one that the engine was asked to run")
    option(
        "run",
        type=_AtLeast(1),
        metavar="R",
        help="the engine's run, where it restarts executors by itself: its current attempt, or the next one",
    )
    option("runtime", "auto", choices=CHOICES, help="auto: the first that works")
    option("runtime-path", metavar="PATH", help="the runtime's command, if it is not found by its name")
    option("refdata-dir", metavar="DIR", help="holds reference data, a directory for each ID")
    option("cache-dir", metavar="DIR", help="for what may outlive the job: the image files of Apptainer")
    option(
        "mount-prefix",
        type=_mount_prefix,
        metavar="FROM:TO",
        help="the engine sees what is below the directory FROM below TO: for executors in a container of their own",
    )
    option("keep-trying", "86400", type=_seconds, metavar="SECONDS", help="how long the service or S3 may not answer")
    option("stop-grace", "10", type=_seconds, metavar="SECONDS", help="between SIGTERM and SIGKILL for a container")
    option("connections", "8", type=_AtLeast(1), metavar="N", help="most transfers at a time")
    option("log-limit", str(MOST_BYTES), type=_AtLeast(0), metavar="BYTES", help="kept of stdout, and of stderr")
    if checking:
        option("s3-url", metavar="URL", help="of the object store")
    found = parser.parse_args(argv[1:] if checking else argv)
    if found.attempt is not None and found.run is not None:
        parser.error("--attempt and --run exclude each other")
    run = RunOptions(
        url=found.url,
        token_file=found.token_file,
        job=found.job,
        container=found.container,
        attempt=found.attempt,
        run=found.run,
        work_dir=found.work_dir,
        runtime=found.runtime,
        runtime_path=found.runtime_path,
        refdata_dir=found.refdata_dir,
        cache_dir=found.cache_dir,
        mount_prefix=found.mount_prefix,
        keep_trying=found.keep_trying,
        grace=found.stop_grace,
        connections=found.connections,
        log_limit=found.log_limit,
    )
    return CheckOptions(run, found.s3_url) if checking else run


class _AtLeast:
    def __init__(self, least: int) -> None:
        self._least = least

    def __call__(self, text: str) -> int:
        value = int(text)
        if value < self._least:
            raise argparse.ArgumentTypeError(f"{value} is less than {self._least}")
        return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def _mount_prefix(text: str) -> MountPrefix:
    try:
        return MountPrefix.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
