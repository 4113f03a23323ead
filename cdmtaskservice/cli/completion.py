"""What the shell offers when somebody presses Tab, asked of the service.

Somebody waits in the middle of a word: so the service gets two seconds, once, and where it says nothing, nor does this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from cdmtaskservice.client import Client

Offers = list[tuple[str, str]]

_PATIENCE = 2.0
_MOST = 100

STATES = (
    "created",
    "download_submitted",
    "job_submitting",
    "job_submitted",
    "upload_submitting",
    "upload_submitted",
    "complete",
    "error_processing_submitting",
    "error_processing_submitted",
    "error",
    "canceling",
    "canceled",
)
"""The states of jobs. A copy, for completion alone: what a state is the service knows."""


def job_ids(ctx: typer.Context, incomplete: str) -> Offers:
    """The user's latest jobs."""
    return _offer(
        ctx,
        incomplete,
        lambda cts: ((job.id, f"{job.state} {job.job_input.name or ''}") for job in cts.jobs(limit=_MOST)),
    )


def images(ctx: typer.Context, incomplete: str) -> Offers:
    """The approved images."""
    return _offer(
        ctx,
        incomplete,
        lambda cts: (
            (f"{i.name}:{i.tag}" if i.tag else f"{i.name}@{i.digest}", i.usage_notes or "") for i in cts.images()
        ),
    )


def sites(ctx: typer.Context, incomplete: str) -> Offers:
    """The sites."""
    return _offer(ctx, incomplete, lambda cts: ((site.cluster, "") for site in cts.sites()))


def refdata_ids(ctx: typer.Context, incomplete: str) -> Offers:
    """The registered reference data."""
    return _offer(ctx, incomplete, lambda cts: ((data.id, data.file) for data in cts.refdata()))


def states(incomplete: str) -> list[str]:
    """The states of jobs."""
    return [state for state in STATES if state.startswith(incomplete)]


def _offer(ctx: typer.Context, incomplete: str, ask: Callable[[Client], Iterable[tuple[str, str]]]) -> Offers:
    from cdmtaskservice.cli.terminal import harmless

    try:
        from cdmtaskservice.client import Client
        from cdmtaskservice.client.profile import resolve

        file = ctx.params.get("token_file")
        token = None if file is None or str(file) == "-" else file.read_text(encoding="utf-8").strip()
        profile = resolve(ctx.params.get("url"), token)
        with Client(profile.url, profile.token, timeout=_PATIENCE, retries=0) as cts:
            found = list(ask(cts))
    except Exception:  # whatever it is, this is not the place to tell it
        return []
    return [(value, " ".join(harmless(words).split())[:60]) for value, words in found if value.startswith(incomplete)]
