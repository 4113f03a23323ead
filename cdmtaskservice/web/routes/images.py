"""Approved images; administrators look others up, approve and withdraw them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.responses import Response
from starlette.routing import Route

from cdmtaskservice.domain.errors import CTSError, NoSuchImageError
from cdmtaskservice.domain.images import ImageApproval
from cdmtaskservice.domain.parameters import check_text, resolve_mount_point
from cdmtaskservice.domain.records import ImageRecord
from cdmtaskservice.services.images import ImageFacts
from cdmtaskservice.web.faults import Faults
from cdmtaskservice.web.visit import Pages, Visit, page

_FIELDS = ("image", "urls", "usage_notes", "refdata_id", "default_refdata_mount_point")


def routes(pages: Pages) -> list[Route]:
    """These pages."""
    return [
        page(pages, "/images", _list),
        page(pages, "/admin/images", _look_up, _approve, admin=True),
        page(pages, "/admin/images/withdraw", _ask_withdraw, _withdraw, admin=True),
    ]


async def _list(visit: Visit) -> Response:
    return visit.html("images.html", images=await visit.services.images.list())


async def _look_up(visit: Visit) -> Response:
    """All images and, where one is asked for, what its registry says of it."""
    text = visit.query.get("image", "").strip()
    fields = {**dict.fromkeys(_FIELDS, ""), "image": text}
    faults: Faults = {}
    facts = None
    if text:
        try:
            facts = await visit.services.images.inspect(text)
            fields["image"] = _exactly(facts)
        except CTSError as error:
            if error.http_status >= 500:
                raise
            faults = {"image": [error.message]}
    if facts is not None and (source := visit.query.get("like", "")):
        fields |= await _as(visit, source)
    return await _page(visit, fields, facts, faults, asked=text)


async def _as(visit: Visit, source: str) -> dict[str, str]:
    try:
        image = await visit.services.images.get(source)
    except CTSError:
        return {}
    return {
        "urls": "\n".join(image.urls or ()),
        "usage_notes": image.usage_notes or "",
        "refdata_id": image.refdata_id or "",
        "default_refdata_mount_point": image.default_refdata_mount_point or "",
    }


async def _approve(visit: Visit) -> Response:
    """Approve exactly the digest that was shown."""
    fields = {name: visit.sent.text(name) for name in _FIELDS}
    faults: Faults = {}
    values: dict[str, Any] = {}
    for name, read in (("refdata_id", check_text), ("default_refdata_mount_point", resolve_mount_point)):
        if text := fields[name].strip():
            try:
                values[name] = read(text)
            except ValueError as error:
                faults[name] = [str(error)]
    try:
        approval = ImageApproval(
            urls=tuple(line.strip() for line in fields["urls"].split("\n") if line.strip()) or None,
            usage_notes=fields["usage_notes"].strip() or None,
        )
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            faults.setdefault(str(fault["loc"][0]), []).append(str(fault["msg"]).removeprefix("Value error, "))
    if not faults:
        try:
            await visit.services.images.approve(
                visit.user,
                fields["image"],
                approval,
                values.get("refdata_id"),
                values.get("default_refdata_mount_point"),
            )
            return visit.go("/admin/images?done=approved")
        except CTSError as error:
            if error.http_status >= 500:
                raise
            faults = {"approve": [error.message]}
    # What the tag points to now may be something else than was shown: then that is shown, for another decision.
    asked = fields["image"].partition("@")[0] if "approve" in faults else fields["image"]
    facts = None
    try:
        facts = await visit.services.images.inspect(asked)
        fields["image"] = _exactly(facts)
    except CTSError as error:
        faults.setdefault("image", []).append(error.message)
    return await _page(visit, fields, facts, faults, asked=asked, status=400)


def _exactly(facts: ImageFacts) -> str:
    return f"{facts.name}{f':{facts.tag}' if facts.tag else ''}@{facts.digest}"


async def _page(
    visit: Visit, fields: dict[str, str], facts: ImageFacts | None, faults: Faults, *, asked: str, status: int = 200
) -> Response:
    known: ImageRecord | None = None
    if facts is not None:
        try:
            known = await visit.services.images.get(f"{facts.name}@{facts.digest}")
        except NoSuchImageError:
            known = None
    return visit.html(
        "admin_images.html",
        400 if faults else status,
        images=await visit.services.images.list(),
        fields=fields,
        facts=facts,
        known=known,
        faults=faults,
        asked=asked,
        refdata=[r for r in await visit.services.refdata.list() if r.refdata.is_current],
    )


async def _ask_withdraw(visit: Visit) -> Response:
    image = await visit.services.images.get(visit.query.get("image", ""))
    name = f"{image.name}{f':{image.tag}' if image.tag else ''}"
    return visit.confirm(
        f"Withdraw {name}?",
        [f"Its digest is {image.digest}.", "No new jobs can have it. Jobs that run go on."],
        "Withdraw the approval",
        here="/admin/images/withdraw",
        back="/admin/images",
        fields={"image": f"{image.name}@{image.digest}"},
    )


async def _withdraw(visit: Visit) -> Response:
    await visit.services.images.delete(visit.sent.text("image"))
    return visit.go("/admin/images?done=withdrawn")
