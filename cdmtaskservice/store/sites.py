"""Which sites an administrator has closed for new work. A site is open unless it stands here as closed."""

from __future__ import annotations

from cdmtaskservice.store.database import Database, store_call


class SiteStore:
    """The `sites` collection."""

    def __init__(self, database: Database) -> None:
        self._sites = database.db.sites

    @store_call
    async def closed(self) -> frozenset[str]:
        """The names of the closed sites."""
        return frozenset([d["_id"] async for d in self._sites.find({"closed": 1}, {"_id": 1})])

    @store_call
    async def set_closed(self, name: str, closed: bool) -> None:
        """Open or close a site for new work. Repeatable."""
        await self._sites.update_one({"_id": name}, {"$set": {"closed": int(closed)}}, upsert=True)
