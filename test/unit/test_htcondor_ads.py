"""What ads of HTCondor's queue and history mean."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.domain.records import Usage
from cdmtaskservice.sites.base import Run, RunState, SiteInfo
from cdmtaskservice.sites.htcondor.ads import JobStatus, ended, read_history, read_queue, usage
from cdmtaskservice.sites.htcondor.config import HTCondorSiteConfig, WorkerSetup
from cdmtaskservice.sites.htcondor.holds import HOLDS, Remedy
from cdmtaskservice.sites.htcondor.submission import write_runs

CONFIG = HTCondorSiteConfig(
    SiteInfo("kbase", "htcondor", 1, 8, 8 * 10**9, 3600.0),
    WorkerSetup("http://cts", "/token", "http://cts/x.sh", "http://s3"),
    max_releases=2,
    unmatched_after=10.0,
)
JOB = "6f7c"
NOW = 1_800_000_000


def ad(status: int = JobStatus.RUNNING, **more: Any) -> dict[str, Any]:
    """An ad of container 3's first attempt, which has had its status for 7 seconds."""
    return {
        "ClusterId": 12,
        "ProcId": 3,
        "JobStatus": int(status),
        "EnteredCurrentStatus": NOW - 7,
        "ServerTime": NOW,
        "CTSJobID": JOB,
        "CTSContainerNumber": 3,
        "CTSAttempt": 1,
    } | more


def held(code: int, reason: str = "the reason", **more: Any) -> dict[str, Any]:
    return ad(JobStatus.HELD, **({"HoldReasonCode": code, "HoldReasonSubCode": 2, "HoldReason": reason} | more))


def status_of(document: dict[str, Any]):
    return read_queue([document], CONFIG).procs[Run(JOB, 3, 1)].status


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (JobStatus.IDLE, RunState.QUEUED),
        (JobStatus.RUNNING, RunState.RUNNING),
        (JobStatus.TRANSFERRING_OUTPUT, RunState.RUNNING),
        (JobStatus.SUSPENDED, RunState.RUNNING),
        (JobStatus.REMOVED, RunState.RUNNING),
        (JobStatus.COMPLETED, RunState.ENDED),
    ],
)
def test_what_is_in_the_queue(status, state):
    found = status_of(ad(status))
    assert (found.state, found.handle) == (state, "12")
    assert found.error is None
    since_it_began = status in {JobStatus.IDLE, JobStatus.RUNNING, JobStatus.REMOVED}
    assert state is RunState.ENDED or found.age == (7 if since_it_began else None)


@pytest.mark.parametrize("status", [JobStatus.REMOVED, JobStatus.SUSPENDED])
def test_a_run_that_does_not_go_on_says_why(status):
    assert status_of(ad(status, RemoveReason="because")).detail


def test_ads_of_others_are_passed_over():
    others = [ad(CTSJobID=None), ad(CTSJobID=5), ad(CTSAttempt="1"), ad(ProcId=None), {"ClusterId": 1}]
    assert read_queue(others, CONFIG).procs == {}


# Holds


@pytest.mark.parametrize("code", HOLDS)
def test_every_hold_is_told_to_administrators_with_code_and_time(code):
    found = status_of(held(code))
    if HOLDS[code].remedy is not Remedy.NONE:
        assert f"since 2027-01-15T07:59:53Z, code {code}, subcode 2: the reason" in str(found.detail)


@pytest.mark.parametrize("code", [c for c in HOLDS if HOLDS[c].remedy is Remedy.FAIL])
def test_a_hold_that_is_an_error(code):
    found = status_of(held(code))
    assert found.state is RunState.STUCK
    assert found.error == f"{HOLDS[code].told}: the reason"


@pytest.mark.parametrize("code", [*(c for c in HOLDS if HOLDS[c].remedy is Remedy.AGAIN), 999, None])
def test_a_hold_that_becomes_a_new_attempt(code):
    found = status_of(held(code))
    assert (found.state, found.error) == (RunState.STUCK, None)
    assert "the reason" in str(found.detail)


