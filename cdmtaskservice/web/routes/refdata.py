"""Reference data and how far it is at each site; administrators register, recover, clean and retire it."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from cdmtaskservice.domain.errors import CTSError
from cdmtaskservice.domain.jobs import Crc64nvme
from cdmtaskservice.web.faults import Faults
from cdmtaskservice.web.visit import Pages, Visit, page

_CRC64NVME: TypeAdapter[str] = TypeAdapter(Crc64nvme)


def routes(pages: Pages) -> list[Route]:
    """These pages."""
    site = "/admin/refdata/{refdata_id}/{site}"
    return [
        page(pages, "/refdata", _list),
        page(pages, "/refdata/{refdata_id}", _one),
        page(pages, "/admin/refdata", _manage, _register, admin=True),
        page(pages, "/admin/refdata/{refdata_id}", _one_for_admins, admin=True),
        page(pages, "/admin/refdata/{refdata_id}/retire", _ask_retire, _retire, admin=True),
        page(pages, f"{site}/recover", _ask_recover, _recover, admin=True),
        page(pages, f"{site}/clean", _ask_clean, _clean, admin=True),
    ]


async def _list(visit: Visit) -> Response:
    return visit.html("refdata.html", views=await visit.services.refdata.list(), manage=False, fields={}, faults={})


async def _one(visit: Visit) -> Response:
    view = await visit.services.refdata.get(visit.path("refdata_id"))
    return visit.html("refdata_one.html", view=view, manage=False, missing=[])


async def _manage(visit: Visit, fields: dict[str, str] | None = None, faults: Faults | None = None) -> Response:
    return visit.html(
        "refdata.html",
        400 if faults else 200,
        views=await visit.services.refdata.list(),
        manage=True,
        fields=fields or {"file": "", "crc64nvme": "", "unpack": ""},
        faults=faults or {},
    )


async def _one_for_admins(visit: Visit) -> Response:
    view = await visit.services.refdata.get(visit.path("refdata_id"))
    there = {staging.site for staging in view.stagings}
    missing = [s.info.name for s in await visit.services.sites.list() if s.info.name not in there]
    return visit.html("refdata_one.html", view=view, manage=True, missing=missing)


async def _register(visit: Visit) -> Response:
    fields = {name: visit.sent.text(name) for name in ("file", "crc64nvme", "unpack")}
    crc = fields["crc64nvme"].strip() or None
    try:
        if crc is not None:
            _CRC64NVME.validate_python(crc)
    except ValidationError as error:
        return await _manage(visit, fields, {"crc64nvme": [error.errors()[0]["msg"].removeprefix("Value error, ")]})
    try:
        view = await visit.services.refdata.register(visit.user, fields["file"], crc, unpack=bool(fields["unpack"]))
    except CTSError as error:
        if error.http_status >= 500:
            raise
        return await _manage(visit, fields, {"file": [error.message]})
    return visit.go(f"/admin/refdata/{view.refdata.id}?done=registered")


async def _ask_retire(visit: Visit) -> Response:
    refdata = (await visit.services.refdata.get(visit.path("refdata_id"))).refdata
    return visit.confirm(
        "Retire the reference data?",
        [f"{refdata.file}, ID {refdata.id}, will be removed at every site.", "This cannot be undone."],
        "Retire it",
        here=f"/admin/refdata/{refdata.id}/retire",
        back=f"/admin/refdata/{refdata.id}",
    )


async def _retire(visit: Visit) -> Response:
    refdata_id = visit.path("refdata_id")
    await visit.services.refdata.retire(visit.user, refdata_id)
    return visit.go(f"/admin/refdata/{refdata_id}?done=retired")


async def _staged(visit: Visit) -> tuple[str, str]:
    """The reference data and the site of a path, both of which there are. Raises: HTTPException."""
    view = await visit.services.refdata.get(visit.path("refdata_id"))
    site = visit.path("site")
    sites = {staging.site for staging in view.stagings} | {s.info.name for s in await visit.services.sites.list()}
    if site not in sites:
        raise HTTPException(404, f"There is no site {site!r}")
    return view.refdata.id, site


async def _ask_recover(visit: Visit) -> Response:
    refdata_id, site = await _staged(visit)
    return visit.confirm(
        f"Stage it at {site} anew?",
        [f"Reference data {refdata_id}. What has come before is used where it is whole."],
        "Stage it anew",
        here=f"/admin/refdata/{refdata_id}/{site}/recover",
        back=f"/admin/refdata/{refdata_id}",
        switches={"force": "Even where it is complete, as when a disk was lost"},
    )


async def _recover(visit: Visit) -> Response:
    refdata_id = visit.path("refdata_id")
    force = "force" in visit.sent
    await visit.services.refdata.recover(visit.user, refdata_id, visit.path("site"), force=force)
    return visit.go(f"/admin/refdata/{refdata_id}?done=recovered")


async def _ask_clean(visit: Visit) -> Response:
    refdata_id, site = await _staged(visit)
    return visit.confirm(
        f"Clean up at {site}?",
        [f"What the staging of {refdata_id} has left will be removed, and not the data."],
        "Clean up",
        here=f"/admin/refdata/{refdata_id}/{site}/clean",
        back=f"/admin/refdata/{refdata_id}",
        switches={"force": "Even while it is being staged, which is stopped"},
    )


async def _clean(visit: Visit) -> Response:
    refdata_id = visit.path("refdata_id")
    force = "force" in visit.sent
    await visit.services.refdata.clean(visit.user, refdata_id, visit.path("site"), force=force)
    return visit.go(f"/admin/refdata/{refdata_id}?done=cleaned")
