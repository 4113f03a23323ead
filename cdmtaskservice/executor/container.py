"""One container from its start to its end: limits on time and memory, logs, and what it used."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Callable

from .cgroups import Meter
from .commands import clean_environment
from .failures import ContainerFailure, NotStarted
from .jsonlog import Log
from .leftovers import Leftovers, process_start
from .logs import STREAMS, LogCapture, tail
from .order import Limits
from .running import RunningNote
from .runtimes import ContainerSpec, Inspection, Runtime
from .stopping import Stop
from .workdir import WorkDir

LONGEST_STRING = 131_071
"""Bytes of one argument or environment entry; Linux takes no longer one."""

_OUT_OF_MEMORY_GRACE = 2.0
"""Seconds for a container to end by itself after the kernel killed a process in it for want of memory."""
_CLIENT_PATIENCE = 15.0
"""Seconds after a container's end within which its client must end too."""
_STOP_AGAIN = 1.0
_SLOWEST_LOOK = 1.0
_FIRST_LOOKS = 0.02
"""Seconds between two looks for a container's first sign of life. Such a look costs nothing where it is at a file."""
_SHORT = 0.25
"""Seconds. A container that is over sooner is not asked about while it runs."""
_ENGINES_OWN = range(125, 128)
"""Exit codes of an engine's client that may be the engine's: it failed, the command cannot be executed or found."""
_NO_IMAGE = re.compile("image not known|no such image|unable to find image", re.IGNORECASE)


@dataclass(frozen=True)
class Usage:
    """What the container used. Seconds, and bytes at one time."""

    cpu_seconds: float
    wall_seconds: float
    max_memory: int


@dataclass(frozen=True)
class Ran:
    """How a container that started has ended."""

    exit_code: int
    usage: Usage
    past_runtime: bool
    out_of_memory: bool
    memory_known: bool
    """Whether the kernel would have told of a kill for want of memory."""
    log_error: OSError | None


class _NeverStarted(Exception):
    """The engine could not start the container; the message is what it said."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code
        self.said = said


class Container:
    """Runs one container in the foreground of its engine's client."""

    def __init__(
        self,
        runtime: Runtime,
        spec: ContainerSpec,
        limits: Limits,
        meter: Meter,
        work: WorkDir,
        running: RunningNote | None,
        grace: float,
        log_limit: int,
        log: Log,
    ) -> None:
        self._runtime = runtime
        self._spec = spec
        self._limits = limits
        self._meter = meter
        self._work = work
        self._running = running
        self._grace = grace
        self._log_limit = log_limit
        self._log = log

    def run(self, stop: Stop, on_start: Callable[[], None]) -> Ran:
        """Run it to its end; the container is gone afterwards, whatever happened.

        on_start is called once, when the container runs. Raises ContainerFailure where it cannot be started, and the
        reason of `stop` after the container was stopped for it.
        """
        check_strings(self._spec)
        try:
            try:
                return self._once(stop, on_start)
            except _NeverStarted as error:
                if "already in use" not in error.said:
                    raise
                # An executor of this very attempt was killed, and claimed again on the same worker.
                self._runtime.remove(self._spec.name)
                return self._once(stop, on_start)
        except _NeverStarted as error:
            self._log.event("container_not_started", code=error.code, said=error.said)
            raise start_failure(error.code, error.said) from error
        finally:
            said = self._runtime.remove(self._spec.name)
            if said:
                self._log.event("container_not_removed", said=said)
            else:
                # Nothing is left but files, which may be of the engine's users. Without room for that, the note stays.
                with suppress(OSError):
                    self._note(Leftovers(None, self._runtime.name, self._runtime.path))

    def _note(self, leftovers: Leftovers) -> None:
        if self._running:
            self._running.write(leftovers)
        self._work.note(leftovers)

    def _once(self, stop: Stop, on_start: Callable[[], None]) -> Ran:
        launch = self._runtime.launch(self._spec)
        note = Leftovers(self._spec.name, self._runtime.name, self._runtime.path)
        self._note(note)
        if self._spec.pid_file:
            with suppress(FileNotFoundError):
                os.unlink(self._spec.pid_file)
        try:
            client = subprocess.Popen(
                launch.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**clean_environment(), **launch.environment},
                start_new_session=True,
            )
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise ContainerFailure(
                    "The arguments and the environment are together larger than a program can be given. "
                    "Use more containers or a manifest file."
                ) from error
            raise
        self._note(Leftovers(note.container, note.runtime, note.runtime_path, _identity(client.pid)))
        assert client.stdout
        assert client.stderr
        paths = [os.path.join(self._work.log, stream) for stream in STREAMS]
        captures = [
            LogCapture(stream, pipe, path, self._log_limit)
            for stream, pipe, path in zip(STREAMS, (client.stdout, client.stderr), paths)
        ]
        watch = _Watch(self, client, stop, on_start)
        try:
            watch.until_end()
        finally:
            if client.poll() is None:
                _kill(client)
            for capture in captures:
                capture.join(_CLIENT_PATIENCE)
        return self._ended(watch, client, captures, paths[1])

    def _ended(
        self, watch: _Watch, client: subprocess.Popen[bytes], captures: Sequence[LogCapture], stderr: str
    ) -> Ran:
        wall = time.monotonic() - watch.launched
        code = client.returncode
        last = self._runtime.inspect(self._spec.name) if self._runtime.named and not watch.sure_of(code) else None
        reading = self._meter.read()
        if self._runtime.named and watch.sure_of(code):
            watch.started_unseen()
            if not self._meter.exact and watch.born is not None:
                wall = min(wall, max(0.0, time.time() - watch.born))
        elif last is None and watch.has_started:
            # The engine does not answer just now; its client has passed the exit code on.
            self._log.event("container_not_inspected", client_exit_code=code)
        elif self._runtime.named:
            if last is None or last.started is None:
                said = tail(stderr)
                with open(stderr, "wb"):
                    # What the engine said is not what the container said.
                    pass
                raise _NeverStarted(code, said)
            watch.started(last)
            if last.running or last.exit_code is None:
                raise ContainerFailure(
                    "The worker lost the container while it ran. It is not the job's fault.",
                    f"the client of {self._runtime.name} ended with {code} while the container ran on: {tail(stderr)}",
                )
            code = last.exit_code
            # What a cgroup of ours has counted includes the container's start, and so must the wall time beside it.
            if not self._meter.exact and last.finished is not None and last.finished >= last.started:
                wall = last.finished - last.started
        if code < 0:
            code = 128 - code
        out_of_memory = reading.out_of_memory or (last is not None and last.out_of_memory)
        self._log.event(
            "container_ended", exit_code=code, wall=wall, memory=reading.memory, cpu=reading.cpu, oom=out_of_memory
        )
        return Ran(
            code,
            Usage(round(reading.cpu, 3), round(wall, 3), reading.memory),
            watch.past_runtime,
            out_of_memory,
            self._meter.exact,
            next((c.error for c in captures if c.error), None),
        )


