"""`python -m cdmtaskservice.cli`: the same as `cts`."""

from cdmtaskservice.cli.main import app

app()
