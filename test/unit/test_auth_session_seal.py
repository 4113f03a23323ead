"""Seals of sessions: opened by who made them, for as long as they hold, and by nobody else."""

from __future__ import annotations

import base64
import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.auth.session_seal import MAX_TOKEN, SessionSeal
from cdmtaskservice.domain.errors import InvalidTokenError

NOW = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
LATER = NOW + datetime.timedelta(hours=12)
SECRET, OTHER = b"a" * 32, b"b" * 32


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=400))
def test_a_token_comes_back(token: str) -> None:
    seal = SessionSeal(SECRET)
    assert seal.open(seal.seal(token, LATER), NOW) == token


def test_a_seal_is_a_cookies_value_and_shows_nothing_of_the_token() -> None:
    token = "SECRETTOKEN" * 180
    sealed = SessionSeal(SECRET).seal(token, LATER)
    assert len(token) <= MAX_TOKEN
    assert len(sealed) < 3500
    assert sealed.isascii()
    assert not set(sealed) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert b"SECRET" not in base64.urlsafe_b64decode(sealed + "==")
    assert SessionSeal(SECRET).seal(token, LATER) != sealed


def test_it_holds_until_its_time() -> None:
    seal = SessionSeal(SECRET)
    sealed = seal.seal("t", LATER)
    assert seal.open(sealed, LATER - datetime.timedelta(seconds=1)) == "t"
    with pytest.raises(InvalidTokenError, match="over"):
        seal.open(sealed, LATER)


@given(st.integers(0, 200), st.integers(1, 255))
def test_one_changed_bit_is_enough(place: int, change: int) -> None:
    seal = SessionSeal(SECRET)
    data = bytearray(base64.urlsafe_b64decode(seal.seal("a token of somebody", LATER) + "=="))
    data[place % len(data)] ^= change
    with pytest.raises(InvalidTokenError, match="not begun by this service"):
        seal.open(base64.urlsafe_b64encode(data).decode().rstrip("="), NOW)


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda b: base64.urlsafe_b64encode(b).decode())))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidTokenError):
        SessionSeal(SECRET).open(text, NOW)


def test_secrets_are_changed_without_ending_sessions() -> None:
    old, both, new = SessionSeal(SECRET), SessionSeal(OTHER, SECRET), SessionSeal(OTHER)
    assert both.open(old.seal("t", LATER), NOW) == "t"
    assert new.open(both.seal("t", LATER), NOW) == "t"
    with pytest.raises(InvalidTokenError):
        new.open(old.seal("t", LATER), NOW)
    assert both.is_form_mark(old.form_mark("cookie"), "cookie")
    assert not new.is_form_mark(old.form_mark("cookie"), "cookie")


def test_a_form_is_for_one_browser() -> None:
    seal = SessionSeal(SECRET)
    mark = seal.form_mark("cookie")
    assert seal.is_form_mark(mark, "cookie")
    for wrong in ("", "x", mark[:-1], mark + "x", "\u00e9"):
        assert not seal.is_form_mark(wrong, "cookie")
    assert not seal.is_form_mark(mark, "another")


def test_a_token_that_no_cookie_holds_is_refused() -> None:
    with pytest.raises(InvalidTokenError, match="2001 bytes"):
        SessionSeal(SECRET).seal("x" * (MAX_TOKEN + 1), LATER)