def test_a_hold_by_a_person_waits_for_them():
    found = status_of(held(1))
    assert found.state is RunState.QUEUED
    assert "on hold" in str(found.told)
    assert found.holds_up


def test_spooling_is_no_failure():
    found = status_of(held(16))
    assert (found.state, found.detail, found.told, found.error) == (RunState.QUEUED, None, None, None)


def test_a_hold_that_can_pass_is_released_with_growing_pauses_and_then_an_error():
    def proc(releases: int, age: int):
        document = held(13, CTSReleases=releases, EnteredCurrentStatus=NOW - age)
        return read_queue([document], CONFIG).procs[Run(JOB, 3, 1)]

    assert [(proc(0, age).release, proc(0, age).status.state) for age in (4, 5)] == [
        (False, RunState.QUEUED),
        (True, RunState.QUEUED),
    ]
    assert [proc(1, age).release for age in (9, 10)] == [False, True]
    last = proc(2, 1000)
    assert not last.release
    assert last.status.state is RunState.STUCK
    assert "could not fetch" in str(last.status.error)


def test_our_own_hold_for_too_many_starts_has_our_words():
    reason = "CTS: its executor was started 3 times and evicted each time"
    found = status_of(held(3, reason, HoldReasonSubCode=1))
    assert (found.state, found.detail) == (RunState.STUCK, reason.removeprefix("CTS: "))


# The end


def test_a_removal_by_us_is_no_error_and_by_others_is():
    ours = ended(ad(JobStatus.REMOVED, RemoveReason="CTS: silent for 99 seconds (by user cts)"))
    assert (ours.state, ours.error, ours.detail) == (RunState.ENDED, None, "silent for 99 seconds (by user cts)")
    other = ended(ad(JobStatus.REMOVED, RemoveReason="via condor_rm (by user root)"))
    assert other.error == "somebody at the cluster, or a rule of it, has removed it from the queue: " + (
        "via condor_rm (by user root)"
    )
    assert "2027-01-15T07:59:53Z" in str(other.detail)


def test_exit_codes_are_told_in_words_and_a_worker_that_cannot_begin_is_no_attempt():
    def of(code: int):
        return ended(ad(JobStatus.COMPLETED, ExitCode=code))

    assert of(75).detail == "the service did not answer its executor for too long (exit code 75)"
    assert of(1).detail == "its executor ended (exit code 1)"
    assert [of(code).blameless for code in (0, 70, 75, 137)] == [False] * 4
    assert [of(code).blameless for code in (2, 64, 69, 73, 76, 78, 126, 127)] == [True] * 8
    assert ended(ad(4, ExitBySignal=True, ExitSignal=9)).detail == "its executor was killed by signal 9"


def test_usage():
    measured = ad(RemoteUserCpu=1.5, RemoteSysCpu=0.5, RemoteWallClockTime=4.0, ResidentSetSize=7)
    assert usage(measured) == Usage(2.0, 4.0, 7168)
    assert usage(ad(RemoteWallClockTime=0.0)) == Usage()
    assert usage(ad(RemoteWallClockTime=4.0)) == Usage(0.0, 4.0, None)


# Clusters


