"""`cts images`: the images that jobs may run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdmtaskservice.cli import completion
from cdmtaskservice.cli.groups import ListByDefault
from cdmtaskservice.cli.service import AsJson, TokenFile, Url, connected
from cdmtaskservice.cli.terminal import Exit, fail, say, show_json, show_table

if TYPE_CHECKING:
    from cdmtaskservice.client.models import Image

app = typer.Typer(help="Images that jobs may run: list and show them; approve and withdraw.", cls=ListByDefault)

ImageName = Annotated[
    str,
    typer.Argument(metavar="IMAGE", help="HOST/PATH[:TAG][@DIGEST].", autocompletion=completion.images),
]


@app.command("list")
def list_all(url: Url = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """List the approved images."""
    with connected(url, token_file) as cts:
        found = cts.images()
    if as_json:
        show_json({"data": [image.raw for image in found]})
        return
    show_table(("image", "digest", "reference data", "notes"), [_row(image) for image in found])


@app.command()
def show(name: ImageName, url: Url = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Show an image: its entrypoint, the reference data that it needs, and what was said of it."""
    with connected(url, token_file) as cts:
        found = cts.image(name)
    _show(found, as_json=as_json)


@app.command()
def approve(
    name: Annotated[str, typer.Argument(metavar="IMAGE", help="HOST/PATH[:TAG][@DIGEST], as the registry has it.")],
    from_image: Annotated[
        str | None,
        typer.Option(
            "--from-image",
            metavar="IMAGE",
            help="Take over from this one what is not given.",
            autocompletion=completion.images,
        ),
    ] = None,
    links: Annotated[
        list[str] | None, typer.Option("--link", metavar="URL", help="Where more can be read; may be repeated.")
    ] = None,
    notes: Annotated[str | None, typer.Option("--notes", metavar="TEXT", help="What users must know.")] = None,
    notes_file: Annotated[
        Path | None, typer.Option("--notes-file", metavar="FILE", help="The same, in a file.")
    ] = None,
    refdata_id: Annotated[
        str | None,
        typer.Option(
            "--refdata", metavar="ID", help="The reference data that it needs.", autocompletion=completion.refdata_ids
        ),
    ] = None,
    mount_point: Annotated[
        str | None, typer.Option("--refdata-mount-point", metavar="PATH", help="Where it looks for that.")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Let jobs run an image, at the digest that the registry gives now. For administrators."""
    if notes is not None and notes_file is not None:
        fail("--notes and --notes-file exclude each other", Exit.USAGE)
    if notes_file is not None:
        try:
            notes = notes_file.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as exc:
            fail(f"{notes_file} cannot be read: {exc}")
    with connected(url, token_file) as cts:
        found = cts.admin.approve_image(
            name,
            from_image=from_image,
            urls=links or None,
            usage_notes=notes,
            refdata_id=refdata_id,
            default_refdata_mount_point=mount_point,
        )
    _show(found, as_json=as_json)


@app.command()
def delete(name: ImageName, url: Url = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Withdraw the approval of an image. Jobs that run go on. For administrators."""
    with connected(url, token_file) as cts:
        cts.admin.delete_image(name)
    say(f"{name} is not approved any more")
    if as_json:
        show_json({})


def _row(image: Image) -> tuple[str, ...]:
    notes = " ".join((image.usage_notes or "").split())
    return f"{image.name}{f':{image.tag}' if image.tag else ''}", image.digest, image.refdata_id or "", notes


def _show(image: Image, *, as_json: bool) -> None:
    import shlex

    from cdmtaskservice.cli.job_view import show_fields
    from cdmtaskservice.cli.wording import time_shown

    if as_json:
        show_json(image.raw)
        return
    known = [
        ("image", f"{image.name}{f':{image.tag}' if image.tag else ''}"),
        ("digest", image.digest),
        ("entrypoint", shlex.join(image.entrypoint)),
        ("reference data", image.refdata_id),
        ("which is at", image.default_refdata_mount_point),
        ("approved by", image.registered_by),
        ("approved on", time_shown(image.registered_on)),
        *(("link", link) for link in image.urls),
        ("notes", image.usage_notes),
    ]
    show_fields([(name, value) for name, value in known if value])
