"""A real HTCondor pool of one machine, with rootless podman for its jobs; for tests and for the demo.

    with CondorPool(Path(".run/pool"), parts, registry) as pool:
        pool.client_config, pool.collector, pool.schedd, pool.podman, pool.tool("condor_q")

All daemons share one port on loopback. HTCondor runs no job as root, so where we are root everything runs as the
account `nobody`, in a namespace of process IDs and mounts: it ends at once with whoever started it, and it sees
programs and data, wherever these lie, below one short directory in /tmp. Else everything runs as ourselves, and a
waiting shell ends what the owner leaves.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TextIO

from cdmtaskservice.embedded import condor_packages, debian, pool_settings, processes
from cdmtaskservice.embedded.part import Launcher, PartFailed, free_ports, is_free
from cdmtaskservice.embedded.pool_podman import write_job_podman
from cdmtaskservice.embedded.pool_settings import DOMAIN, Machine, Places
from cdmtaskservice.embedded.stack import PartsMissing, RootBusy

_POLL = 0.05
_READY_WITHIN = 40.0
_STOP_WITHIN = 10.0
_TOOL_WITHIN = 60.0
_LOG_TAIL = 15
_ACCOUNT = "nobody"
_QUIET: Mapping[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_ADS = {"collector": "Collector", "negotiator": "Negotiator", "schedd": "Scheduler", "startd": "Machine"}

# As root this is the first process of a namespace: when it ends, the kernel ends all others in there. podman's
# process that keeps the user namespace must not belong to a job, since HTCondor ends whatever a job leaves.
_INIT = """\
set -e
run=$1 condor=$2 debian=$3 state=$4
shift 4
if [ "$(id -u)" = 0 ]; then
    mount --make-rshared /
    mount --bind "$condor" "$run/condor"
    mount --bind "$debian" "$run/debian"
    mount --bind "$state" "$run/state"
    # Whatever sub-IDs the account has, there is nothing that could use them.
    for ids in /etc/subuid /etc/subgid; do
        [ ! -e "$ids" ] || mount --bind /dev/null "$ids"
    done
