"""The submit description of a cluster."""

import hashlib
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.sites.base import Run, RunRequest, SiteInfo
from cdmtaskservice.sites.htcondor.config import HTCondorSiteConfig, WorkerSetup
from cdmtaskservice.sites.htcondor.submission import CODE_CHANGED, describe, items, quoted, read_runs, write_runs

WORKER = WorkerSetup("http://cts:5000", "/etc/cts/token", "http://cts:5000/files/executable.sh", "http://s3")
CONFIG = HTCondorSiteConfig(SiteInfo("kbase", "htcondor", 1, 8, 8 * 10**9, 3600.0), WORKER)
SHA = "ab" * 32


def request(container: int = 0, attempt: int = 1, **more) -> RunRequest:
    asked = {"user": "ann", "cpus": 2, "memory": 10_000_000, "runtime": 60.5, "gpus": 0, "disk": 0} | more
    return RunRequest(Run("6f7c-1", container, attempt), **asked)


def described(config: HTCondorSiteConfig = CONFIG, **more) -> dict[str, str]:
    return describe(config, [request(**more)], SHA)


def unquoted(text: str) -> list[str]:
    """The arguments in the submit language's newer syntax, read as its manual says: between double quotes, which are
    doubled within; each between single ones, which are doubled within too."""
    assert text[0] == text[-1] == '"'
    inner = text[1:-1].replace('""', '"')
    return [part.replace("''", "'") for part in re.findall(r"'((?:[^']|'')*)'(?: |$)", inner, re.DOTALL)]


@pytest.mark.parametrize(
    ("memory", "mebibytes"),
    [(10_000_000, 71), (1, 62), (2**20 * 100 - 64_000_000, 100), (2**20 * 100 - 63_999_999, 101)],
)
def test_memory_is_the_containers_and_the_executors_in_mebibytes_rounded_up(memory, mebibytes):
    assert described(memory=memory)["request_memory"] == str(mebibytes)


def test_what_is_asked_for():
    told = described(disk=2**30, gpus=3)
    assert told["request_cpus"] == "2"
    assert told["request_disk"] == str(2**20 + 976563)
    assert told["request_gpus"] == "3"
    assert "request_gpus" not in described()
    # The runtime, a day for what comes around it, and a day for which the service may be away; in whole seconds.
    assert told["allowed_execute_duration"] == told["job_lease_duration"] == str(61 + 86400 + 86400)
    assert told["periodic_hold"] == "JobStatus == 1 && NumJobStarts >= 3"


def test_what_a_proc_is_known_by():
    three = [request(0), request(1), request(7, 2)]
    told = describe(CONFIG, three, SHA)
    assert told["My.CTSJobID"] == '"6f7c-1"'
    assert "My.CTSRuns" not in told  # all its procs are made at once
    assert describe(replace(CONFIG, idle_at_once=2), three, SHA)["My.CTSRuns"] == '"0-1@1,7@2"'
    assert items([request(0), request(7, 2)]) == [
        {"cts_container": "0", "cts_attempt": "1"},
        {"cts_container": "7", "cts_attempt": "2"},
    ]
    assert "'--container' '$(cts_container)' '--run' '$(cts_attempt)'" in told["arguments"]


@pytest.mark.parametrize(("user", "limit"), [("ann", "cts.ann"), ("a.b-c", "cts.a_2e_b_2d_c"), ("ü", "cts._fc_")])
def test_each_user_has_a_limit_of_their_own(user, limit):
    told = described(user=user)
    assert told["concurrency_limits"] == limit
    assert told["accounting_group_user"] == limit.removeprefix("cts.")


