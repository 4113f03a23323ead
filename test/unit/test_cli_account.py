"""`cts login`, `logout`, `whoami`, and how commands find the service and the token."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from cdmtaskservice.cli import account
from test.unit.cli_service import NOBODY, TOKEN, FakeService

ME = {"user": "ann", "allowed_paths": [{"path": "cts-data/ann/", "perm": "write"}], "odd": 1}


@pytest.fixture
def nobody_named(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """An environment that says nothing."""
    return {"CTS_URL": None, "CTS_TOKEN": None}


def test_login_asks_checks_and_keeps(
    service: FakeService, nobody_named: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "asks", lambda: True)
    service.says("GET /whoami", ME)
    done = service.cts("login", stdin=f"{service.url}/\n{TOKEN}\n", **nobody_named)
    assert done.exit_code == 0, done.output
    assert f"ann is logged in at {service.url}" in done.stderr
    assert TOKEN not in done.output, "what is typed as the token is not shown"
    assert stat.S_IMODE(service.profile.stat().st_mode) == 0o600
    assert service.asked[0].token == f"Bearer {TOKEN}"
    done = service.cts("whoami", **nobody_named)
    assert done.stdout == "user\tann\npath\tcts-data/ann/ (write)\n"
    assert service.asked[1].token == f"Bearer {TOKEN}"
    # The next time the URL is offered.
    assert service.cts("login", stdin=f"\n{TOKEN}\n", **nobody_named).exit_code == 0
    done = service.cts("logout", **nobody_named)
    assert (done.exit_code, done.stderr) == (0, "logged out\n")
    assert not service.profile.exists()
    assert service.cts("logout", "--json", **nobody_named).stdout == "{}\n"
    done = service.cts("whoami", **nobody_named)
    assert done.exit_code == 2
    assert "cts login" in done.stderr


def test_login_without_anybody_at_the_keyboard(
    service: FakeService, nobody_named: dict[str, str | None], tmp_path: Path
) -> None:
    service.says("GET /whoami", ME)
    done = service.cts("login", **nobody_named)
    assert (done.exit_code, done.stderr) == (2, "Nobody is there to be asked: give --url\n")
    done = service.cts("login", "--url", service.url, **nobody_named)
    assert done.exit_code == 2
    assert "--token-file" in done.stderr
    done = service.cts("login", "--url", service.url, "--token-file", "-", "--json", stdin=" secret \n", **nobody_named)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == ME
    assert service.asked[-1].token == "Bearer secret"
    (tmp_path / "t").write_text("other\n")
    assert service.cts("login", "--url", service.url, "--token-file", str(tmp_path / "t")).exit_code == 0
    assert json.loads(service.profile.read_text())["token"] == "other"


def test_login_that_is_refused_changes_nothing(service: FakeService, nobody_named: dict[str, str | None]) -> None:
    service.says("GET /whoami", ME)
    login = ("login", "--url", service.url, "--token-file", "-")
    assert service.cts(*login, stdin="good", **nobody_named).exit_code == 0
    kept = service.profile.read_bytes()
    service.answers.clear()
    service.refuses("GET /whoami", 401, 10020, "nobody has this token")
    done = service.cts(*login, stdin="bad", **nobody_named)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "nobody has this token (HTTP 401, request 0123)" in done.stderr
    assert service.cts("login", "--url", NOBODY, "--token-file", "-", stdin="good").exit_code == 3
    for url, said in (("nonsense", "is no URL"), ("http://ann:pw@127.0.0.1", "has a user name in it")):
        done = service.cts("login", "--url", url, "--token-file", "-", stdin="good")
        assert done.exit_code == 1
        assert said in done.stderr
        assert "pw" not in done.output
    done = service.cts(*login, stdin="  \n")
    assert (done.exit_code, done.stderr) == (1, "The token file - is empty\n")
    assert service.profile.read_bytes() == kept


def test_login_warns_of_what_it_does_not_change(service: FakeService) -> None:
    service.says("GET /whoami", ME)
    done = service.cts("login", "--token-file", "-", stdin="x")
    assert done.exit_code == 0
    assert "CTS_URL and CTS_TOKEN in your environment count more than that" in done.stderr


def test_options_come_before_the_environment_and_that_before_the_profile(
    service: FakeService, tmp_path: Path, nobody_named: dict[str, str | None]
) -> None:
    service.says("GET /whoami", ME)
    file = tmp_path / "file"
    file.write_text(" of-the-option\n")
    other = tmp_path / "other"
    other.write_text("of-the-file")
    service.profile.write_text(json.dumps({"url": service.url, "token": "of-the-profile"}))

    def token_of(*arguments: str, **environment: str | None) -> str | None:
        done = service.cts("whoami", *arguments, **{**nobody_named, **environment})
        assert done.exit_code == 0, done.output
        return service.asked[-1].token

    assert token_of() == "Bearer of-the-profile"
    assert token_of(CTS_TOKEN_FILE=str(other)) == "Bearer of-the-file"
    assert token_of(CTS_TOKEN_FILE=str(other), CTS_TOKEN="of-the-variable") == "Bearer of-the-variable"
    assert token_of("--token-file", str(file), CTS_TOKEN="of-the-variable") == "Bearer of-the-option"
    service.profile.write_text(json.dumps({"url": "http://elsewhere.example", "token": "not-for-others"}))
    assert token_of(CTS_URL=service.url) is None
    assert token_of("--url", service.url, CTS_URL=NOBODY) is None


def test_a_token_that_cannot_be_read(service: FakeService, tmp_path: Path) -> None:
    done = service.cts("whoami", "--token-file", str(tmp_path / "none"))
    assert (done.exit_code, done.stderr) == (
        1,
        f"The token file {tmp_path / 'none'} cannot be read: No such file or directory\n",
    )
    (tmp_path / "bytes").write_bytes(b"\xff")
    assert "it is no text" in service.cts("whoami", "--token-file", str(tmp_path / "bytes")).stderr
    done = service.cts("whoami", CTS_TOKEN=None, CTS_TOKEN_FILE=str(tmp_path / "none"))
    assert done.exit_code == 1
    assert "CTS_TOKEN_FILE" in done.stderr
    service.profile.write_text("{}")
    done = service.cts("whoami", CTS_URL=None)
    assert done.exit_code == 1
    assert "is damaged" in done.stderr
    assert service.asked == []
    service.says("GET /whoami", ME)
    assert service.cts("whoami", "--token-file", "-", stdin="from-stdin\n").exit_code == 0
    assert service.asked[0].token == "Bearer from-stdin"


def test_whoami_is_what_the_service_says(service: FakeService) -> None:
    me = ME | {"roles": ["full_admin"]}
    service.says("GET /whoami", me)
    assert service.json("whoami") == me
    assert service.rows("whoami") == [["user", "ann"], ["roles", "full_admin"], ["path", "cts-data/ann/ (write)"]]


def test_no_argument_is_a_token() -> None:
    """What stands in a command line, everybody on the machine can read."""
    from typer.main import get_command

    from cdmtaskservice.cli.main import app

    def names(command: object) -> set[str]:
        below = getattr(command, "commands", {}).values()
        own = {o for p in getattr(command, "params", ()) for o in p.opts}
        return own.union(*map(names, below))

    assert {name for name in names(get_command(app)) if "token" in name} == {"--token-file"}
