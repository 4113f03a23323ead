"""What JAWS sites need beside their own tables: NERSC's Superfacility API, and JAWS itself."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from cdmtaskservice.settings.section import Section
from cdmtaskservice.settings.values import Duration, OptionalPath, OptionalStr, OptionalWorkerPath, Url

_SECOND = timedelta(seconds=1)


class NerscSettings(Section):
    """NERSC, by its Superfacility API. Only JAWS sites need it."""

    api_url: Url = "https://api.nersc.gov/api/v1.2"
    """The URL of the Superfacility API."""
    token_url: Url = "https://oidc.nersc.gov/c2id/token"  # noqa: S105 - where tokens come from
    """The URL at which the Superfacility API's clients get their tokens."""
    user: OptionalStr = None
    """The NERSC user, a collaboration account say, whose client the credentials are. Needed for JAWS sites."""
    credentials_file: OptionalPath = None
    """Absolute path of the file of the client: its ID in the first line, its private key (PEM) after it. It is read
    again when it changes. Needed for JAWS sites."""
    code_dir: OptionalWorkerPath = None
    """A directory at NERSC that the transfer nodes and Perlmutter see alike, for the service alone: its code, plans and
    the JAWS token are put there. Needed for JAWS sites."""
    transfer_machine: str = Field(default="dtns", pattern=r"^[A-Za-z0-9]+$")
    """What the Superfacility API calls the machine that moves data."""
    submit_machine: str = Field(default="perlmutter", pattern=r"^[A-Za-z0-9]+$")
    """What the Superfacility API calls the machine on which runs are submitted to JAWS."""
    python: str = Field(default="python3", pattern=r"^[A-Za-z0-9_./+-]+$")
    """The Python interpreter on both machines, 3.9 or later: a name or an absolute path."""
    timeout: Duration = Field(default=timedelta(seconds=30), ge=_SECOND)
    """How long a call to the Superfacility API may take, in seconds or as an ISO 8601 duration."""
    concurrency: int = Field(default=8, ge=1, le=100)
    """Calls to the Superfacility API at once."""


class JawsSettings(Section):
    """JAWS, which runs the jobs of JAWS sites."""

    url: Url = "https://jaws-api.jgi.doe.gov"
    """The URL of JAWS Central."""
    user: OptionalStr = None
    """The JAWS user whose token is used. Needed for JAWS sites."""
    token_file: OptionalPath = None
    """Absolute path of a file with the JAWS token. It is read again when it changes. Needed for JAWS sites."""
    team: OptionalStr = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$")
    """The JAWS team that runs are charged to. Needed for JAWS sites."""
    executable: str = Field(default="jaws", pattern=r"^[A-Za-z0-9_./+-]+$")
    """The `jaws` command on the machine on which runs are submitted: a name or an absolute path."""
    staging_dir: OptionalWorkerPath = None
    """The directory below which JAWS expects inputs, as the transfer nodes see it. Needed for JAWS sites."""
    submit_staging_dir: OptionalWorkerPath = None
    """The same directory as the machine on which runs are submitted sees it. Needed for JAWS sites."""
    outputs_dir: OptionalWorkerPath = None
    """The directory below which JAWS puts the results of runs, as the transfer nodes see it. Needed for JAWS sites."""
    submit_outputs_dir: OptionalWorkerPath = None
    """The same directory as JAWS names it. Needed for JAWS sites."""
    scratch_dir: OptionalWorkerPath = None
    """The service's own directory as JAWS names it: its files are staged below inputs/SITE and this path in the staging
    directory. Needed for JAWS sites."""
    refdata_dir: OptionalWorkerPath = None
    """The directory below which JAWS has reference data, as the transfer nodes see it; the service keeps its own in
    "cts" there. Blank: there is no reference data at JAWS sites. Optional."""
    timeout: Duration = Field(default=timedelta(seconds=30), ge=_SECOND)
    """How long a call to JAWS Central may take, in seconds or as an ISO 8601 duration."""
    submit_timeout: Duration = Field(default=timedelta(minutes=5), ge=_SECOND)
    """How long `jaws submit` may take, in seconds or as an ISO 8601 duration."""
    start_time: Duration = Field(default=timedelta(hours=1), ge=timedelta())
    """How long a container may take beside its runtime, for its image and its files, before JAWS ends it. In seconds or
    as an ISO 8601 duration."""
    transfer_patience: Duration = Field(default=timedelta(hours=1), ge=_SECOND)
    """How long a transfer goes on trying while the object store does not answer, before it is begun anew. In seconds or
    as an ISO 8601 duration."""
    connections: int = Field(default=8, ge=1, le=64)
    """Files that a transfer moves at once."""
    keep_jobs: Duration = Field(default=timedelta(days=14), ge=_SECOND)
    """How long the files at NERSC stay of a job that is over, JAWS's results included. In seconds or as an ISO 8601
    duration."""
    keep_inputs: Duration = Field(default=timedelta(days=30), ge=_SECOND)
    """How long staged inputs stay that no job uses, in seconds or as an ISO 8601 duration."""
    clean_interval: Duration = Field(default=timedelta(hours=1), ge=_SECOND)
    """How often it is looked for what may be removed, in seconds or as an ISO 8601 duration."""
