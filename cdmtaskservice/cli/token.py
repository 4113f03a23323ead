"""`cts token`: the accounts of a service without an auth service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdmtaskservice.cli.terminal import AsOwnJson, fail, needs, show_json, show_table

app = typer.Typer(help="Tokens of local users, for services whose auth.kind is local.", no_args_is_help=True)

TokenFile = Annotated[Path, typer.Option("--file", metavar="FILE", help="The file of accounts: auth.local_file.")]
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="What tells the token from others, such as laptop.")]


@app.command()
def create(
    name: TokenName,
    file: TokenFile,
    user: Annotated[str, typer.Option("--user", metavar="USER", help="Whose token it is.")],
    roles: Annotated[
        list[str] | None,
        typer.Option("--role", metavar="ROLE", help="A role of the user, such as KBASE_STAFF; may be repeated."),
    ] = None,
    as_json: AsOwnJson = False,
) -> None:
    """Make a token and print it. It cannot be shown again."""
    with needs("server", "cts token"):
        from cdmtaskservice.auth.token_file import TokenFileError, create_token

    try:
        token = create_token(file, name, user, roles or [])
    except TokenFileError as exc:
        fail(exc.message)
    if as_json:
        show_json({"name": name, "user": user, "roles": sorted(set(roles or [])), "token": token})
    else:
        typer.echo(token)
    typer.echo("Keep it safe: the file holds its hash only, so it cannot be shown again.", err=True)


@app.command("list")
def list_all(file: TokenFile, as_json: AsOwnJson = False) -> None:
    """List the tokens, not what they are: name, user, roles and when each was made."""
    with needs("server", "cts token"):
        from cdmtaskservice.auth.token_file import TokenFileError, list_tokens

    try:
        tokens = list_tokens(file)
    except TokenFileError as exc:
        fail(exc.message)
    if as_json:
        told = [
            {"name": t.name, "user": t.user, "roles": sorted(t.roles), "created": t.created.isoformat()} for t in tokens
        ]
        show_json({"tokens": told})
        return
    show_table(
        ("name", "user", "roles", "made"),
        [(t.name, t.user, ",".join(sorted(t.roles)), t.created.isoformat(timespec="seconds")) for t in tokens],
    )


@app.command()
def revoke(name: TokenName, file: TokenFile, as_json: AsOwnJson = False) -> None:
    """Make a token worthless, from the service's next request on."""
    with needs("server", "cts token"):
        from cdmtaskservice.auth.token_file import TokenFileError, revoke_token

    try:
        revoke_token(file, name)
    except TokenFileError as exc:
        fail(exc.message)
    typer.echo(f"Token {name} is revoked.", err=True)
    if as_json:
        show_json({"revoked": name})
