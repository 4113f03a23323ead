"""The sites: their limits, whether an administrator has opened them, and whether they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from cdmtaskservice.domain.errors import IllegalParameterError, SiteInactiveError, SiteUnavailableError
from cdmtaskservice.sites.base import Site, SiteHealth, SiteInfo
from cdmtaskservice.store.sites import SiteStore

_log = structlog.get_logger(__name__)

_PATIENCE = 60.0
"""Seconds for a site to say how it is."""


@dataclass(frozen=True)
class SiteView:
    """A site as users see it."""

    info: SiteInfo
    active: bool
    health: SiteHealth


class Sites:
    """All configured sites. Their health is asked in the background, never while a request waits."""

    def __init__(self, sites: Mapping[str, Site], store: SiteStore, *, interval: float = 10.0) -> None:
        """interval: seconds between questions after a site's health."""
        self._sites = sites
        self._store = store
        self._interval = interval
        self._health = {name: SiteHealth(False, "The site has not been asked yet") for name in sites}

    async def watch(self) -> None:
        """Keep the sites' health up to date until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, site in self._sites.items():
                group.create_task(self._watch(name, site))

    async def _watch(self, name: str, site: Site) -> None:
        while True:
            health = await _ask(site)
            if health != self._health[name]:
                _log.info("site_health", site=name, available=health.available, reason=health.reason)
            self._health[name] = health
            await asyncio.sleep(self._interval if health.available else min(self._interval, 1.0))

    def availability(self) -> Mapping[str, bool]:
        """By name whether each site could take work when it was last asked."""
        return {name: health.available for name, health in self._health.items()}

    async def list(self) -> Sequence[SiteView]:
        """Every site, in the order of the settings."""
        closed = await self._store.closed()
        return [SiteView(site.info, name not in closed, self._health[name]) for name, site in self._sites.items()]

    async def set_active(self, name: str, active: bool) -> None:
        """Open or close a site for new work. Raises: IllegalParameterError for an unknown site."""
        self.info(name)
        await self._store.set_closed(name, not active)

    def info(self, name: str) -> SiteInfo:
        """A site's name and limits. Raises: IllegalParameterError for an unknown site."""
        if name not in self._sites:
            raise IllegalParameterError(f"There is no site {name!r}; the sites are {', '.join(self._sites)}")
        return self._sites[name].info

    async def check_open(self, name: str) -> None:
        """Raises: SiteInactiveError, SiteUnavailableError where the site takes no new work now."""
        if name in await self._store.closed():
            raise SiteInactiveError(f"The site {name} is closed for new work by an administrator; use another site")
        health = self._health[name]
        if not health.available:
            raise SiteUnavailableError(f"The site {name} is not available now: {health.reason}; try again later")


async def _ask(site: Site) -> SiteHealth:
    """The site's health, whatever its engine does."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await site.health()
    except TimeoutError:
        return SiteHealth(False, f"The site did not say within {_PATIENCE:.0f} seconds how it is")
    except Exception:
        _log.exception("site_health_failed", site=site.info.name)
        return SiteHealth(False, "The site cannot say how it is; the service's log has the reason")
