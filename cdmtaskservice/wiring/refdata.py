"""Puts together what brings reference data to sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdmtaskservice.domain.errors import CTSError, DependencyUnavailableError
from cdmtaskservice.domain.refdata_calls import RefdataProgress, RefdataUpdate, RefdataWorkRequest
from cdmtaskservice.domain.states import RefdataState
from cdmtaskservice.reconciler.stagings import StagingConfig
from cdmtaskservice.services.refdata_desk import RefdataDesk
from cdmtaskservice.settings import RefdataServiceSettings, Settings
from cdmtaskservice.sites.refdata import StagingLimits
from cdmtaskservice.stager.desk import DeskRefusedError, DeskUnreachableError, HttpDesk
from cdmtaskservice.stager.stager import Stager, StagerConfig
from cdmtaskservice.stager.stores import Store


def staging_config(settings: Settings) -> StagingConfig:
    """What every staging is bound to."""
    refdata = settings.refdata
    return StagingConfig(
        look_delay=settings.reconciler.look_delay.total_seconds(),
        presign_expiry=int(settings.s3.presign_expiry.total_seconds()),
        most_failures=refdata.max_tries,
        silence=refdata.silence.total_seconds(),
        limits=StagingLimits(
            connections=refdata.connections,
            piece_size=refdata.piece_size,
            patience=refdata.patience.total_seconds(),
            max_files=refdata.max_files,
            max_bytes=refdata.max_unpacked,
        ),
    )


def own_stager(settings: Settings, stores: Mapping[str, Path], desk: RefdataDesk) -> Stager:
    """What stages in this process. stores: directories by site."""
    config = StagerConfig(settings.refdata.poll_interval.total_seconds(), settings.refdata.at_once)
    return Stager(DirectDesk(desk), [Store(site, directory) for site, directory in stores.items()], config)


async def run_refdata_service(settings: RefdataServiceSettings) -> None:
    """Be a reference data service, until cancelled."""
    stores = [Store(store.site, store.directory) for store in settings.stores]
    config = StagerConfig(settings.poll_interval.total_seconds(), settings.at_once)
    async with HttpDesk(settings.service_url, settings.token_file) as desk:
        await Stager(desk, stores, config).run()


class DirectDesk:
    """A `Desk` in this process."""

    def __init__(self, desk: RefdataDesk) -> None:
        self._desk = desk

    async def work(self, site: str, claim: str, root: str, room: int) -> Mapping[str, Any]:
        """See `Desk`."""
        with _told_as_by_a_desk():
            return await self._desk.work(site, RefdataWorkRequest(claim=claim, root=root, room=room))

    async def progress(self, refdata_id: str, site: str, told: Mapping[str, Any]) -> bool:
        """See `Desk`."""
        with _told_as_by_a_desk():
            answer = await self._desk.progress(refdata_id, site, RefdataProgress.model_validate(told))
            return bool(answer["stop"])

    async def update(self, refdata_id: str, site: str, state: str, told: Mapping[str, Any]) -> None:
        """See `Desk`."""
        with _told_as_by_a_desk():
            await self._desk.update(refdata_id, site, RefdataState(state), RefdataUpdate.model_validate(told))


@contextmanager
def _told_as_by_a_desk() -> Iterator[None]:
    try:
        yield
    except DependencyUnavailableError as e:
        raise DeskUnreachableError(e.message) from e
    except (CTSError, ValueError) as e:
        raise DeskRefusedError(str(e)) from e
