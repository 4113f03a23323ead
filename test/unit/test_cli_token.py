"""`cts token`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from cdmtaskservice.auth.token_file import list_tokens, token_hash
from cdmtaskservice.cli.main import app

runner = CliRunner()


def test_a_token_is_made_listed_and_revoked(tmp_path: Path) -> None:
    file = str(tmp_path / "users.json")
    made = runner.invoke(
        app, ["token", "create", "laptop", "--file", file, "--user", "ada", "--role", "B", "--role", "A"]
    )
    assert made.exit_code == 0, made.output
    token = made.stdout.removesuffix("\n")
    assert "\n" not in token, "the token stands alone, for scripts"
    (known,) = list_tokens(Path(file))
    assert known.sha256 == token_hash(token)
    assert (known.user, known.roles) == ("ada", frozenset({"A", "B"}))

    listed = runner.invoke(app, ["token", "list", "--file", file])
    assert listed.exit_code == 0
    assert listed.stdout.startswith("laptop\tada\tA,B\t2")
    assert token not in listed.output

    revoked = runner.invoke(app, ["token", "revoke", "laptop", "--file", file])
    assert revoked.exit_code == 0
    assert list_tokens(Path(file)) == ()


def test_the_same_as_json(tmp_path: Path) -> None:
    file = str(tmp_path / "tokens.json")

    def told(*arguments: str) -> Any:
        done = runner.invoke(app, ["token", *arguments, "--file", file, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    made = told("create", "laptop", "--user", "ada", "--role", "B", "--role", "A", "--role", "A")
    (known,) = list_tokens(Path(file))
    assert known.sha256 == token_hash(made.pop("token"))
    assert made == {"name": "laptop", "user": "ada", "roles": ["A", "B"]}
    assert told("list") == {"tokens": [made | {"created": known.created.isoformat()}]}
    assert told("revoke", "laptop") == {"revoked": "laptop"}
    assert told("list") == {"tokens": []}


def test_a_user_needs_no_roles(tmp_path: Path) -> None:
    file = tmp_path / "users.json"
    assert runner.invoke(app, ["token", "create", "x", "--file", str(file), "--user", "ada"]).exit_code == 0
    assert list_tokens(file)[0].roles == frozenset()


def test_what_cannot_be_done_is_1_with_the_reason(tmp_path: Path) -> None:
    file = str(tmp_path / "users.json")
    runner.invoke(app, ["token", "create", "x", "--file", file, "--user", "ada"])
    for arguments, reason in (
        (["create", "x", "--file", file, "--user", "ada"], "already"),
        (["create", "y", "--file", file, "--user", "not a name!"], "user"),
        (["revoke", "z", "--file", file], "no token named"),
        (["list", "--file", file + ".not"], "missing"),
        (["revoke", "x", "--file", file + ".not"], "missing"),
    ):
        done = runner.invoke(app, ["token", *arguments])
        assert done.exit_code == 1, arguments
        assert reason in done.stderr
        assert done.stdout == ""
