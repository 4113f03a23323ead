"""Where everything is, below the one directory that stands for NERSC's file systems.

A transfer node sees `global/`, a login node of Perlmutter sees `pscratch/`; both lead to the same directories, as
different mounts do at NERSC. Everything else is seen alike.
"""

from __future__ import annotations

from pathlib import Path

TRANSFER, SUBMIT = "dtns", "perlmutter"
MACHINES = (SUBMIT, TRANSFER)
JAWS_SITES = ("kbase", "jgi")
ELSEWHERE = ("jgi",)
"""Sites of JAWS that are not at NERSC."""
NERSC_USER, JAWS_USER, JAWS_TEAM = "ctsnersc", "ctsjaws", "ctsteam"


class Layout:
    """The paths below `root`, which must be absolute."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.disk = root / "disk"
        """What both views lead to."""
        self.nothing = root / "nothing"
        self.transfer_view = root / "global"
        self.submit_view = root / "pscratch"
        self.staging_dir = self.transfer_view / "staging"
        self.submit_staging_dir = self.submit_view / "staging"
        self.outputs_dir = self.transfer_view / "outputs"
        self.submit_outputs_dir = self.submit_view / "outputs"
        self.cfs = root / "cfs"
        self.refdata_dir = root / "refdata"
        self.runs = root / "jaws/runs"
        self.clients = root / "secrets/clients.json"
        self.token_secret = root / "secrets/access-tokens"
        self.credentials = root / "secrets/sfapi.pem"
        self.jaws_token = root / "secrets/jaws-token"
        self.jaws_command = root / "bin/jaws"

    def make(self) -> None:
        """Make what is missing."""
        for name in ("staging", "outputs"):
            (self.disk / name).mkdir(parents=True, exist_ok=True)
            for view in (self.transfer_view, self.submit_view):
                view.mkdir(exist_ok=True)
                if not (view / name).is_symlink():
                    (view / name).symlink_to(self.disk / name)
        for site in JAWS_SITES:
            (self.disk / "staging/inputs" / site).mkdir(parents=True, exist_ok=True)
        refdata = [self.refdata_dir, self.refdata_dir / "log", *(self.refdata_at(site) for site in ELSEWHERE)]
        for path in (self.home, self.nothing, self.cfs, *refdata, self.runs, self.jaws_command.parent):
            path.mkdir(parents=True, exist_ok=True)
        self.clients.parent.mkdir(mode=0o700, exist_ok=True)

    def refdata_at(self, site: str) -> Path:
        """JAWS's reference data at one of its sites. Only that at NERSC can be seen from there."""
        return self.root / f"refdata-{site}" if site in ELSEWHERE else self.refdata_dir

    def hidden_from(self, machine: str) -> Path:
        """The directory that is not mounted on a machine."""
        return self.submit_view if machine == TRANSFER else self.transfer_view

    def on(self, machine: str, path: str) -> Path | None:
        """A path that a machine was asked for; None where it has nothing there, or it leaves `root`."""
        wanted = Path("/" + path.lstrip("/"))
        real = wanted.resolve()
        hidden = self.hidden_from(machine)
        if ".." in wanted.parts or not wanted.is_relative_to(self.root) or wanted.is_relative_to(hidden):
            return None
        return wanted if real.is_relative_to(self.root.resolve()) else None
