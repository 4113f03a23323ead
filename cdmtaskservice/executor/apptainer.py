"""Apptainer, by its command line: a container is a process of ours, and has no name at any engine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from .commands import run_command
from .engines import LEAST_MEMORY
from .failures import ContainerFailure
from .runtimes import CHECK_TIMEOUT, ContainerSpec, Inspection, Launch
from .stopping import Stop

_PULL_TIMEOUT = 3600.0
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})$")


class Apptainer:
    """Apptainer 1.1 or later. cache: a directory where image files outlive the job, so that each is made once."""

    name = "apptainer"
    cgroup_parents = False
    pid_files = False
    tells_out_of_memory = False
    named = False

    def __init__(self, path: str, cache: str) -> None:
        self.path = path
        self._cache = cache

    def has_image(self, image: str, stop: Stop) -> bool:
        return os.path.exists(self._file(image))

    def pull(self, image: str, stop: Stop) -> str:
        os.makedirs(self._cache, mode=0o700, exist_ok=True)
        target = self._file(image)
        aside = f"{target}.{os.getpid()}"
        pulled = run_command(
            [self.path, "pull", "--force", aside, f"docker://{image}"], _PULL_TIMEOUT, stop, self._environment()
        )
        if not pulled.ok:
            return pulled.err.strip() or f"exit code {pulled.code}"
        os.rename(aside, target)
        return ""

    def launch(self, spec: ContainerSpec) -> Launch:
        for mount in spec.mounts:
            if any(c in f"{mount.source}{mount.target}" for c in ",:"):
                raise ContainerFailure(
                    "This worker cannot run the container. It is not the job's fault.",
                    f"Apptainer cannot mount {mount.source} at {mount.target}: a path has a comma or a colon",
                )
        argv = [
            self.path,
            "run",
            # Nothing of the worker: no home, no /tmp, no environment, own PID and IPC namespaces; no evaluation of
            # arguments by a shell; a root file system that can be written to and is thrown away.
            "--compat",
            "--cleanenv",
            "--no-home",
            "--no-privs",
            "--drop-caps=all",
            f"--cpus={spec.cpus:g}",
            f"--memory={max(spec.memory, LEAST_MEMORY)}",
            f"--memory-swap={max(spec.memory, LEAST_MEMORY)}",
            f"--pids-limit={spec.pids}",
            *([] if spec.network else ["--net", "--network=none"]),
            *(["--nv"] if spec.gpus else []),
            *(f"--bind={mount.source}:{mount.target}:{'ro' if mount.read_only else 'rw'}" for mount in spec.mounts),
            self._file(spec.image),
            *spec.args,
        ]
        # On the command line a value would be cut at its commas.
        environment = {f"APPTAINERENV_{name}": value for name, value in spec.environment.items()}
        return Launch(argv, {**environment, **self._environment()})

    def inspect(self, name: str) -> Inspection | None:
        """Always None: what is known of the container is known of its process."""
        return None

    def stop(self, name: str, grace: float) -> None:
        """Nothing to do: who started the process ends it."""

    def remove(self, name: str) -> str:
        """Nothing is left once the process is over."""
        return ""

    def as_owner(self) -> Sequence[str]:
        return ()

    def own_outputs(self, directory: str) -> None:
        """Nothing to do: a container writes as the executor's own user."""

    def _file(self, image: str) -> str:
        match = _DIGEST.search(image)
        if not match:
            raise ValueError(f"the image {image} has no digest")
        return os.path.join(self._cache, f"{match[1]}.sif")

    def _environment(self) -> dict[str, str]:
        return {"APPTAINER_CACHEDIR": os.path.join(self._cache, "layers")}


def find_apptainer(path: str, cache: str | None, stop: Stop) -> Apptainer | str:
    """Apptainer at `path`, or what is wrong with it. Without `cache` its image files are kept in the user's cache."""
    asked = run_command([path, "version"], CHECK_TIMEOUT, stop)
    if not asked.ok:
        return asked.err or f"exit code {asked.code}"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Apptainer(path, cache or os.path.join(home, "cts-executor"))
