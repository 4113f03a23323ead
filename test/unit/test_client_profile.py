"""Which service and which token the client uses, and how they are kept."""

import os
from pathlib import Path
from typing import Any

import pytest

from cdmtaskservice.client import Client, NotConfigured, Profile, load_profile, remove_profile, save_profile
from cdmtaskservice.client.profile import check_token, check_url, profile_file, resolve

ENV = dict[str, str]


@pytest.fixture
def env(tmp_path: Path) -> ENV:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


KNOWN = Profile("https://cts.example.org", "kept")


def test_what_is_kept_is_found_again(env: ENV, tmp_path: Path):
    assert load_profile(env) is None
    file = save_profile(Profile("https://cts.example.org/", " kept\n".strip()), env)
    assert file == tmp_path / "config/cts/profile.json"
    assert load_profile(env) == KNOWN
    save_profile(Profile("http://other.test:8080/base"), env)
    assert load_profile(env) == Profile("http://other.test:8080/base")
    assert [p.name for p in file.parent.iterdir()] == ["profile.json"]
    assert remove_profile(env)
    assert not remove_profile(env)
    assert load_profile(env) is None


def test_nobody_else_can_read_it(env: ENV, tmp_path: Path):
    (tmp_path / "config/cts").mkdir(parents=True, mode=0o755)
    before = os.umask(0)
    try:
        file = save_profile(KNOWN, env)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_is_not_ours_stays_as_it_is(tmp_path: Path):
    tmp_path.chmod(0o755)
    env = {"CTS_PROFILE_FILE": str(tmp_path / "p.json")}
    assert save_profile(KNOWN, env) == profile_file(env) == tmp_path / "p.json"
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "p.json").stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_the_old_one(env: ENV, monkeypatch: pytest.MonkeyPatch):
    file = save_profile(KNOWN, env)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_profile(Profile("http://other.test", "t"), env)
    assert load_profile(env) == KNOWN
    assert [p.name for p in file.parent.iterdir()] == ["profile.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"url": 5}', '{"url": "x", "token": "t"}', "\0"])
def test_a_damaged_one_says_so(env: ENV, content: str):
    file = save_profile(KNOWN, env)
    file.write_text(content)
    with pytest.raises((NotConfigured, ValueError), match=r"login|URL"):
        load_profile(env)


@pytest.mark.parametrize(
    ("url", "token", "more", "expected"),
    [
        (None, None, {}, KNOWN),
        (" https://cts.example.org/\n", None, {}, KNOWN),
        ("https://other.test", None, {}, Profile("https://other.test")),
        ("http://cts.example.org", None, {}, Profile("http://cts.example.org")),
        (None, "given", {}, Profile(KNOWN.url, "given")),
        (None, None, {"CTS_TOKEN": "env"}, Profile(KNOWN.url, "env")),
        (None, None, {"CTS_URL": "https://other.test"}, Profile("https://other.test")),
        (None, None, {"CTS_URL": "https://o.test", "CTS_TOKEN": "env"}, Profile("https://o.test", "env")),
        (
            "https://a.test",
            "given",
            {"CTS_URL": "https://o.test", "CTS_TOKEN": "env"},
            Profile("https://a.test", "given"),
        ),
        (None, None, {"CTS_TOKEN": "env", "CTS_TOKEN_FILE": "/nonexistent"}, Profile(KNOWN.url, "env")),
        (None, None, {"CTS_URL": "", "CTS_TOKEN": ""}, KNOWN),
    ],
)
def test_what_is_used(env: ENV, url: str | None, token: str | None, more: ENV, expected: Profile):
    save_profile(KNOWN, env)
    assert resolve(url, token, {**env, **more}) == expected


def test_a_token_from_a_file(env: ENV, tmp_path: Path):
    (tmp_path / "token").write_text("from-file\n")
    where = {**env, "CTS_TOKEN_FILE": str(tmp_path / "token")}
    assert resolve("http://a.test", None, where).token == "from-file"
    with pytest.raises(NotConfigured, match="CTS_TOKEN_FILE"):
        resolve("http://a.test", None, {**env, "CTS_TOKEN_FILE": str(tmp_path / "none")})


def test_no_service_at_all(env: ENV, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(NotConfigured, match="CTS_URL"):
        resolve(None, "t", env)
    for name in ("CTS_URL", "CTS_PROFILE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", env["XDG_CONFIG_HOME"])
    with pytest.raises(NotConfigured):
        Client()


@pytest.mark.parametrize(
    "url", ["", "cts.example.org", "ftp://a", "https://", "https://a?x", "https://a#x", "https://a:x", 5]
)
def test_what_is_no_url(url: Any):
    with pytest.raises(ValueError, match="URL"):
        check_url(url)


def test_a_password_in_a_url_is_not_shown():
    with pytest.raises(ValueError, match="user name") as caught:
        check_url("https://ann:s3cret@cts.example.org")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "  ", "a b", "a\nb", "ü", "a\0"])
def test_what_is_no_token_is_not_shown(token: str):
    with pytest.raises(ValueError, match="token") as caught:
        check_token(token)
    assert caught.value.__cause__ is None
    assert "a" not in str(caught.value).removeprefix("The token is empty, or has characters that no token has")