fi
cd "$run"
"$@" "$run/condor/usr/sbin/condor_master" -f &
"$@" "$run/podman/podman" unshare true || true
wait
"""

# Removes a pool's directory and, where it had no namespace, its processes: those that were given its settings.
_SWEEP = """\
end() {
    for file in $(grep -lszF -e "CONDOR_CONFIG=$0/" -e "_CONDOR_SCRATCH_DIR=$0/" -e "CONTAINERS_STORAGE_CONF=$0/" \
        /proc/[0-9]*/environ); do
        pid=${file#/proc/}
        kill -KILL "${pid%/environ}"
    done
}
end
if [ "$(id -u)" != 0 ] && [ -x "$0/podman/podman" ]; then
    "$0/podman/podman" rm --all --force --time 0
fi
tries=100
while [ "$tries" -gt 0 ] && [ -e "$0" ]; do
    end
    chmod -R u+rwX "$0"
    rm -rf "$0"
    tries=$((tries - 1))
    [ ! -e "$0" ] || sleep 0.05
done
"""

# Standard input ends when the owner closes it or dies. Whoever owns the home by then has swept already.
_SWEEPER = """\
cat >/dev/null
exec flock --nonblock "$1" /bin/sh -c "$2" "$3"
"""


class ToolFailed(Exception):
    """One of HTCondor's tools failed; the text is what it said."""


def missing_pool_parts(parts: Path) -> list[str]:
    """What a pool needs and this machine lacks, in words; empty if it can start."""
    missing = []
    if not condor_packages.is_complete(parts):
        missing.append(f"HTCondor in {parts / 'condor'}")
    if not debian.is_complete(parts):
        missing.append(f"the container tools in {parts / 'debian'}")
    return missing


class CondorPool:
    """The pool below `home`, whose queue, history and port outlive a stop; `home` has one owner at a time.

    registry: "HOST:PORT" of an image registry on plain http. cpus, memory_mb: what the one partitionable slot offers,
    whatever this machine has. settings: further entries of the daemons' configuration, which win.
    """

    def __init__(
        self,
        home: Path,
        parts: Path,
        registry: str,
        *,
        cpus: int = 8,
        memory_mb: int = 8192,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.home = home.absolute()
        self.log = self.home / "pool.log"
        self.job_user = _ACCOUNT if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        """The account that the daemons and the jobs run as."""
        self.schedd = pool_settings.SCHEDD
        """Its name."""
        self.client_config = self.home / "client/condor_config"
        """CONDOR_CONFIG for clients; they submit as `job_user`."""
        self._parts = parts.absolute()
        self._registry = registry
        self.cpus, self.memory_mb = cpus, memory_mb
        self._settings = dict(settings)
        self._state = self.home / "state"
        # Sockets lie in here, and a socket's path may have 107 characters at most.
        token = hashlib.sha256(str(self.home).encode()).hexdigest()[:10]
        self._run = Path(f"/tmp/cts-pool-{token}")  # noqa: S108 - made by us or refused
        self.podman = self._run / "podman/podman"
        """The container runtime of the worker; it works in jobs only, and takes podman's own arguments."""
        self.worker_dir = self._run / "worker"
        """Belongs to `job_user`; it stays while this object is not closed."""
        self._port = 0
        self._launcher: Launcher | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._sweeper: subprocess.Popen[bytes] | None = None
        self._owned: TextIO | None = None

    @property
    def collector(self) -> str:
        """ "127.0.0.1:PORT"."""
        return f"127.0.0.1:{self._port}"

    @property
    def is_running(self) -> bool:
        """Whether the pool's processes are there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until jobs can be submitted and matched; no effect while it runs.

        Raises PartsMissing, RootBusy or PartFailed, with nothing left running.
        """
        if self.is_running:
            return
        if missing := missing_pool_parts(self._parts):
            raise PartsMissing(f"Missing: {'; '.join(missing)}. Run `make setup`, which says why if it cannot help.")
        self.home.mkdir(parents=True, exist_ok=True)
        self._lock()
        try:
            self._prepare()
            self._launch()
            self._await(self._is_up, "did not come up")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop in order, at the latest some 10 s later; no effect when stopped.

        Jobs that ran still count as running after the next start, until their `job_lease_duration` is over.
        """
        if self._process is not None:
            for daemon in (*pool_settings.DAEMONS, "starter", "shadow", "master"):
                self.resume(daemon)
            processes.send(self.pids("master"), signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_WITHIN)
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._owned is not None:
            self._owned.close()
            self._owned = None

    def close(self) -> None:
        """Stop for good and remove what lies outside of `home`."""
        self.stop()
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None
        if self._sweeper is not None:
            assert self._sweeper.stdin is not None
            self._sweeper.stdin.close()
            self._sweeper.wait(_STOP_WITHIN)
            self._sweeper = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def token(self, identity: str) -> str:
        """A token for anyone, "NAME@DOMAIN", of this pool's domain or another."""
        return self.tool("condor_token_create", "-identity", identity, "-key", "POOL").strip()

    def tool(self, name: str, *arguments: str) -> str:
        """What one of HTCondor's tools prints, run by an administrator of the pool. Raises ToolFailed."""
        program = next(
            (path for folder in ("bin", "sbin") if (path := self._parts / "condor/usr" / folder / name).exists()), None
        )
        if program is None:
            raise ToolFailed(f"{name}: no such tool in {self._parts / 'condor'}")
        # Run by root, some tools want an account for HTCondor itself, and look for one that this machine need not have.
        account = pwd.getpwnam(self.job_user)
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TOOL_WITHIN,
            env={
                **_environment(self.home),
                "CONDOR_CONFIG": str(self._tool_config),
                "CONDOR_IDS": f"{account.pw_uid}.{account.pw_gid}",
            },
        )
        if done.returncode:
            raise ToolFailed(f"{name}: exit code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def install_token(self, text: str, name: str = "token") -> Path:
        """A file in `worker_dir` that only the job user can read."""
        file = self.worker_dir / name
        _write_private(file, text.encode())
        self._give(file)
        return file

    def pids(self, daemon: str) -> list[int]:
        """The process IDs of all "schedd", "startd", "collector", "negotiator", "starter" or "shadow"."""
        return processes.running(self._mark(daemon))

    def suspend(self, daemon: str) -> None:
        """Keep connections open and answer nothing, as a daemon that hangs; returns when it has stopped."""
        processes.suspend(self._mark(daemon), within=5.0)

    def resume(self, daemon: str) -> None:
        """End a suspension."""
        processes.send(self.pids(daemon), signal.SIGCONT)

    def kill(self, daemon: str) -> None:
        """SIGKILL. The master starts schedd, startd, collector and negotiator again some 2 s later."""
        pids = self.pids(daemon)
        processes.send(pids, signal.SIGKILL)
        self._await(lambda: not set(pids) & set(self.pids(daemon)), f"kept its {daemon} after SIGKILL")

    def stop_daemon(self, daemon: str, *, fast: bool = True) -> None:
        """End a daemon, which stays away until `start_daemon`; not `fast`: it winds up its work before."""
        self._master("condor_off", "-fast" if fast else "-graceful", "-daemon", daemon)
        self._await(lambda: not self.pids(daemon), f"kept its {daemon}")

    def start_daemon(self, daemon: str) -> None:
        """Start a daemon that was stopped, and wait until it serves; no effect while it runs."""
        self._master("condor_on", "-daemon", daemon)
        self._await(lambda: self._serves(daemon), f"did not start its {daemon}")

    def _master(self, name: str, *arguments: str) -> None:
        # By its address: its name is told by the collector, which may be away.
        address = (self._state / "log/.master_address").read_text().splitlines()[0]
        self.tool(name, "-addr", address, *arguments)

    @property
    def _tool_config(self) -> Path:
        # Some tools refuse a configuration that other accounts cannot read, when they are run by root.
        return self._run / "tool_config"

    def _mark(self, daemon: str) -> str:
        """An argument that tells this pool's daemons of a kind from all other processes."""
        return str(self._run / f"condor/usr/sbin/condor_{daemon}")

    def _lock(self) -> None:
        lock = (self.home / "lock").open("w")
        deadline = time.monotonic() + _STOP_WITHIN
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # The sweeper of an owner that died may be at work.
                if time.monotonic() < deadline:
                    time.sleep(_POLL)
                    continue
                lock.close()
                raise RootBusy(
                    f"Another process runs a pool in {self.home}: stop it, or use another directory."
                ) from None
            self._owned = lock
            return

    def _prepare(self) -> None:
        """Directories, settings, keys and tokens."""
        self._make_run()
        for name in ("log", "spool", "passwords.d", "tokens.d"):
            (self._state / name).mkdir(parents=True, exist_ok=True)
        for name in ("admin/passwords.d", "admin/tokens.d", "client/tokens.d"):
            (self.home / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        key = self.home / "admin/passwords.d/POOL"
        if not key.exists():
            _write_private(key, secrets.token_bytes(64))
        # HTCondor reads a key only if it belongs to the reader, so the tools and the daemons have one each.
        _write_private(self._state / "passwords.d/POOL", key.read_bytes())
        self._port = self._choose_port()
        self._write_settings()
        for owner, identity in (("admin", pool_settings.ADMINISTRATOR), ("client", f"{self.job_user}@{DOMAIN}")):
            _write_private(self.home / owner / "tokens.d/token", self.token(identity).encode())
        for path in (self._state, *self._state.glob("*"), self._state / "passwords.d/POOL"):
            self._give(path)
        for private in ("passwords.d", "tokens.d"):
            (self._state / private).chmod(0o700)

    def _make_run(self) -> None:
        if self._run.is_symlink() or (self._run.exists() and self._run.stat().st_uid != os.geteuid()):
            raise PartFailed(f"{self._run} belongs to somebody else: remove it, or give the pool another directory.")
        if self._sweeper is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(["/bin/sh", "-c", _SWEEP, self._run], timeout=_STOP_WITHIN, **_QUIET)
            script = (_SWEEPER, "sweeper", str(self.home / "lock"), _SWEEP, str(self._run))
            self._sweeper = subprocess.Popen(
                ["/bin/sh", "-c", *script], stdin=subprocess.PIPE, cwd="/", start_new_session=True, **_QUIET
            )
        self._run.mkdir(mode=0o755, exist_ok=True)
        for name, source in (("condor", self._parts), ("debian", self._parts), ("state", self.home)):
            if os.geteuid() == 0:
                (self._run / name).mkdir(exist_ok=True)  # to be mounted over
            elif not (self._run / name).is_symlink():
                (self._run / name).symlink_to(source / name)
        for name in ("execute", "lock", "sock"):
            shutil.rmtree(self._run / name, ignore_errors=True)
        for name in ("execute", "lock", "sock", "home", "worker"):
            (self._run / name).mkdir(exist_ok=True)
            self._give(self._run / name)

    def _write_settings(self) -> None:
        machine = Machine(self._port, self.cpus, self.memory_mb, self.job_user)
        inside = Places(self._run / "condor", self._run, self._run / "state")
        outside = Places(self._parts / "condor", self._run, self._state)
        (self._run / "condor_config").write_text(pool_settings.daemon_config(inside, machine, self._settings))
        self._tool_config.write_text(pool_settings.tool_config(outside, machine, self._settings, self.home / "admin"))
        self.client_config.write_text(pool_settings.client_config(self._port, self.home / "client"))
        for path in write_job_podman(self.podman.parent, self._run / "debian", self._run / "execute", self._registry):
            self._give(path)

    def _launch(self) -> None:
        apart: tuple[str, ...] = ()
        become: tuple[str, ...] = ()
        if os.geteuid() == 0:
            account = pwd.getpwnam(self.job_user)
            apart = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=slave", "--")
            become = ("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups")
            become = (*become, "--inh-caps=-all", "--")
        places = (self._run, self._parts / "condor", self._parts / "debian", self._state)
        self._launcher = self._launcher or Launcher()
        self._process = self._launcher.launch(
            [*apart, "/bin/sh", "-c", _INIT, "init", *map(str, places), *become],
            {**_environment(self._run / "home"), "CONDOR_CONFIG": str(self._run / "condor_config")},
            self.home,
            self.log,
        )

    def _is_up(self) -> bool:
        return all(map(self._serves, pool_settings.DAEMONS))

    def _serves(self, daemon: str) -> bool:
        """Whether the collector knows the daemon, and the schedd answers there."""
        try:
            known = self.tool("condor_status", "-any", "-af", "MyType").split()
            if daemon == "schedd":
                self.tool("condor_q", "-totals")
        except (ToolFailed, subprocess.TimeoutExpired):
            return False
        return bool(self.pids(daemon)) and _ADS[daemon] in known

    def _await(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        while not condition():
            if not self.is_running or time.monotonic() > deadline:
                raise PartFailed(self._obituary(otherwise))
            time.sleep(_POLL)

    def _choose_port(self) -> int:
        """That of an earlier start in the same home where it is free."""
        kept = self.home / "port.json"
        with contextlib.suppress(OSError, ValueError):
            port = int(json.loads(kept.read_text()))
            if is_free(port):
                return port
        [port] = free_ports(1)
        kept.write_text(json.dumps(port))
        return port

    def _give(self, path: Path) -> None:
        """Make it the job user's, if it is not."""
        if os.geteuid() == 0:
            account = pwd.getpwnam(self.job_user)
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)

    def _obituary(self, otherwise: str) -> str:
        told = []
        for log in (self.log, self._state / "log/MasterLog"):
            lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL:] if log.exists() else []
            told += [f"The end of {log}:", *(f"    {line}" for line in lines or ["(nothing)"])]
        return f"The pool {otherwise}, or another program has its port {self._port}.\n" + "\n".join(told)


def _write_private(file: Path, content: bytes) -> None:
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_bytes(content)


def _environment(home: Path) -> dict[str, str]:
    """Nothing of the caller's beyond PATH, so that none of its settings leaks in."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LC_ALL": "C.UTF-8"}
