"""Whether this worker has what an executor needs. The exit code tells, as nothing else comes back from a pool.

It is `BASE` and the sum of what is wrong, or 0; codes that the shell, the start script or a signal could give are not
among them. `sites/htcondor/check.py` says the same in words; a test holds the two together.
"""

from __future__ import annotations

import os
import tempfile
import urllib.error
import urllib.request
from typing import Callable

from .failures import ContainerFailure
from .jsonlog import Log
from .memory import Memory
from .options import CheckOptions, RunOptions
from .runtimes import find_runtime
from .stopping import Stop

BASE = 160
TOKEN_UNREADABLE, TOKEN_REFUSED, NO_SERVICE, NO_S3, NO_RUNTIME, NO_DIRECTORY = 1, 2, 4, 8, 16, 32

_NOBODYS_JOB = "00000000-0000-4000-8000-000000000000"
_TIMEOUT = 10.0


def check(options: CheckOptions, log: Log) -> int:
    """Try everything, whatever fails before. The exit code."""
    run = options.run
    wrong = 0

    def tried(bit: int, attempt: Callable[[], object]) -> None:
        nonlocal wrong
        try:
            attempt()
        except (OSError, ValueError, ContainerFailure, _Refused) as error:
            wrong |= bit
            log.event("wrong", bit=bit, error=getattr(error, "admin_error", None) or str(error))

    token: list[str] = []
    tried(TOKEN_UNREADABLE, lambda: token.append(_token(run.token_file)))
    tried(NO_SERVICE, lambda: _answer(f"{run.url.rstrip('/')}/health/live"))
    if token and not wrong & NO_SERVICE:
        tried(TOKEN_REFUSED, lambda: _try_token(run.url, token[0]))
    if options.s3_url:
        tried(NO_S3, lambda: _answer(str(options.s3_url)))
    tried(NO_RUNTIME, lambda: find_runtime(run.runtime, run.runtime_path, run.cache_dir, Memory(None), Stop()))
    tried(NO_DIRECTORY, lambda: _try_directories(run))
    return BASE + wrong if wrong else 0


class _Refused(Exception):
    """The service has answered, and said no."""


def _token(path: str) -> str:
    with open(path) as file:
        token = file.read().strip()
    if not token:
        raise ValueError(f"{path} is empty")
    return token


def _answer(url: str) -> None:
    """Raise OSError where nothing answers; any answer will do."""
    try:
        urllib.request.urlopen(url, timeout=_TIMEOUT).close()  # noqa: S310 - of the settings
    except urllib.error.HTTPError as answer:
        answer.close()


def _try_token(url: str, token: str) -> None:
    """Ask for the work of a job that is nobody's: to an executor it is unknown, and anyone else may not ask."""
    request = urllib.request.Request(  # noqa: S310
        f"{url.rstrip('/')}/external_exec/jobs/{_NOBODYS_JOB}/container/0/work",
        b'{"claim": "%s"}' % (b"0" * 32),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        urllib.request.urlopen(request, timeout=_TIMEOUT).close()  # noqa: S310
    except urllib.error.HTTPError as answer:
        answer.close()
        if answer.code != 404:
            raise _Refused(f"the service answers {answer.code}") from None


def _try_directories(run: RunOptions) -> None:
    if run.cache_dir:
        os.makedirs(run.cache_dir, mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=run.cache_dir).close()
    for directory in (run.refdata_dir, run.mount_prefix.here if run.mount_prefix else None):
        if directory and not os.path.isdir(directory):
            raise ValueError(f"there is no directory {directory}")