class _Watch:
    """Looks at a running container: whether it has started, runs too long, or ran out of memory."""

    def __init__(
        self, container: Container, client: subprocess.Popen[bytes], stop: Stop, on_start: Callable[[], None]
    ) -> None:
        self._runtime = container._runtime
        self._name = container._spec.name
        self._pid_file = container._spec.pid_file if container._runtime.pid_files else None
        self._meter = container._meter
        self._limits = container._limits
        self._grace = container._grace
        self._log = container._log
        self._client = client
        self._stop = stop
        self._on_start = on_start
        self._wake = threading.Event()
        self._deadline: float | None = None
        self._first_process: tuple[int, str] | None = None
        self.born: float | None = None
        """When the container was made, in seconds since the epoch, if the engine has told in its file."""
        self.launched = time.monotonic()
        self.past_runtime = False
        stop.on_set(self._wake.set)
        threading.Thread(target=self._await_client, name="client", daemon=True).start()

    @property
    def has_started(self) -> bool:
        """Whether the container was seen to run."""
        return self._deadline is not None

    def until_end(self) -> None:
        """Return when the client has ended; raise the stop's reason when the container was stopped for it."""
        pause = _FIRST_LOOKS if self._pid_file else 0.1
        memory_deadline: float | None = None
        if not self._runtime.named:
            self.started(Inspection(True, None, time.time(), None, False, self._client.pid))
        while self._client.poll() is None:
            if self._stop.why is not None:
                self._end("stopped")
                self._stop.check()
            now = time.monotonic()
            if self._deadline is None:
                if self._worth_asking():
                    seen = self._runtime.inspect(self._name)
                    if seen is not None and seen.started is not None:
                        self.started(seen)
                        continue
            elif now >= self._deadline:
                self.past_runtime = True
                self._end("ran past its runtime")
                return
            if self._meter.read().out_of_memory:
                memory_deadline = memory_deadline or now + _OUT_OF_MEMORY_GRACE
                if now >= memory_deadline:
                    self._end("ran out of memory")
                    return
            until = min(d for d in (now + pause, self._deadline, memory_deadline) if d is not None)
            self._wake.wait(max(0.0, until - now))
            if self._pid_file is None or self.born is not None:
                pause = min(_SLOWEST_LOOK, pause * 1.5)

    def started(self, seen: Inspection) -> None:
        """The container runs, or has run: its time limit counts from its own start."""
        if self._deadline is not None or seen.started is None:
            return
        since = max(0.0, time.time() - seen.started)
        self._deadline = time.monotonic() - since + self._limits.runtime
        if seen.pid:
            self._meter.watch(seen.pid)
        self._on_start()

    def sure_of(self, code: int) -> bool:
        """Whether `code`, the client's, is certainly the container's, and nothing else is to be learned of it.

        It is where the engine had made the container, the code is none of the engine's own, and the container's first
        process is over: a client that dies leaves a container that runs.
        """
        self._read_pid_file()
        if self._first_process is None or code < 0 or code in _ENGINES_OWN:
            return False
        pid, start = self._first_process
        over = not process_start(pid) or process_start(pid) != start
        return over and (self._meter.exact or not self._runtime.tells_out_of_memory)

    def started_unseen(self) -> None:
        """The container has run, and was over before anybody looked."""
        self.started(Inspection(False, None, self.born, None, False, 0))

    def _worth_asking(self) -> bool:
        """Whether the engine may know that the container has started. Asking costs as much as a short container."""
        if self._pid_file is None:
            return True
        self._read_pid_file()
        return self.born is not None and time.time() - self.born >= _SHORT

    def _read_pid_file(self) -> None:
        if self._pid_file is None or self._first_process is not None:
            return
        with suppress(OSError, ValueError):
            with open(self._pid_file) as file:
                pid = int(file.read())
                self.born = os.fstat(file.fileno()).st_mtime
            self._first_process = pid, process_start(pid)
            self._meter.watch(pid)

    def _await_client(self) -> None:
        # Not Popen.wait(), which would take the exit code away from the other thread's poll() in some versions.
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self._client.pid, os.WEXITED | os.WNOWAIT)
        self._wake.set()

    def _end(self, why: str) -> None:
        self._log.event("stopping_container", why=why)
        if self._runtime.named:
            deadline = time.monotonic() + self._grace + _CLIENT_PATIENCE
            while self._client.poll() is None and time.monotonic() < deadline:
                # What the engine has not started yet it does not stop either, and starts it a moment later.
                self._runtime.stop(self._name, self._grace)
                with suppress(subprocess.TimeoutExpired):
                    self._client.wait(_STOP_AGAIN)
        else:
            with suppress(ProcessLookupError):
                os.killpg(self._client.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._client.wait(self._grace)
        if self._client.poll() is None:
            _kill(self._client)


def check_strings(spec: ContainerSpec) -> None:
    """Raise ContainerFailure for an argument or environment entry that no program on Linux can be given."""
    for n, arg in enumerate(spec.args):
        if len(os.fsencode(arg)) > LONGEST_STRING:
            raise ContainerFailure(
                f"Argument {n} has {len(os.fsencode(arg))} bytes; a program can be given {LONGEST_STRING}. "
                "Use more containers or a manifest file."
            )
    for name, value in spec.environment.items():
        # The engine's option for it is the longest form that it takes.
        size = len(os.fsencode(f"--env={name}={value}"))
        if size > LONGEST_STRING:
            raise ContainerFailure(
                f"The environment variable {name} has {size} bytes; a program can be given {LONGEST_STRING}. "
                "Use more containers or a manifest file."
            )


_COMMAND = re.compile(r'exec: \\?"(.*?)\\?"')


def start_failure(code: int, said: str) -> NotStarted:
    """Why a container did not start, from the exit code of the engine's client and what it said."""
    match = _COMMAND.search(said)
    command = match[1] if match else "its entrypoint"
    admin = f"the engine did not start the container (exit code {code}): {said.strip()}"
    if re.search("no space left|disk quota", said, re.IGNORECASE):
        return NotStarted("The container could not be started: the worker's disk was full.", admin)
    if re.search("argument list too long", said, re.IGNORECASE):
        return NotStarted(
            "The arguments and the environment are together larger than a program can be given. "
            "Use more containers or a manifest file.",
            admin,
        )
    if code == 127 and match:
        return NotStarted(f"The image has no such command: {command}. Its entrypoint is wrong.", admin)
    if code == 126 and match:
        return NotStarted(f"The image's command {command} cannot be executed.", admin)
    if re.search(r"exec format error", said, re.IGNORECASE):
        return NotStarted("The image is not built for this worker's kind of machine.", admin)
    if re.search("unable to set memory limit|container init was OOM-killed", said, re.IGNORECASE):
        return NotStarted("The memory limit is too small to start anything. Ask for more memory.", admin)
    return NotStarted(
        "The worker's container engine could not start the container. The administrators see the cause.",
        admin,
        image_missing=bool(_NO_IMAGE.search(said)),
    )


def _identity(pid: int) -> tuple[int, str]:
    return pid, process_start(pid)


def _kill(client: subprocess.Popen[bytes]) -> None:
    """Kill the client, which leads its own process group, and take its exit code."""
    with suppress(ProcessLookupError):
        os.killpg(client.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        client.wait(_CLIENT_PATIENCE)
