"""Reference data at a JAWS site: staged at NERSC, and from there copied by JAWS to the sites that are elsewhere.

JAWS copies a directory below its directory of reference data when a file there, `USER_TEAM_ID_changes.txt`, names it,
and tells in `log/USER_TEAM_ID_changes.txt_SITE.complete` what came of it.
"""

from __future__ import annotations

import json
from dataclasses import replace

from cdmtaskservice.sites.base import SiteUnreachableError
from cdmtaskservice.sites.jaws.config import REFDATA
from cdmtaskservice.sites.jaws.platform import JawsPlatform
from cdmtaskservice.sites.jaws.site import JawsSite
from cdmtaskservice.sites.refdata import COPY, STAGE
from cdmtaskservice.sites.tasks import Plan, TaskFailure, TaskStatus

_SUCCEEDED = "succeeded"


class JawsRefdata:
    """A `RefdataPlace` for one site of JAWS."""

    def __init__(self, site: JawsSite, platform: JawsPlatform) -> None:
        """The platform must have a directory of reference data."""
        assert platform.jaws_config.refdata_dir is not None
        self._site = site
        self._platform = platform
        self._directory = platform.jaws_config.refdata_dir

    @property
    def copies(self) -> bool:
        """Whether the site is not at NERSC."""
        return self._site.config.copy_refdata

    def root(self) -> str:
        """The service's own part of JAWS's directory, as the transfer nodes see it."""
        return f"{self._directory}/{REFDATA}"

    async def require_up(self) -> None:
        """Raises: SiteUnreachableError where nothing can be begun at NERSC now."""
        await self._site.require_nersc_up()

    async def begin_task(self, owner: str, name: str, kind: str, plan: Plan) -> str:
        """Have a task done at NERSC, or ask JAWS to copy."""
        if kind != COPY:
            return await self._site.begin_task(owner, name, kind, plan)
        file = self._changes(owner, name)
        content = f"{REFDATA}/{plan['id']}\n".encode()
        await self._platform.nersc.upload(self._machine, f"{self._directory}/{file}", content)
        return file

    async def task_status(self, owner: str, name: str, handle: str | None, age: float = 0.0) -> TaskStatus:
        """What became of a task, or what JAWS says of a copy."""
        if _kind_of(name) == COPY:
            return await self._copied(owner, name, handle)
        status = await self._site.task_status(owner, name, handle, age)
        if status.running and _kind_of(name) == STAGE:
            return replace(status, progress=await self._site.progress(owner, name))
        return status

    async def stop_task(self, owner: str, name: str, handle: str | None, age: float) -> bool:
        """Stop a task. What JAWS was asked to copy it copies; that does no harm."""
        if _kind_of(name) == COPY:
            return True
        return await self._site.stop_task(owner, name, handle, age)

    async def _copied(self, owner: str, name: str, handle: str | None) -> TaskStatus:
        log = f"{self._directory}/log/{self._changes(owner, name)}_{self._site.config.jaws_site}.complete"
        text = await self._platform.nersc.download(self._machine, log)
        if text is None:
            if handle is None:
                return TaskStatus(lost="it is not known whether JAWS was asked to copy the data")
            return TaskStatus(running=True, why="JAWS has not copied the data to the site yet")
        try:
            told = json.loads(text)
        except ValueError:
            raise SiteUnreachableError(f"{log} is no JSON (yet): {text[:200]}") from None
        if isinstance(told, dict) and told.get("result") == _SUCCEEDED:
            return TaskStatus(result=told)
        return TaskStatus(
            failure=TaskFailure("JAWS did not copy the data to the site.", f"{log}: {text[:2000]}", "later")
        )

    def _changes(self, owner: str, name: str) -> str:
        """The file by which JAWS is asked to copy; another one for each site and try, so that no old answer counts."""
        jaws, site = self._platform.jaws_config, self._site.config.jaws_site.replace("_", "-")
        number = name.rpartition("-")[2]
        return f"{jaws.user}_{jaws.team}_{owner.partition('@')[0]}-{site}-{number}_changes.txt"

    @property
    def _machine(self) -> str:
        return self._platform.nersc_config.transfer_machine


def _kind_of(name: str) -> str:
    """The kind of a task by its name, see `Flow.name`."""
    return name.split("-")[1]
