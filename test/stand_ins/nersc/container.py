"""How JAWS runs a container, for miniwdl: JAWS's own runtime keys, and no more rights than Shifter would give."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from WDL import Error, Type, Value
from WDL.runtime.backend.podman import PodmanContainer

_DYNAMIC = ("dynamic_input", "dynamic_output", "dynamic_refdata")
_LEAST_MEMORY = 16 * 2**20
"""Bytes; runc cannot start a container with less."""
_KILL_INTERVAL = 0.5
_PODMAN_FAILED = frozenset({125, 126, 127})
"""Exit codes by which podman tells that it could not start the container. The container's own may be the same."""


class NeverStartedError(Error.RuntimeError):
    """The container did not start."""


class OverTimeError(Error.RuntimeError):
    """The container ran for longer than its runtime_minutes."""


@dataclass(frozen=True)
class Surroundings:
    """What all containers of a run share. labels: of podman. name: begins the containers' names."""

    podman: str
    labels: Sequence[str]
    name: str
    refdata_dir: str
    never_start: bool


class JawsContainer(PodmanContainer):
    """A container of a task. `surroundings` must be set before the first one is made."""

    surroundings: ClassVar[Surroundings]
    core_seconds: ClassVar[float] = 0.0
    """Of all containers so far."""
    started: ClassVar[dict[str, int | None]] = {}
    """The exit codes of containers that started, by their directories; None where JAWS has ended them."""

    def process_runtime(self, logger: logging.Logger, runtime_eval: dict[str, Value.Base]) -> None:
        """Also take JAWS's own keys."""
        super().process_runtime(logger, runtime_eval)
        for key in _DYNAMIC:
            if key in runtime_eval:
                self.runtime_values[key] = _mount(key, _text(runtime_eval[key]))
        if "runtime_minutes" in runtime_eval:
            self.runtime_values["runtime_minutes"] = runtime_eval["runtime_minutes"].coerce(Type.Int()).value
        for key in ("docker", "runtime_minutes", "memory", "cpu"):
            if key not in runtime_eval:
                raise NeverStartedError(f"JAWS needs runtime.{key}")

    def copy_input_files(self, logger: logging.Logger) -> None:
        """Hard-link the inputs into the working directory, as Cromwell at JAWS does."""
        for host_path, container_path in self.input_path_map.items():
            there = self.host_work_path(container_path)
            os.makedirs(os.path.dirname(there), exist_ok=True)
            os.link(host_path, there)
        self._bind_input_files = False

    def prepare_mounts(self) -> list[tuple[str, str, bool]]:
        """Also the directories that the container was promised, made where they are the task's own."""
        mounts: list[tuple[str, str, bool]] = super().prepare_mounts()
        for key in _DYNAMIC:
            if key not in self.runtime_values:
                continue
            source, target = self.runtime_values[key]
            if key == "dynamic_refdata":
                host = _refdata(self.surroundings.refdata_dir, source)
            else:
                host = self.host_work_path(f"{self.container_dir}/work/{source}")
                os.makedirs(host, exist_ok=True)
            mounts.append((target, host, key == "dynamic_output"))
        return mounts

    def _pull_invocation(self, logger: logging.Logger, cleanup: ExitStack) -> tuple[str, list[str]]:
        image = _full_name(self.runtime_values["docker"])
        if self.surroundings.never_start:
            raise NeverStartedError("The job was not accepted by the compute node")
        podman = self.surroundings.podman
        return image, ["/bin/sh", "-c", '"$0" image exists "$1" || exec "$0" pull "$1"', podman, image]

    def _run_invocation(self, logger: logging.Logger, cleanup: ExitStack, image: str) -> list[str]:
        values: Mapping[str, Any] = self.runtime_values
        memory = max(values["memory_limit"], _LEAST_MEMORY)
        command = [self.surroundings.podman, "run", "--rm", "--pull=never", "--name", self._name, "--log-driver=none"]
        command += [f"--label={label}" for label in self.surroundings.labels]
        command += ["--entrypoint", "", "--workdir", f"{self.container_dir}/work", "--user=0:0"]
        command += ["--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        command += [f"--cpus={values['cpu']}", f"--memory={memory}", f"--memory-swap={memory}"]
        for target, host, writable in self.prepare_mounts():
            if ":" in target + host:
                raise NeverStartedError(f"{host} cannot be mounted at {target}")
            command += ["--volume", f"{host}:{target}:{'rw' if writable else 'ro'}"]
        ended = threading.Event()
        threading.Thread(target=self._limit_time, args=(values["runtime_minutes"] * 60, ended), daemon=True).start()
        cleanup.callback(ended.set)
        return [*command, image]

    def _run(self, logger: logging.Logger, terminating: Callable[[], bool], command: str) -> int:
        self._over_time = False
        began = time.monotonic()
        code: int = super()._run(logger, terminating, command)
        JawsContainer.core_seconds += (time.monotonic() - began) * self.runtime_values["cpu"]
        if self._over_time:
            self.started[self.host_dir] = None
            raise OverTimeError(f"It ran for longer than {self.runtime_values['runtime_minutes']} minutes")
        told = Path(self.host_cli_log_txt(self.cli_name)).read_text(errors="replace")
        # What the container writes goes elsewhere: here are only podman's own words.
        if code in _PODMAN_FAILED and "Error:" in told:
            raise NeverStartedError(told.strip())
        self.started[self.host_dir] = code
        return code

    @property
    def _name(self) -> str:
        return f"{self.surroundings.name}-{self.run_id}"

    def _limit_time(self, seconds: float, ended: threading.Event) -> None:
        ended.wait(seconds)
        while not ended.wait(_KILL_INTERVAL):  # it may not be there yet
            self._over_time = True
            subprocess.run([self.surroundings.podman, "kill", self._name], capture_output=True, check=False)


def _text(value: Value.Base) -> str:
    return str(value.coerce(Type.String()).value)


def _mount(key: str, text: str) -> tuple[str, str]:
    """ "DIRECTORY:MOUNT POINT", the first relative, the second absolute. Raises: NeverStartedError."""
    source, _, target = text.partition(":")
    steps = PurePosixPath(source), PurePosixPath(target)
    good = source and not steps[0].is_absolute() and steps[1].is_absolute() and len(steps[1].parts) > 1
    if not good or ":" in target or any(".." in step.parts for step in steps):
        raise NeverStartedError(f"runtime.{key} is not DIRECTORY:MOUNT_POINT: {text!r}")
    return str(steps[0]), str(steps[1])


def _refdata(root: str, source: str) -> str:
    real = Path(root, source).resolve()
    if not real.is_relative_to(Path(root).resolve()) or not real.is_dir():
        raise NeverStartedError(f"There is no reference data {source}")
    return str(real)


def _full_name(image: str) -> str:
    """The image as podman wants it. Shifter does not take Docker Hub's name, and adds it itself."""
    first, slash, _ = image.partition("/")
    if first == "docker.io":
        raise NeverStartedError(f"Shifter has no image {image}")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return f"docker.io/{image if slash else f'library/{image}'}"
