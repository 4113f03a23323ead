"""`cts config`: trying settings files."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdmtaskservice.cli.terminal import AsOwnJson, fail, needs, show_json, show_table

if TYPE_CHECKING:
    from cdmtaskservice.settings import RefdataServiceSettings, Settings

app = typer.Typer(help="Check and fill settings files.", no_args_is_help=True)

SettingsPath = Annotated[
    Path, typer.Argument(metavar="FILE", help="The settings: a .toml file or a .jinja template of one.")
]


@app.command()
def check(file: SettingsPath, as_json: AsOwnJson = False) -> None:
    """Name all that is wrong with a settings file, of the service or of a reference data service.

    The environment variables KBCTS_* count as they would for the service.
    """
    with needs("server", "cts config"):
        from cdmtaskservice.settings import RefdataServiceFile, SettingsError, load, load_settings

    try:
        if _is_of_refdata_service(file):
            shown = _refdata_summary(load(RefdataServiceFile, file, os.environ).refdata_service)
        else:
            shown = _summary(load_settings(file, os.environ))
    except SettingsError as exc:
        fail(str(exc))
    if as_json:
        show_json({"settings": dict(shown)})
    else:
        show_table(("setting", "value"), shown)


@app.command()
def render(
    file: SettingsPath,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write it here, with the secrets, readable by its owner alone."
        ),
    ] = None,
    as_json: AsOwnJson = False,
) -> None:
    """Fill a template with the environment.

    What is printed has its secrets masked; what is written to --output has them.
    """
    with needs("server", "cts config"):
        from cdmtaskservice.settings import SettingsError, mask_secrets, read_settings_file
        from cdmtaskservice.settings.template import to_toml

    try:
        read = read_settings_file(file, os.environ)
    except SettingsError as exc:
        fail(str(exc))
    if output is None:
        masked = mask_secrets(read.data)
        if as_json:
            show_json(json.loads(json.dumps(masked, default=str)))  # TOML knows dates, JSON does not
        else:
            typer.echo(to_toml(masked), nl=False)
        return
    try:
        _write_private(output, read.text)
    except OSError as exc:
        fail(f"{output} cannot be written: {exc.strerror or exc}")
    if as_json:
        show_json({"written": str(output)})


def _summary(settings: Settings) -> list[tuple[str, str]]:
    """What an operator would look at first. Nothing secret."""
    auth = settings.auth
    return [
        ("service", f"listens on {settings.service.host}:{settings.service.port}, reached at {settings.service.url}"),
        ("auth", f"{auth.kind}, {auth.kbase_url if auth.kind == 'kbase' else auth.local_file}"),
        ("mongo", f"database {settings.mongo.database}"),
        ("kafka", f"topic {settings.kafka.topic} at {', '.join(settings.kafka.bootstrap_servers)}"),
        (
            "s3",
            f"{settings.s3.endpoint}, users in {', '.join(settings.s3.allowed_paths)}, logs in {settings.s3.log_path}",
        ),
        *(
            (f"site {s.name}", f"{s.kind}, {s.nodes} x {s.cpus_per_node} CPUs, {s.memory_per_node / 1e9:g} GB")
            for s in settings.sites
        ),
    ]


def _is_of_refdata_service(file: Path) -> bool:
    """Whether it has the table of a reference data service, whatever else is wrong with it."""
    try:
        return any(line.startswith("[refdata_service") for line in file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeError):
        return False


def _refdata_summary(settings: RefdataServiceSettings) -> list[tuple[str, str]]:
    return [
        ("service", f"asks {settings.service_url}, with the token in {settings.token_file}"),
        *((f"site {store.site}", f"data in {store.directory}") for store in settings.stores),
    ]


def _write_private(file: Path, text: str) -> None:
    """Replace the file by one that only its owner may read, at no time readable by others."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # made with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            out.write(text)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
