"""The submit description of a cluster: one proc for each container. Pure.

Anybody who may query the schedd can read a job's ad, so there is no secret in it: the executor's token lies in a file
on the worker, and everything else that it needs it gets from the service.
"""

from __future__ import annotations

import math
import posixpath
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence

from cdmtaskservice.sites.base import RunRequest
from cdmtaskservice.sites.htcondor.config import HTCondorSiteConfig, WorkerSetup
from cdmtaskservice.sites.htcondor.holds import RESTARTED_TOO_OFTEN

OURS = "CTS: "
"""Begins every reason that we give to HTCondor, so that what we did is told from what others did."""

CODE_CHANGED = 76
"""The exit code where `executable.sh` is not the one that was pinned at submission."""

_FORGOTTEN = 30 * 86400
"""Seconds after which a job that somebody has put on hold is removed."""

_USUAL_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")

# HTCondor gives a job neither PATH nor HOME. What follows `cts` are the executor's arguments.
_START = """\
[ -n "$HOME" ] || { unset HOME; HOME=~; export HOME; }; \
if ! echo "$CTS_EXECUTABLE_SHA256  $CTS_EXECUTABLE" | sha256sum --check --status; \
then echo "cts: $CTS_EXECUTABLE is not the one that was pinned when the job was submitted" >&2; exit 76; fi; \
exec "$BASH" "$CTS_EXECUTABLE" "$@" --work-dir "$_CONDOR_SCRATCH_DIR/cts-work"\
"""


def describe(
    config: HTCondorSiteConfig, requests: Sequence[RunRequest], executable_sha256: str, command: Sequence[str] = ()
) -> dict[str, str]:
    """The submit description for runs of one job, which ask for the same each. `items` has the rest.

    executable_sha256: of `executable.sh`, 64 hex digits. command: what the executor does but run a container.
    """
    first = requests[0]
    job, worker = first.run.job_id, config.worker
    # With the executor's patience, since an outage of the service must not be what ends a job.
    seconds = math.ceil(first.runtime + config.transfer_time + worker.keep_trying)
    description = {
        "universe": "vanilla",
        "executable": worker.shell,
        "transfer_executable": "false",
        "arguments": quoted(["-c", _START, "cts", *command, *_executor_arguments(worker, job)]),
        "environment": quoted(f"{name}={value}" for name, value in environment(config, executable_sha256).items()),
        "should_transfer_files": "YES",
        "when_to_transfer_output": "ON_EXIT",
        "transfer_input_files": worker.executable_url,
        "transfer_output_files": '""',
        # Nothing is written there. The bindings look for it on the service's machine, so it must be where any has one.
        "initialdir": "/tmp",  # noqa: S108
        "request_cpus": str(first.cpus),
        "request_memory": str(math.ceil((first.memory + config.executor_memory) / 2**20)),
        "request_disk": str(math.ceil((first.disk + config.scratch) / 2**10)),
        # The executor may go on for as long as its limits allow, whatever happens to the schedd meanwhile.
        "job_lease_duration": str(seconds),
        "allowed_execute_duration": str(seconds),
        "want_graceful_removal": "true",
        "kill_sig": "SIGTERM",
        "job_max_vacate_time": str(math.ceil(config.vacate_time)),
        "periodic_hold": f"JobStatus == 1 && NumJobStarts >= {config.max_starts}",
        "periodic_hold_reason": f'"{OURS}its executor was started {config.max_starts} times and evicted each time"',
        "periodic_hold_subcode": str(RESTARTED_TOO_OFTEN),
        # Whoever held it has forgotten it.
        "periodic_remove": f"JobStatus == 5 && time() - EnteredCurrentStatus > {_FORGOTTEN}",
        "concurrency_limits": f"cts.{_name(first.user)}",
        "accounting_group_user": _name(first.user),
        "batch_name": f"cts-{job}",
        "notification": "never",
        "My.CTSJobID": f'"{job}"',
        "My.CTSUser": f'"{_name(first.user)}"',
        "My.CTSContainerNumber": "$(cts_container)",
        "My.CTSAttempt": "$(cts_attempt)",
    }
    if config.accounting_group:
        description["accounting_group"] = config.accounting_group
    if first.gpus:
        description["request_gpus"] = str(first.gpus)
    if requirement := client_group_requirement(config):
        description["requirements"] = requirement
    if config.initial_dir:
        description["error"] = f"{config.initial_dir}/cts-{job}-$(cts_container)-$(cts_attempt).log"
    if len(requests) > config.idle_at_once:
        description["max_idle"] = str(config.idle_at_once)
        # Which procs are not in the queue yet.
        description["My.CTSRuns"] = f'"{write_runs([(r.run.container, r.run.attempt) for r in requests])}"'
    return description


