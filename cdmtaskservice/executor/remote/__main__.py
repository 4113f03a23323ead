"""`python3 -m cdmtaskservice.executor.remote KIND --plan FILE --task DIR`: one task near a remote file system.

The service cannot reach the files of a site like NERSC itself. It uploads a plan, has this run beside the files, and
reads the result; see `task.py` for both. The exit code is 0 where the result says all, 3 where another run of the same
task has begun and may not be repeated, and 1 for a fault of which stderr tells.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from .task import AlreadyBegun, run

KINDS = ("stage", "submit", "collect", "send", "remove", "refdata")
"""Each is a module beside this one, with a function `work(task)`."""

_STDIN = 0


def main(argv: Sequence[str]) -> int:
    """Run one task. The exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m cdmtaskservice.executor.remote", allow_abbrev=False)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--plan", required=True, metavar="FILE", help="JSON; moved into the task's directory")
    parser.add_argument("--task", required=True, metavar="DIR", help="made, with what is above it")
    parser.add_argument("--watch-stdin", action="store_true", help="stop when stdin ends: who began it is gone")
    options = parser.parse_args(argv)
    os.umask(0o077)
    try:
        work = import_module(f"{__package__}.{options.kind}").work
        run(options.plan, options.task, work, _STDIN if options.watch_stdin else None)
    except AlreadyBegun as error:
        sys.stderr.write(f"{error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
