"""Local tokens. These tests touch files, and nothing else."""

import json
import multiprocessing
import stat
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cdmtaskservice.auth.base import Authenticator
from cdmtaskservice.auth.local import LocalAuthenticator
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.auth.token_file import TokenFileError, create_token, list_tokens, revoke_token
from cdmtaskservice.domain.errors import DependencyUnavailableError, InvalidTokenError, InvalidUserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


async def test_a_created_token_is_known_with_its_roles(file: Path) -> None:
    token = create_token(file, "laptop", "alice", ["KBASE_STAFF", "X"])
    auth: Authenticator = LocalAuthenticator(file)
    await auth.check()
    assert await auth.authenticate(token) == Principal("alice", frozenset({"KBASE_STAFF", "X"}))
    await auth.close()


async def test_the_token_itself_is_nowhere_in_the_file(file: Path) -> None:
    token = create_token(file, "laptop", "alice", [])
    assert token.startswith("ctsl.")
    assert len(token) > 40
    assert token.removeprefix("ctsl.") not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [p.name for p in file.parent.iterdir() if p.suffix != ".lock"] == ["tokens.json"]


async def test_new_and_revoked_tokens_count_at_once_without_restart(file: Path) -> None:
    first = create_token(file, "one", "alice", [])
    auth = LocalAuthenticator(file)
    await auth.authenticate(first)
    second = create_token(file, "two", "bob", ["X"])
    assert (await auth.authenticate(second)).user == "bob"
    revoke_token(file, "one")
    with pytest.raises(InvalidTokenError) as e:
        await auth.authenticate(first)
    assert first not in e.value.message
    assert (await auth.authenticate(second)).user == "bob"


async def test_the_file_is_only_read_when_it_changed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = create_token(file, "one", "alice", [])
    reads = 0

    def count(path: Path) -> Any:
        nonlocal reads
        reads += 1
        return list_tokens(path)

    monkeypatch.setattr("cdmtaskservice.auth.local.list_tokens", count)
    auth = LocalAuthenticator(file)
    for _ in range(5):
        await auth.authenticate(token)
    assert reads == 1


@pytest.mark.parametrize("token", ["", "nope", "ctsl.", "caf\u00e9", "a b", "x" * 5000, "\ud800"])
async def test_unknown_and_impossible_tokens_are_invalid(file: Path, token: str) -> None:
    create_token(file, "one", "alice", [])
    with pytest.raises(InvalidTokenError):
        await LocalAuthenticator(file).authenticate(token)


async def test_users_are_those_who_have_tokens(file: Path) -> None:
    create_token(file, "one", "alice", [])
    auth = LocalAuthenticator(file)
    assert await auth.user_exists("alice", "any")
    assert not await auth.user_exists("bob", "any")
    with pytest.raises(InvalidUserError):
        await auth.user_exists("A b", "any")


def test_tokens_are_listed_in_order(file: Path) -> None:
    create_token(file, "one", "alice", ["B", "A", "B"])
    create_token(file, "two", "bob", [])
    one, two = list_tokens(file)
    assert (one.name, one.user, one.roles) == ("one", "alice", frozenset({"A", "B"}))
    assert (two.name, two.user, two.roles) == ("two", "bob", frozenset())
    assert one.created <= two.created


def test_names_are_unique_and_revoking_needs_one_that_is_there(file: Path) -> None:
    create_token(file, "one", "alice", [])
    with pytest.raises(TokenFileError, match="has a token named 'one' already"):
        create_token(file, "one", "bob", [])
    with pytest.raises(TokenFileError, match="no token named 'two'; it has 'one'"):
        revoke_token(file, "two")
    assert [t.user for t in list_tokens(file)] == ["alice"]


