"""One part of the embedded stack: a process on loopback that can be taken away and brought back.

A part keeps its ports and its data for as long as its home directory lives, so that a client which lost it
finds the same part again. It never outlives the process that started it: the kernel kills it when the thread
that launched it ends, and `Launcher` keeps one such thread for as long as it is open.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, ClassVar

_POLL = 0.02
_PORT_TRIES = 3
_LOG_TAIL = 15


class PartFailed(Exception):
    """A part did not come up; the text holds the tail of its log and what to do."""


class Launcher:
    """Starts processes that end with this one, whichever thread asks.

    The kernel's parent-death signal follows the *thread* that forked, so a part that was started by a
    short-lived worker thread would die with it. Hence one thread of our own does all the forking.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-launcher")

    def launch(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> "subprocess.Popen[bytes]":
        """Start argv in a session of its own (a terminal's Ctrl-C is for us, not for it)."""
        with log.open("ab") as out:
            return self._thread.submit(_popen, argv, env, cwd, out).result()

    def close(self) -> None:
        """End the thread, and with it whatever was launched and still runs."""
        self._thread.shutdown()


class Part(ABC):
    """A restartable process with ports of its own. All methods are synchronous and bounded in time."""

    name: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]] = ("main",)
    ready_within: ClassVar[float] = 30.0
    """Seconds from launch until the part must answer."""
    term_grace: ClassVar[float] = 5.0
    """Seconds that a part has after SIGTERM before SIGKILL; 0 sends SIGKILL at once."""

    def __init__(self, home: Path, log: Path, launcher: Launcher) -> None:
        self.home = home
        self.log = log
        self._launcher = launcher
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        self._settled = False
        self._deadline = 0.0

    @abstractmethod
    def command(self, ports: Mapping[str, int]) -> list[str]:
        """The argument list that runs the part in the foreground on these loopback ports."""

    def environment(self) -> dict[str, str]:
        """What the part sees: nothing of ours beyond PATH, so no setting of the caller's leaks in."""
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.home), "TMPDIR": str(self.home)}

    def answers(self) -> bool:
        """Whether the part serves, asked only once it listens on all its ports."""
        return True

    def clean(self) -> None:  # noqa: B027 - most parts leave nothing
        """Called after the process has ended: remove what it leaves outside its home."""

    @property
    def port(self) -> int:
        """The port that clients talk to."""
        return self._ports[self.port_names[0]]

    @property
    def pid(self) -> int | None:
        """The process ID while the part runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start and wait until the part serves; no effect while it runs. Raises PartFailed."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start without waiting, so that several parts come up side by side; no effect while it runs."""
        self._deadline = time.monotonic() + self.ready_within
        if self.pid is not None:
            return
        self.home.mkdir(parents=True, exist_ok=True)
        if not self._ports:
            self._ports = self._choose_ports()
        self._process = self._launcher.launch(self.command(self._ports), self.environment(), self.home, self.log)

    def await_ready(self) -> None:
        """Wait for a launched part; one that loses a port to another program is tried again with new ones."""
        for tries_left in reversed(range(_PORT_TRIES)):
            if self._came_up():
                self._settled = True
                (self.home / "ports.json").write_text(json.dumps(self._ports))
                return
            in_time = time.monotonic() < self._deadline
            self.kill()
            if not in_time or not tries_left:
                break
            if not self._settled:
                self._ports = self._choose_ports(afresh=True)
            self.launch()
        raise PartFailed(self._obituary())

    def stop(self) -> None:
        """End the part in the kindest way that is quick; no effect where it does not run."""
        self.ask_to_stop()
        self.await_stop()

    def ask_to_stop(self) -> None:
        """Send the signal that ends the part, without waiting."""
        self._signal(signal.SIGTERM if self.term_grace else signal.SIGKILL)
        self._signal(signal.SIGCONT)  # a suspended process would keep the SIGTERM for later

    def await_stop(self) -> None:
        """Wait for the end of a part that was asked to stop, for `term_grace` seconds, then kill it."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.term_grace or 5.0)
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash of the part's machine would do it."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            self.clean()

    def suspend(self) -> None:
        """Keep the ports open and answer nothing: a part that hangs."""
        self._signal(signal.SIGSTOP)
        # The signal takes effect a moment after it was sent, and until then the part may still answer.
        deadline = time.monotonic() + self.term_grace + 1.0
        while self.pid is not None and not _is_stopped(self.pid) and time.monotonic() < deadline:
            time.sleep(_POLL / 10)

    def resume(self) -> None:
        """End a suspension."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # Popen.send_signal does nothing once the process has been reaped, so a recycled ID is never hit.
        if self._process is not None:
            self._process.send_signal(number)

    def _came_up(self) -> bool:
        """False when the time is over, or at once when the process ended or another holds one of its ports."""
        wanted = set(self._ports.values())
        while (pid := self.pid) is not None and time.monotonic() < self._deadline:
            ours, foreign = _listened_to(pid, wanted)
            if foreign:
                return False
            if ours == wanted and self.answers():
                return True
            time.sleep(_POLL)
        return False

    def _choose_ports(self, *, afresh: bool = False) -> dict[str, int]:
        """The ports of an earlier run in the same home where they are free, else new ones."""
        with contextlib.suppress(OSError, ValueError):
            kept: dict[str, int] = json.loads((self.home / "ports.json").read_text())
            if not afresh and set(kept) == set(self.port_names) and all(map(is_free, kept.values())):
                return kept
        return self.new_ports()

    def new_ports(self) -> dict[str, int]:
        """A free loopback port for each name."""
        return dict(zip(self.port_names, free_ports(len(self.port_names)), strict=True))

    def _obituary(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL:] if self.log.exists() else []
        told = "\n".join(f"    {line}" for line in lines) or "    (nothing)"
        return (
            f"{self.name} did not come up on its ports {self._ports}: it ended, or was silent for "
            f"{self.ready_within:.0f} s, or another program has one of them. The end of {self.log}:\n{told}\n"
            "Run `make setup` to see whether a part is missing."
        )


def _is_stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped."""
    states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state in "Tt" for state in states)


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports on which nothing listens now.

    They lie below the range from which the kernel takes ports for outgoing connections: otherwise a client
    that dials a part while it is away could be given the part's own port and keep it from coming back.
    """
    found: list[int] = []
    dice = random.SystemRandom()
    while len(found) < count:
        port = dice.randrange(15_000, 32_000)
        if port not in found and is_free(port):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether a server could bind this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _popen(argv: Sequence[str], env: Mapping[str, str], cwd: Path, out: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *argv],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
    )


def _listened_to(pid: int, wanted: set[int]) -> tuple[set[int], set[int]]:
    """Of the TCP ports wanted: those on which this process listens, and those on which only others do.

    That something answers on a port does not tell that it is ours: a second stack may have won the port.
    """
    inodes: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table) as rows:
            next(rows)
            for row in rows:
                # columns: number, local address, remote address, state (0A: LISTEN), …, the tenth: inode
                columns = row.split()
                port = int(columns[1].rpartition(":")[2], 16)
                if columns[3] == "0A" and port in wanted:
                    inodes[columns[9]] = port
    # Read after the table, so that a socket of ours that is in the table is also found here.
    ours = set()
    with contextlib.suppress(OSError):  # the process is gone
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                inode = os.readlink(f"/proc/{pid}/fd/{descriptor}").removeprefix("socket:[").removesuffix("]")
                if inode in inodes:
                    ours.add(inodes[inode])
    return ours, set(inodes.values()) - ours