def test_optional_settings():
    assert not {"requirements", "accounting_group", "error", "max_idle"} & described().keys()
    full = replace(CONFIG, client_group='a"b\\.c', accounting_group="cts.jobs", initial_dir="/shared/cts")
    told = described(full)
    assert told["requirements"] == 'regexp("a\\"b\\\\.c", TARGET.CLIENTGROUP)'
    assert told["accounting_group"] == "cts.jobs"
    assert told["error"] == "/shared/cts/cts-6f7c-1-$(cts_container)-$(cts_attempt).log"
    # The bindings want to see it on the service's machine, where the schedd's directories are not.
    assert told["initialdir"] == "/tmp"
    many = [request(n) for n in range(4)]
    assert describe(replace(CONFIG, idle_at_once=3), many, SHA)["max_idle"] == "3"
    assert "max_idle" not in describe(replace(CONFIG, idle_at_once=4), many, SHA)


def test_the_worker_is_told_what_it_has():
    worker = replace(
        WORKER,
        path=["/opt/a", "/opt/b"],
        cache_dir="/var/cache/cts",
        mount_prefix=("/scratch", "/host/scratch"),
        archive_url="http://mirror/code.tgz",
        python="/opt/python3",
    )
    told = dict(entry.split("=", 1) for entry in unquoted(described(replace(CONFIG, worker=worker))["environment"]))
    assert told["PATH"].startswith("/opt/a:/opt/b:/usr/local/sbin:")
    assert told["CTS_CODE_CACHE"] == "/var/cache/cts/code"
    assert told["CTS_EXECUTOR_MOUNT_PREFIX"] == "/scratch:/host/scratch"
    assert told["CTS_CODE_ARCHIVE_URL"] == "http://mirror/code.tgz"
    assert told["CTS_PYTHON"] == "/opt/python3"
    assert told["CTS_EXECUTABLE"] == "executable.sh"
    assert told["CTS_EXECUTABLE_SHA256"] == SHA
    assert "CTS_EXECUTOR_REFDATA_DIR" not in told


@given(st.lists(st.text(st.characters(blacklist_characters="\0\\\n", blacklist_categories=["Cs"]))))
def test_arguments_arrive_as_they_are(arguments):
    assert unquoted(quoted(arguments)) == arguments


RUNS = st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 40)), max_size=50)


@given(RUNS)
def test_runs_are_read_as_they_were_written(runs):
    assert read_runs(write_runs(runs)) == runs


def test_a_thousand_runs_take_few_words():
    assert write_runs([(n, 1) for n in range(1000)]) == "0-999@1"


# What the worker's shell makes of it


def run_start(directory: Path, script: str, sha256: str) -> subprocess.CompletedProcess[str]:
    """Run the job's command line as HTCondor does, with a script as `executable.sh`."""
    (directory / "executable.sh").write_text(script)
    told = describe(CONFIG, [request()], sha256)
    environment = dict(entry.split("=", 1) for entry in unquoted(told["environment"]))
    return subprocess.run(
        [told["executable"], *unquoted(told["arguments"])],
        cwd=directory,
        env=environment | {"_CONDOR_SCRATCH_DIR": str(directory)},
        capture_output=True,
        text=True,
    )


SCRIPT = 'echo "$HOME"; printf "%s\\n" "$@"; exit 3'


def test_the_pinned_program_is_run_with_its_arguments(tmp_path):
    done = run_start(tmp_path, SCRIPT, hashlib.sha256(SCRIPT.encode()).hexdigest())
    assert done.returncode == 3, done.stderr
    home, *arguments = done.stdout.splitlines()
    assert home.startswith("/")
    assert arguments == [
        *("--url", "http://cts:5000", "--token-file", "/etc/cts/token", "--job", "6f7c-1"),
        *("--container", "$(cts_container)", "--run", "$(cts_attempt)"),  # replaced by HTCondor
        *("--work-dir", f"{tmp_path}/cts-work"),
    ]


def test_another_program_is_not_run(tmp_path):
    done = run_start(tmp_path, SCRIPT, SHA)
    assert (done.returncode, done.stdout) == (CODE_CHANGED, "")
    assert "is not the one that was pinned" in done.stderr
