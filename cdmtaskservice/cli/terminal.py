"""What `cts` writes: tables with lines and colours for people at a terminal, plain text for everything else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer


def fail(message: str) -> NoReturn:
    """Say on standard error what is wrong, and end with exit code 1."""
    typer.echo(message, err=True)
    raise typer.Exit(1)


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal; elsewhere a line a row, its cells parted by tabs, without headings."""
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(row))
        return
    # rich takes a while to import, and most commands never need it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings)
    for row in rows:
        # As Text, for a cell's own [brackets] are no markup.
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
