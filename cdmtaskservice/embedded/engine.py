"""A podman whose images, containers and settings all lie below one directory.

The caller gets an executable that behaves like podman; what it needs is written beside it. When the owner
stops, or dies in whatever way, a waiting shell removes the containers and the mounts.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

_SWEEP_WITHIN = 20.0

_CONTAINERS_CONF = """\
[containers]
# The defaults are above what a process without CAP_SYS_RESOURCE may set.
default_ulimits = ["nofile=1024:4096", "nproc=4096:8192"]
seccomp_profile = "{debian}/usr/share/containers/seccomp.json"

[engine.runtimes]
runc = ["{debian}/usr/sbin/runc", "{debian}/usr/bin/runc"]

[engine]
cgroup_manager = "cgroupfs"
conmon_path = ["{debian}/usr/bin/conmon"]
events_logger = "file"
helper_binaries_dir = ["{debian}/usr/lib/podman"]
# In shared memory the locks would be one table for every podman of this machine.
lock_type = "file"
# crun refuses cgroups v1 beside v2, and ignores limits where cgroups are disabled.
runtime = "runc"
tmp_dir = "{run}/libpod"
"""

_STORAGE_CONF = """\
[storage]
driver = "{driver}"
graphroot = "{graph}"
runroot = "{run}"
rootless_storage_path = "{graph}"

[storage.options.{driver}]
ignore_chown_errors = "{one_user}"
"""

_REGISTRIES_CONF = """\
unqualified-search-registries = []

[[registry]]
location = "{registry}"
insecure = true
"""

_WRAPPER = """\
#!/bin/sh
export HOME="{home}/user"
export CONTAINERS_CONF="{home}/containers.conf"
export CONTAINERS_STORAGE_CONF="{home}/storage.conf"
export CONTAINERS_REGISTRIES_CONF="{home}/registries.conf"
unset XDG_CONFIG_HOME XDG_DATA_HOME XDG_RUNTIME_DIR REGISTRY_AUTH_FILE
{preparation}exec "{debian}/tools/podman" "$@"
"""

# Standard input ends when the owner closes it or dies; only then is there something to do. Clients that still
# wait for a container mount the storage once more to clean up after it, so they must be gone before the mounts.
_SWEEPER = """\
cat >/dev/null
"$1/podman" rm --all --force --time 0 >/dev/null 2>&1
tries=100
while grep -qszxF "CONTAINERS_CONF=$1/containers.conf" /proc/[0-9]*/environ && [ "$tries" -gt 0 ]; do
    tries=$((tries - 1))
    sleep 0.05
done
for below in "$2" "$3"; do
    awk -v below="$below/" 'index($5, below) == 1 {print $5}' /proc/self/mountinfo | sort -r |
        while read -r mount; do umount -l "$mount" 2>/dev/null; done
done
rm -rf "$3"
"""


class ContainerEngine:
    """podman bound to `home`, with the registry at `registry` ("HOST:PORT") allowed over plain http."""

    def __init__(self, home: Path, debian: Path) -> None:
        self.home = home
        self.podman = home / "podman"
        """The executable; takes podman's own arguments."""
        self._debian = debian
        self._graph = home / "storage"
        # Sockets lie in here, and a socket's path may have 107 characters at most: home may be far too long.
        # Named after home, because podman refuses a storage whose run directory has changed.
        token = hashlib.sha256(str(home).encode()).hexdigest()[:10]
        self._run = Path(f"/tmp/cts-{token}")  # noqa: S108 - made with mode 0700 or not at all
        self._sweeper: subprocess.Popen[bytes] | None = None

    def start(self, registry: str) -> None:
        """Write the configuration, remove what an earlier owner left, and set the sweeper to wait."""
        self.sweep()
        self._run.mkdir(mode=0o700)
        self._graph.mkdir(parents=True, exist_ok=True)
        write_podman(self.home, self._debian, self._run, self._graph, registry)
        folders = (f"{self._debian}/{usr}lib/{platform.machine()}-linux-gnu" for usr in ("usr/", ""))
        with (self.home / "containers.conf").open("a") as settings:
            # When a container ends, conmon calls podman without podman's environment. Where that fails for want of a
            # library, `podman run` waits for 20 s after the end.
            settings.write(f'conmon_env_vars = ["PATH={os.defpath}", "LD_LIBRARY_PATH={":".join(folders)}"]\n')
        self._sweeper = self._spawn_sweeper()

    def stop(self) -> None:
        """Remove all containers and mounts; the images stay. Bounded in time; no effect when stopped."""
        if self._sweeper is not None:
            _let_end(self._sweeper)
            self._sweeper = None

    def sweep(self) -> None:
        """Remove what an owner left that could not even sweep, for example after a power cut."""
        if self.podman.exists():
            _let_end(self._spawn_sweeper())
        shutil.rmtree(self._run, ignore_errors=True)

    def _spawn_sweeper(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            ["/bin/sh", "-c", _SWEEPER, "sweeper", str(self.home), str(self._graph), str(self._run)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )


def write_podman(
    home: Path, debian: Path, run: Path, graph: Path, registry: str, *, preparation: str = "", one_user: bool = False
) -> None:
    """Write `home`/podman, an executable that keeps to these directories, and its settings beside it.

    preparation: lines of shell for the executable. one_user: whoever runs it has no sub-IDs, and owns all files.
    """
    trust = home / "user/.config/containers/policy.json"
    trust.parent.mkdir(parents=True, exist_ok=True)
    trust.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    for name, template in (
        ("containers.conf", _CONTAINERS_CONF),
        ("storage.conf", _STORAGE_CONF),
        ("registries.conf", _REGISTRIES_CONF),
        ("podman", _WRAPPER),
    ):
        text = template.format(
            debian=debian,
            run=run,
            graph=graph,
            home=home,
            driver=storage_driver(graph),
            one_user=str(one_user).lower(),
            registry=registry,
            preparation=preparation,
        )
        (home / name).write_text(text)
    (home / "podman").chmod(0o755)


def storage_driver(directory: Path) -> str:
    """Which storage works there: "overlay"; "vfs", slower, where it lies on an overlay itself."""
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        mount, filesystem = fields[4], fields[fields.index("-") + 1]
        if os.path.commonpath([mount, directory.absolute()]) == mount and len(mount) >= len(best):
            best, kind = mount, filesystem
    return "vfs" if kind == "overlay" else "overlay"


def _let_end(sweeper: "subprocess.Popen[bytes]") -> None:
    assert sweeper.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        sweeper.stdin.close()
    try:
        sweeper.wait(_SWEEP_WITHIN)
    except subprocess.TimeoutExpired:
        sweeper.kill()
        sweeper.wait()
