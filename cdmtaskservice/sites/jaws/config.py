"""What JAWS sites are told, and where everything of theirs lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cdmtaskservice.sites.base import SiteInfo


@dataclass(frozen=True)
class NerscConfig:
    """NERSC's Superfacility API (SFAPI), and what the service keeps on the file systems behind it.

    user: whose credentials these must be. credentials: file with the client's ID in its first line and its private key
    (PEM) after it. code_dir: absolute, seen alike from both machines; the service's own. timeout: seconds for a call.
    """

    api_url: str
    token_url: str
    user: str
    credentials: Path
    code_dir: str
    transfer_machine: str = "dtns"
    submit_machine: str = "perlmutter"
    python: str = "python3"
    timeout: float = 30.0
    concurrency: int = 8


@dataclass(frozen=True)
class JawsConfig:
    """JAWS Central, and the directories that JAWS shares with the service.

    user: whose token this must be. token: file with it. executable: the `jaws` command at NERSC. staging_dir: below
    which JAWS expects inputs, as the transfer nodes see it; submit_staging_dir: as the submitting machine does.
    outputs_dir, submit_outputs_dir: the same for the results of runs.
    scratch_dir: the service's own directory as JAWS names it, absolute. timeout: seconds for a call. submit_timeout:
    seconds for `jaws submit`. refdata_dir: JAWS's directory of reference data, as the transfer nodes see it; None where
    there is none.
    """

    url: str
    user: str
    token: Path
    team: str
    executable: str
    staging_dir: str
    submit_staging_dir: str
    outputs_dir: str
    submit_outputs_dir: str
    scratch_dir: str
    timeout: float = 30.0
    submit_timeout: float = 300.0
    refdata_dir: str | None = None


@dataclass(frozen=True)
class JawsSiteConfig:
    """One site of JAWS. jaws_site: its name there. callback_url: the service's, where NERSC can reach it.

    patience: seconds that a transfer goes on trying without an answer. presign_expiry: seconds. part_size: bytes.
    connections: transfers at once. start_time: seconds that a container may take beside its runtime. keep_inputs:
    seconds after which inputs that no job has used are removed from the cache. copy_refdata: whether JAWS must copy
    reference data from NERSC to the site.
    """

    info: SiteInfo
    jaws_site: str
    nersc: NerscConfig
    jaws: JawsConfig
    callback_url: str
    part_size: int
    patience: float = 3600.0
    presign_expiry: int = 6 * 3600
    connections: int = 8
    start_time: float = 3600.0
    keep_inputs: float = 14 * 86400.0
    copy_refdata: bool = False

    @property
    def places(self) -> Places:
        """Where the site's files are."""
        return Places(self)


REFDATA = "cts"
"""The service's own part of JAWS's directory of reference data."""


class Places:
    """Paths at NERSC. `here` is as the transfer nodes see it; what JAWS is told is `there`."""

    def __init__(self, config: JawsSiteConfig) -> None:
        below = f"inputs/{config.jaws_site}{config.jaws.scratch_dir}"
        self.here = f"{config.jaws.staging_dir}/{below}"
        self.there = f"{config.jaws.submit_staging_dir}/{below}"
        self.cache = f"{self.here}/cache"
        """Where staged inputs are kept."""
        self.jobs = f"{self.here}/jobs"
        """Below which every job has its runs' files."""
        self.tasks = f"{config.nersc.code_dir}/tasks"
        """Below which every job has the directories of its tasks, seen alike from everywhere."""
        self._outputs = (config.jaws.submit_outputs_dir, config.jaws.outputs_dir)

    def cached(self, name: str) -> str:
        """A cached input, as JAWS is told."""
        return f"{self.there}/cache/{name}"

    def run_dir(self, job_id: str, attempt: int) -> str:
        """The files of one run, as JAWS is told."""
        return f"{self.there}/jobs/{job_id}/{attempt}"

    def task_dir(self, job_id: str, name: str) -> str:
        """The directory of one task of remote code."""
        return f"{self.tasks}/{job_id}/{name}"

    def outputs_here(self, output_dir: str) -> str | None:
        """A run's results as the transfer nodes see them; None where they are not where they should be."""
        there, here = self._outputs
        steps = [s for s in output_dir[len(there) :].split("/") if s not in {"", "."}]
        if not output_dir.startswith(f"{there}/") or not steps or ".." in steps:
            return None
        return "/".join([here, *steps])

    @staticmethod
    def refdata(refdata_id: str) -> str:
        """Reference data, below JAWS's directory for it at every site."""
        return f"{REFDATA}/{refdata_id}"

    @property
    def output_paths(self) -> tuple[str, str]:
        """The root of all results as JAWS names it, and here."""
        return self._outputs
