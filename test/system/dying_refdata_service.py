"""`cts refdata serve` that kills itself after one chosen call: see `dying`."""

from __future__ import annotations

import sys

from cdmtaskservice.cli.main import app
from cdmtaskservice.stager.desk import HttpDesk
from cdmtaskservice.stager.stager import Stager
from test.system.dying import die_as_told

CALLS: dict[str, tuple[type, str]] = {
    "work": (HttpDesk, "work"),
    "begin": (Stager, "_begin"),
    "progress": (HttpDesk, "progress"),
    "follow": (Stager, "_follow"),
    "update": (HttpDesk, "update"),
}


if __name__ == "__main__":
    die_as_told(CALLS)
    app(["refdata", "serve", *sys.argv[1:]])