@pytest.mark.parametrize(
    ("name", "user", "roles", "field"),
    [
        ("", "alice", [], "name"),
        ("a b", "alice", [], "name"),
        ("a\n", "alice", [], "name"),
        ("one", "Alice", [], "user"),
        ("one", "", [], "user"),
        ("one", "alice", [""], "roles"),
        ("one", "alice", ["a b"], "roles"),
    ],
)
def test_impossible_values_are_refused_by_field(file: Path, name: str, user: str, roles: list[str], field: str) -> None:
    with pytest.raises(TokenFileError, match=rf"is not possible: {field}"):
        create_token(file, name, user, roles)
    assert not file.exists()


def _entry(**change: Any) -> dict[str, Any]:
    return {
        "name": "one",
        "user": "alice",
        "roles": [],
        "sha256": "0" * 64,
        "created": "2030-01-01T00:00:00Z",
        **change,
    }


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ("{}", "Field required"),
        ({"tokens": [], "x": 1}, "x: Extra inputs"),
        ({"tokens": [_entry(), _entry(name="two", user="B")]}, r"entry 2, user: .*must be of a-z"),
        ({"tokens": [_entry(sha256="SECRET")]}, "entry 1, sha256: "),
        ({"tokens": [_entry(roles="X")]}, "entry 1, roles: "),
        ({"tokens": [_entry(roles=[1])]}, "entry 1, roles, entry 1: "),
        ({"tokens": [_entry(created="2030-01-01T00:00:00")]}, "entry 1, created: .*timezone"),
        ({"tokens": [_entry(extra=1)]}, "entry 1, extra: "),
        ({"tokens": [_entry(), _entry()]}, "two tokens named 'one'"),
    ],
)
async def test_a_malformed_file_names_file_entry_and_field(file: Path, content: Any, fault: str) -> None:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    for check in (LocalAuthenticator(file).check(), LocalAuthenticator(file).authenticate("x")):
        with pytest.raises(TokenFileError, match=fault) as e:
            await check
        assert str(file) in e.value.message
        assert "SECRET" not in e.value.message
        assert isinstance(e.value, DependencyUnavailableError)
    with pytest.raises(TokenFileError):
        create_token(file, "new", "alice", [])


async def test_a_missing_file_says_what_to_do(file: Path) -> None:
    with pytest.raises(TokenFileError, match="is missing; create a first token"):
        await LocalAuthenticator(file).check()
    with pytest.raises(TokenFileError, match="is missing"):
        revoke_token(file, "one")
    with pytest.raises(TokenFileError, match="cannot be changed: No such file or directory"):
        create_token(file.parent / "nodir" / "f", "one", "alice", [])
    file.mkdir()
    with pytest.raises(TokenFileError, match="cannot be read: Is a directory"):
        list_tokens(file)


@pytest.mark.parametrize("broken", ["{", None])
async def test_a_file_that_breaks_leaves_the_last_good_tokens_and_one_log_entry(file: Path, broken: str | None) -> None:
    token = create_token(file, "one", "alice", [])
    good = file.read_text()
    auth = LocalAuthenticator(file)
    await auth.authenticate(token)
    with capture_logs() as logs:
        file.unlink() if broken is None else file.write_text(broken)
        for _ in range(3):
            assert (await auth.authenticate(token)).user == "alice"
        with pytest.raises(TokenFileError):
            await auth.check()
    assert [entry["event"] for entry in logs] == ["token_file_unusable"]
    assert str(file) in logs[0]["reason"]
    file.write_text(good.replace('"alice"', '"carol"'))
    assert (await auth.authenticate(token)).user == "carol"


def _create_some(file: Path, worker: int) -> None:
    for i in range(10):
        create_token(file, f"t{worker}-{i}", "alice", [])


def test_writers_do_not_lose_each_others_tokens(file: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_create_some, args=(file, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(list_tokens(file)) == 30


def test_a_failed_write_leaves_the_old_file_and_no_rest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_token(file, "one", "alice", [])
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cdmtaskservice.auth.token_file.os.fsync", full)
    with pytest.raises(TokenFileError, match="cannot be written: No space left on device"):
        create_token(file, "two", "alice", [])
    assert file.read_bytes() == before
    assert sorted(p.name for p in file.parent.iterdir()) == ["tokens.json", "tokens.json.lock"]
