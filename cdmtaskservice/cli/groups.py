"""Groups of commands of which one is done where none is named."""

from __future__ import annotations

from typing import Any

import typer.core


class ListByDefault(typer.core.TyperGroup):
    """`cts sites --json` is `cts sites list --json`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base class does, with `list` before options that no command precedes."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)
