"""What to make of a job that HTCondor holds. A held job never goes on by itself. Pure.

The codes are those of the job attribute HoldReasonCode; HTCondor's manual lists them among the job ClassAd attributes.
docs/sites/htcondor.md repeats this table for administrators, and a test keeps the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Remedy(Enum):
    """What is done about a held job."""

    WAIT = "waits for whoever held it"
    RELEASE = "is released, a bounded number of times"
    AGAIN = "becomes a new attempt"
    FAIL = "is an error of the job"
    NONE = "is no failure"


@dataclass(frozen=True)
class Hold:
    """A reason for holding a job. told: what the job's owner is told of it, the container's number going before."""

    name: str
    remedy: Remedy
    told: str


_NOT_STARTED = "the cluster could not start it"
_NO_TRANSFER = "the cluster could not start it, since its worker could not fetch the executor's program"

UNKNOWN = Hold("unknown", Remedy.AGAIN, "the cluster has put it on hold")
"""Of codes that are not in the table, as later versions of HTCondor may have."""

RESTARTED_TOO_OFTEN = 1
"""The subcode of our own policy's hold: the pool has started the executor as often as it may."""

HOLDS: Mapping[int, Hold] = {
    1: Hold("UserRequest", Remedy.WAIT, "somebody at the cluster has put it on hold; it goes on when they release it"),
    3: Hold("JobPolicy", Remedy.AGAIN, _NOT_STARTED),
    4: Hold("CorruptedCredential", Remedy.AGAIN, _NOT_STARTED),
    5: Hold("JobPolicyUndefined", Remedy.AGAIN, _NOT_STARTED),
    6: Hold("FailedToCreateProcess", Remedy.AGAIN, _NOT_STARTED),
    7: Hold("UnableToOpenOutput", Remedy.AGAIN, _NOT_STARTED),
    8: Hold("UnableToOpenInput", Remedy.AGAIN, _NOT_STARTED),
    9: Hold("UnableToOpenOutputStream", Remedy.AGAIN, _NOT_STARTED),
    10: Hold("UnableToOpenInputStream", Remedy.AGAIN, _NOT_STARTED),
    11: Hold("InvalidTransferAck", Remedy.RELEASE, _NO_TRANSFER),
    12: Hold("TransferOutputError", Remedy.RELEASE, "the cluster could not bring back its executor's log"),
    13: Hold("TransferInputError", Remedy.RELEASE, _NO_TRANSFER),
    14: Hold("IwdError", Remedy.AGAIN, _NOT_STARTED),
    15: Hold("SubmittedOnHold", Remedy.RELEASE, _NOT_STARTED),
    16: Hold("SpoolingInput", Remedy.NONE, "its program is on its way to the cluster"),
    17: Hold("JobShadowMismatch", Remedy.AGAIN, _NOT_STARTED),
    18: Hold("InvalidTransferGoAhead", Remedy.RELEASE, _NO_TRANSFER),
    19: Hold("HookPrepareJobFailure", Remedy.AGAIN, _NOT_STARTED),
    20: Hold("MissedDeferredExecutionTime", Remedy.AGAIN, _NOT_STARTED),
    21: Hold("StartdHeldJob", Remedy.AGAIN, "the machine that it ran on refused to go on with it"),
    22: Hold("UnableToInitUserLog", Remedy.AGAIN, _NOT_STARTED),
    23: Hold("FailedToAccessUserAccount", Remedy.AGAIN, _NOT_STARTED),
    24: Hold("NoCompatibleShadow", Remedy.AGAIN, _NOT_STARTED),
    25: Hold("InvalidCronSettings", Remedy.AGAIN, _NOT_STARTED),
    26: Hold("SystemPolicy", Remedy.FAIL, "a rule of the cluster does not let it go on"),
    27: Hold("SystemPolicyUndefined", Remedy.AGAIN, "a rule of the cluster could not be applied to it"),
    32: Hold("MaxTransferInputSizeExceeded", Remedy.AGAIN, _NO_TRANSFER),
    33: Hold("MaxTransferOutputSizeExceeded", Remedy.AGAIN, "the cluster could not bring back its executor's log"),
    34: Hold("JobOutOfResources", Remedy.FAIL, "it used more of its machine than it asked for; ask for more memory"),
    35: Hold("InvalidDockerImage", Remedy.AGAIN, _NOT_STARTED),
    36: Hold("FailedToCheckpoint", Remedy.AGAIN, "the machine that it ran on refused to go on with it"),
    43: Hold("PreScriptFailed", Remedy.AGAIN, _NOT_STARTED),
    44: Hold("PostScriptFailed", Remedy.AGAIN, "the machine that it ran on could not end it properly"),
    45: Hold("SingularityTestFailed", Remedy.AGAIN, _NOT_STARTED),
    46: Hold(
        "JobDurationExceeded",
        Remedy.FAIL,
        "it took longer than the cluster allows beside its runtime, for its inputs, its image and its outputs",
    ),
    47: Hold(
        "JobExecuteExceeded",
        Remedy.FAIL,
        "it took longer than the cluster allows beside its runtime, for its inputs, its image and its outputs",
    ),
    48: Hold("HookShadowPrepareJobFailure", Remedy.AGAIN, _NOT_STARTED),
}