def client_group_requirement(config: HTCondorSiteConfig) -> str | None:
    """What a machine must be, beside large enough; None for nothing."""
    return f"regexp({_string(config.client_group)}, TARGET.CLIENTGROUP)" if config.client_group else None


def items(requests: Sequence[RunRequest]) -> list[dict[str, str]]:
    """What each proc has of its own, in the order of the requests."""
    return [{"cts_container": str(r.run.container), "cts_attempt": str(r.run.attempt)} for r in requests]


def environment(config: HTCondorSiteConfig, executable_sha256: str) -> Mapping[str, str]:
    """What the executor is told of its worker. It is the same for every job of the site."""
    worker = config.worker
    told = {
        "PATH": ":".join([*worker.path, *_USUAL_PATH]),
        "CTS_EXECUTABLE": posixpath.basename(urllib.parse.urlsplit(worker.executable_url).path),
        "CTS_EXECUTABLE_SHA256": executable_sha256,
        "CTS_PYTHON": worker.python,
        "CTS_CODE_ARCHIVE_URL": worker.archive_url,
        "CTS_CODE_CACHE": posixpath.join(worker.cache_dir, "code") if worker.cache_dir else None,
        "CTS_EXECUTOR_CACHE_DIR": worker.cache_dir,
        "CTS_EXECUTOR_REFDATA_DIR": worker.refdata_dir,
        "CTS_EXECUTOR_MOUNT_PREFIX": ":".join(worker.mount_prefix) if worker.mount_prefix else None,
        "CTS_EXECUTOR_RUNTIME": worker.container_runtime,
        "CTS_EXECUTOR_RUNTIME_PATH": worker.container_runtime_path,
        "CTS_EXECUTOR_KEEP_TRYING": f"{worker.keep_trying:g}",
        "CTS_EXECUTOR_STOP_GRACE": f"{worker.stop_grace:g}",
        **config.extra_environment,
    }
    return {name: value for name, value in told.items() if value}


def quoted(values: Iterable[str]) -> str:
    """Arguments or an environment in the submit language's newer syntax, each arriving as it is.

    Source: condor_submit's manual, `arguments`: all between double quotes, each between single ones, and both doubled
    within.
    """
    inner = " ".join("'" + value.replace("'", "''").replace('"', '""') + "'" for value in values)
    return f'"{inner}"'


def write_runs(runs: Sequence[tuple[int, int]]) -> str:
    """Containers with their attempts, in order, in few words: `0-999@1,17@2`."""
    words: list[str] = []
    start = 0
    for at in range(1, len(runs) + 1):
        number, attempt = runs[at - 1]
        if at == len(runs) or runs[at] != (number + 1, attempt):
            first = runs[start][0]
            words.append(f"{first}-{number}@{attempt}" if first != number else f"{number}@{attempt}")
            start = at
    return ",".join(words)


def read_runs(text: str) -> list[tuple[int, int]]:
    """The containers with their attempts that `write_runs` has written."""
    runs: list[tuple[int, int]] = []
    for word in text.split(",") if text else ():
        numbers, _, attempt = word.partition("@")
        first, _, last = numbers.partition("-")
        runs += [(number, int(attempt)) for number in range(int(first), int(last or first) + 1)]
    return runs


def _executor_arguments(worker: WorkerSetup, job: str) -> Sequence[str]:
    return (
        *("--url", worker.service_url, "--token-file", worker.token_file, "--job", job),
        *("--container", "$(cts_container)", "--run", "$(cts_attempt)"),
    )


def _name(user: str) -> str:
    """A user's name as accounting and concurrency limits can have it, still a different one for each user."""
    return re.sub(r"[^A-Za-z0-9_]", lambda m: f"_{ord(m[0]):x}_", user)


def _string(text: str) -> str:
    """A ClassAd string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
