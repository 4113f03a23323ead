"""NERSC with JAWS as a part beside those of the embedded stack: it can be killed, suspended and brought back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from cdmtaskservice.embedded.part import Launcher, Part

from .keys import Clients
from .layout import JAWS_TEAM, JAWS_USER, NERSC_USER, Layout
from .processes import find_containers, remove_containers
from .provision import new_credentials, new_jaws_token, provision

_REPOSITORY = Path(__file__).parents[3]
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_MONTH = 30 * 86400.0


class NerscSite(Part):
    """The process, its paths and its switches. home must be absolute; what stands for NERSC's disks is `root` in it.

    with Launcher closed afterwards:
        site = NerscSite(Path("/tmp/x/nersc"), Path("/tmp/x/nersc.log"), launcher, stack.podman); site.start()
    """

    name: ClassVar[str] = "nersc"
    nersc_user: ClassVar[str] = NERSC_USER
    jaws_user: ClassVar[str] = JAWS_USER
    jaws_team: ClassVar[str] = JAWS_TEAM

    def __init__(self, home: Path, log: Path, launcher: Launcher, podman: Path) -> None:
        super().__init__(home, log, launcher)
        self.layout = Layout(home / "root")
        self.root = self.layout.root
        self.podman = podman
        self.staging_dir = self.layout.staging_dir
        """Below which JAWS expects inputs, as the transfer nodes see it."""
        self.submit_staging_dir = self.layout.submit_staging_dir
        """The same, as Perlmutter sees it."""
        self.outputs_dir = self.layout.outputs_dir
        self.submit_outputs_dir = self.layout.submit_outputs_dir
        self.code_dir = self.layout.cfs / "cts"
        """Not made: the service does that, below a directory that is there."""
        self.refdata_dir = self.layout.refdata_dir
        self.jaws_command = self.layout.jaws_command
        self.credentials_file = self.layout.credentials
        self.jaws_token_file = self.layout.jaws_token

    @property
    def url(self) -> str:
        """The server, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def sfapi_url(self) -> str:
        """The Superfacility API."""
        return f"{self.url}/sfapi/api/v1.2"

    @property
    def token_url(self) -> str:
        """Where the API's access tokens are given."""
        return f"{self.url}/sfapi/token"

    @property
    def jaws_url(self) -> str:
        """JAWS Central."""
        return f"{self.url}/jaws"

    def command(self, ports: Mapping[str, int]) -> list[str]:
        """See Part."""
        provision(self.layout, f"http://127.0.0.1:{ports['main']}")
        options = {"--root": self.root, "--port": ports["main"], "--podman": self.podman}
        return [sys.executable, "-m", __package__, *(str(word) for pair in options.items() for word in pair)]

    def environment(self) -> dict[str, str]:
        """See Part."""
        return {**super().environment(), "PYTHONPATH": str(_REPOSITORY)}

    def answers(self) -> bool:
        """See Part."""
        try:
            self.control()
        except OSError:
            return False
        return True

    def clean(self) -> None:
        """Remove the containers of runs that were under way."""
        with suppress(OSError, subprocess.TimeoutExpired):
            remove_containers(self.podman, f"nersc-root={self.root}")

    def settings(self) -> Mapping[str, str]:
        """The variables of the settings template by which a service finds all of this."""
        paths = {
            "KBCTS_NERSC_CREDENTIALS_FILE": self.credentials_file,
            "KBCTS_NERSC_CODE_DIR": self.code_dir,
            "KBCTS_JAWS_TOKEN_FILE": self.jaws_token_file,
            "KBCTS_JAWS_EXECUTABLE": self.jaws_command,
            "KBCTS_JAWS_STAGING_DIR": self.staging_dir,
            "KBCTS_JAWS_SUBMIT_STAGING_DIR": self.submit_staging_dir,
            "KBCTS_JAWS_OUTPUTS_DIR": self.outputs_dir,
            "KBCTS_JAWS_SUBMIT_OUTPUTS_DIR": self.submit_outputs_dir,
            "KBCTS_JAWS_SCRATCH_DIR": "/pscratch/cts",
            "KBCTS_JAWS_REFDATA_DIR": self.refdata_dir,
        }
        return {
            **{name: str(path) for name, path in paths.items()},
            "KBCTS_NERSC_API_URL": self.sfapi_url,
            "KBCTS_NERSC_TOKEN_URL": self.token_url,
            "KBCTS_NERSC_USER": self.nersc_user,
            "KBCTS_JAWS_URL": self.jaws_url,
            "KBCTS_JAWS_USER": self.jaws_user,
            "KBCTS_JAWS_TEAM": self.jaws_team,
        }

    def switch(self, **values: Any) -> dict[str, Any]:
        """Set switches, see `switches.py`; returns what `control` does. Raises: ValueError for an unknown one."""
        return self._control(json.dumps(values).encode())

    def control(self) -> dict[str, Any]:
        """`calls` by path, `commands` and `callbacks` as texts, `runs` (id, tag, status, result, …), `switches`."""
        return self._control(None)

    def renew_credentials(self, user: str = NERSC_USER, lifetime: float = _MONTH) -> str:
        """Put a new client into the credentials file, perhaps another user's; returns its ID. lifetime: seconds."""
        return new_credentials(self.layout, user, lifetime)

    def expire_credentials(self) -> None:
        """Let the time of the client in the credentials file be over, with its access tokens."""
        Clients(self.layout.clients).expire(self.credentials_file.read_text().splitlines()[0].strip())

    def renew_jaws_token(self, user: str = JAWS_USER) -> None:
        """Put a new token into the token file, which may be another user's; the old one is invalid."""
        new_jaws_token(self.layout, user)

    def jaws(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Call JAWS Central, as the user of the token file; returns the JSON of whatever it answers."""
        headers = {"Authorization": f"Bearer {self.jaws_token_file.read_text().strip()}"}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.jaws_url}/api/v2/{path}", data, headers, method=method)
        try:
            with _OPENER.open(request, timeout=10) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as e:
            with e:
                return json.load(e)

    def run_ended(self, run_id: int | str, within: float = 60.0) -> Any:
        """A run, once it is over. Raises: TimeoutError after so many seconds."""
        deadline = time.monotonic() + within
        while (run := self.jaws(f"run/{run_id}"))["status"] != "done":
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {run_id} is {run['status']} after {within:.0f} s")
            time.sleep(0.05)
        return run

    def containers(self, run_id: int | str) -> list[str]:
        """The IDs of a run's containers, of all that are there."""
        return find_containers(self.podman, f"nersc-run={run_id}")

    def _control(self, body: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/control", body)
        try:
            with _OPENER.open(request, timeout=5) as reply:
                told: dict[str, Any] = json.load(reply)
                return told
        except urllib.error.HTTPError as e:
            with e:
                raise ValueError(e.read().decode("utf-8", "replace")) from None
