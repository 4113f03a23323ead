"""What an executor's process starts as: it says who it is, and then becomes the executor.

    python -m cdmtaskservice.sites.local.launcher LOCK_FD RUN_DIR (-m MODULE | SCRIPT) ARGUMENT...

`LOCK_FD` is the open file whose lock says that this run is alive. It came to this process alone; from here no child
inherits it, so the lock is free as soon as this process is gone, however it went. The process writes its own ID, so
that there is never a process that holds the lock and that nobody can name.

Standard library only, and few of it: this is between the free CPU and the container.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time

PID_FILE = "pid.json"
EXIT_FILE = "exit.json"


def main(arguments: list[str]) -> None:
    """Become the executor. Raises what it raises, SystemExit included."""
    lock, directory, *command = arguments
    os.set_inheritable(int(lock), False)
    _write(directory, PID_FILE, {"pid": os.getpid(), "ticks": start_ticks(os.getpid()), "time": time.time()})
    code = 1
    try:
        _become(command)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    finally:
        # Absent where the process was killed: that is how its end is told from one of its own accord.
        _write(directory, EXIT_FILE, {"exit_code": code, "time": time.time()})


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot: with its ID it names a process for good.

    None where there is no such process. Source: proc(5), field 22 of /proc/PID/stat.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The second field is the command in brackets, which may hold anything, brackets and blanks included.
            return int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _become(command: list[str]) -> None:
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


def _write(directory: str, name: str, value: dict[str, object]) -> None:
    aside = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            json.dump(value, file)
        os.replace(aside, os.path.join(directory, name))
    except OSError as error:
        # A full disk, or an administrator removed the directory: the lock still tells what matters.
        sys.stderr.write(f"the launcher could not write {name}: {error}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