def test_procs_that_are_not_made_yet_are_queued():
    cluster = {
        "ClusterId": 12,
        "CTSJobID": JOB,
        "CTSRuns": "3-5@1,9@2",
        "JobMaterializeNextProcId": 1,
    }
    found = read_queue([ad(), cluster], CONFIG)
    assert {run: (p.name, p.status.state) for run, p in found.procs.items()} == {
        Run(JOB, 3, 1): ("12.3", RunState.RUNNING),
        Run(JOB, 4, 1): ("12", RunState.QUEUED),
        Run(JOB, 5, 1): ("12", RunState.QUEUED),
        Run(JOB, 9, 2): ("12", RunState.QUEUED),
    }
    assert found.surplus == {}
    assert {p.status.holds_up for p in found.procs.values()} == {False}
    paused = cluster | {"JobMaterializePaused": 1, "JobMaterializePauseReason": "by hand"}
    status = read_queue([paused], CONFIG).procs[Run(JOB, 9, 2)].status
    assert (status.holds_up, status.detail) == (True, "HTCondor makes no more jobs of cluster 12: by hand")
    assert status.told is not None
    del cluster["JobMaterializeNextProcId"]  # an ordinary cluster: all its procs are there
    assert read_queue([cluster], CONFIG).procs == {}


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_clusters_with_one_run_the_first_counts(order):
    ads = [ad(), ad(ClusterId=15), ad(ClusterId=15, ProcId=4, CTSContainerNumber=4)][::order]
    found = read_queue(ads, CONFIG)
    assert found.procs[Run(JOB, 3, 1)].cluster == 12
    assert found.procs[Run(JOB, 4, 1)].cluster == 15
    assert list(found.surplus.values()) == [["15.3"]]


def test_an_earlier_attempt_that_is_still_there_is_surplus():
    found = read_queue([ad(), ad(ClusterId=15, ProcId=0, CTSAttempt=2)], CONFIG)
    assert list(found.surplus.values()) == [["12.3"]]


def test_of_several_records_in_the_history_the_latest_counts():
    records = [ad(4, ExitCode=75), ad(3, RemoveReason="CTS: x")]
    assert read_history(records, CONFIG)[Run(JOB, 3, 1)].status.detail.startswith("the service did not")


# Waiting for a machine


@pytest.mark.parametrize(
    ("age", "said", "unmatched"), [(9, "no match", False), (10, "no match", True), (99, None, False)]
)
def test_a_run_that_finds_no_machine_is_noticed(age, said, unmatched):
    document = ad(JobStatus.IDLE, EnteredCurrentStatus=NOW - age, LastRejMatchReason=said)
    assert read_queue([document], CONFIG).procs[Run(JOB, 3, 1)].waits_unmatched is unmatched


ATTRIBUTE = st.none() | st.integers(-2, 60) | st.text(max_size=5) | st.booleans() | st.floats(allow_nan=False)


@given(st.dictionaries(st.sampled_from(sorted(ad() | held(13) | {"RemoveReason": "", "ExitCode": 0})), ATTRIBUTE))
def test_no_ad_is_too_strange(changes):
    document = ad() | changes
    try:
        read_queue([document], CONFIG)
        read_history([document], CONFIG)
    except (ValueError, OverflowError):
        pytest.fail(f"cannot be read: {document}")


def test_runs_of_the_configured_size_are_read_back():
    runs = [(n, 1) for n in range(1000)] + [(1005, 3)]
    cluster = {"ClusterId": 1, "CTSJobID": JOB, "CTSRuns": write_runs(runs), "JobMaterializeNextProcId": 0}
    assert len(read_queue([cluster], replace(CONFIG, max_releases=1)).procs) == 1001


@pytest.mark.parametrize(
    ("reason", "age", "unconfirmed", "ours"),
    [
        ("CTS: silent", 89, False, True),
        ("CTS: silent", 90, True, True),
        ("via condor_rm (by user root)", 9999, True, False),
    ],
)
def test_a_removal_that_no_worker_confirms_is_noticed(reason, age, unconfirmed, ours):
    document = ad(JobStatus.REMOVED, RemoveReason=reason, EnteredCurrentStatus=NOW - age)
    proc = read_queue([document], CONFIG).procs[Run(JOB, 3, 1)]
    state = RunState.STUCK if unconfirmed else RunState.RUNNING
    assert (proc.unconfirmed, proc.ours, proc.status.state) == (unconfirmed, ours, state)
