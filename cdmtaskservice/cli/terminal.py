"""What `cts` writes: tables with lines and colours for people at a terminal, plain text for everything else."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, NoReturn

import typer


class Exit(IntEnum):
    """The exit codes of `cts`. Scripts rely on them."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    JOB_FAILED = 4
    JOB_CANCELED = 5
    TIMED_OUT = 6
    INTERRUPTED = 130


EXIT_CODES = (
    (Exit.DONE, "done"),
    (Exit.REFUSED, "refused, invalid or not there"),
    (Exit.USAGE, "wrong usage"),
    (Exit.UNREACHABLE, "the service does not answer"),
    (Exit.JOB_FAILED, "the job ended in error"),
    (Exit.JOB_CANCELED, "the job was canceled"),
    (Exit.TIMED_OUT, "--timeout ran out while waiting"),
    (Exit.INTERRUPTED, "interrupted"),
)

_COLOURS = {
    "complete": "green",
    "open": "green",
    "error": "red",
    "unavailable": "red",
    "lacking": "red",
    "canceled": "yellow",
    "canceling": "yellow",
    "closed": "yellow",
}
"""By word, in a column whose heading is `state`. What is under way has the last one."""

_UNDER_WAY = "cyan"

_EXTRAS = {"server": "the server", "s3": "an S3 client"}

_ID_WIDTH = 36
"""Characters of an ID. What is no longer is never parted, so that it can be copied."""

_GAP = 2
"""Characters between columns."""

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows, and so make a line look like another one."""


def fail(message: str, code: Exit = Exit.REFUSED) -> NoReturn:
    """Say on standard error what is wrong, and end with this exit code."""
    say(message)
    raise typer.Exit(code)


def say(message: str) -> None:
    """Tell a person something, on standard error, where it is in no script's way."""
    typer.echo("\n".join(harmless(line) for line in message.split("\n")), err=True)


def harmless(text: str) -> str:
    """`text` without what would move a terminal's cursor, change its colours or break a line; such is shown escaped."""
    return "".join(
        c.encode("unicode_escape").decode("ascii")
        if c in _TURNING or unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}
        else c
        for c in text
    )


AsOwnJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def show_json(document: object) -> None:
    """One JSON document, in ASCII, so that it does nothing to a terminal and no locale does anything to it."""
    typer.echo(json.dumps(document, indent=2))


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal; elsewhere a line a row, its cells parted by tabs, without headings."""
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(harmless(cell) for cell in row))
        return
    # rich takes a while to import, and most commands never need it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # As Text, for a cell's own [brackets] are no markup.
    cells = [
        [
            Text(harmless(cell), colour(cell) if heading == "state" else "")
            for heading, cell in zip(headings, row, strict=True)
        ]
        for row in rows
    ]
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    least = 0
    for number, heading in enumerate(headings):
        longest = max([len(heading), *(row[number].cell_len for row in cells)])
        width = min(longest, _ID_WIDTH)
        table.add_column(heading, overflow="fold", min_width=width)
        least += width + _GAP
    for texts in cells:
        table.add_row(*texts)
    console = Console()
    # In a terminal that is narrower than that the lines are too long, and nothing is lost.
    console.width = max(console.width, least)
    console.print(table)


def gap() -> None:
    """An empty line between two tables, for people."""
    if sys.stdout.isatty():
        typer.echo()


def colour(state: str) -> str:
    """The colour of a state."""
    return _COLOURS.get(state, _UNDER_WAY) if state else ""


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around imports of what only some installations have: says which extra is missing. what: begins the message."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("cdmtaskservice"):
            raise
        fail(f"{what} needs {_EXTRAS[extra]}: pip install 'cdmtaskservice[{extra}]' (there is no module {exc.name})")
