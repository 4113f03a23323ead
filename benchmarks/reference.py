"""What the CTS that exists does on a machine of this kind.

The figures were measured elsewhere, on a machine of the same kind with nothing else on it, and are lower bounds: that
service ran with the kindest of settings, and a loaded one is slower. So a gain of 10 means ten times or more.
"""

from __future__ import annotations

SUBMIT_MS = {1: 48.0, 100: 347.0, 1000: 2_660.0, 10_000: 24_100.0}
"""Milliseconds to submit a job of so many files."""

SUBMITS_PER_SECOND = 31.0
REPORTS_PER_SECOND = {1000: 24.0, 10_000: 3.9}
"""Container reports, for a job of so many files."""

STATUS_PER_SECOND = 189.0
JOB_1000_PER_SECOND = 22.0
"""GET of a job of 1 000 files."""

LIST_1000_MS = 285.0
START_SECONDS = 6.7
IDLE_MIB = 184.0

POOL_JOB_SECONDS = 14.6
"""POST to complete of one trivial container on a warm HTCondor worker; 21 on a cold one."""

POOL_JOB_START_SECONDS = 7.0
"""Of these between the start of the HTCondor job and that of the container: 7 to 9."""

POOL_TWENTY_SECONDS = 101.0
"""POST to complete of 20 trivial containers on 8 slots."""

EXECUTOR_MIB = 98.0
