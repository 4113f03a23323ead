"""Stands for the executor: same command line, same work directory, told by files what to do.

CTS_TEST_CONTROL names a directory: `journal` is written to; with `go` or `go.NAME` there the run ends of its own
accord with the code that stands in that file; with `deaf` it takes no notice of SIGTERM; with `stuck` the cleanup
does not work.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType

CONTROL = Path(os.environ["CTS_TEST_CONTROL"])


def journal(what: str, name: str) -> None:
    """One line, written in one go, so that lines of several processes stand in the order of the events."""
    line = json.dumps({"what": what, "run": name, "time": time.time(), "pid": os.getpid()})
    fd = os.open(CONTROL / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", nargs="?")
    for option in ("url", "token-file", "job", "container", "attempt", "runtime", "runtime-path"):
        parser.add_argument(f"--{option}")
    for option in ("keep-trying", "stop-grace", "refdata-dir"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--work-dir", type=Path)
    options = parser.parse_args()
    if options.command == "cleanup":
        name = options.work_dir.parent.name
        if (CONTROL / "stuck").exists():
            print("the container engine does not answer")
            return 1
        shutil.rmtree(options.work_dir)
        journal("cleanup", name)
        return 0
    name = f"{options.job}.{options.container}.{options.attempt}"

    def told_to_end(signum: int, frame: FrameType | None) -> None:
        if not (CONTROL / "deaf").exists():
            shutil.rmtree(options.work_dir)
            journal("term", name)
            sys.exit(0)

    signal.signal(signal.SIGTERM, told_to_end)
    options.work_dir.mkdir(exist_ok=True)
    (options.work_dir / "executor.json").write_text("{}")
    (CONTROL / f"environment.{name}").write_text(json.dumps(dict(os.environ)))
    (CONTROL / f"arguments.{name}").write_text(json.dumps(sys.argv))
    journal("start", name)
    print("Authorization: Bearer abc-secret", "the token is TOKEN-IN-FILE", file=sys.stderr)
    go = (CONTROL / "go", CONTROL / f"go.{name}")
    while not any(g.exists() for g in go):
        time.sleep(0.002)
    code = int((next(g for g in go if g.exists())).read_text() or 0)
    print(f"exiting with {code}", file=sys.stderr)
    print(json.dumps({"event": "over"}), file=sys.stderr)
    shutil.rmtree(options.work_dir)
    journal("end", name)
    return code


if __name__ == "__main__":
    sys.exit(main())
