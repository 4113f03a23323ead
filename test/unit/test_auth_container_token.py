import base64
import datetime
import hashlib
import hmac
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmtaskservice.auth.container_token import ContainerClaim, ContainerTokens, looks_like
from cdmtaskservice.domain.errors import InvalidTokenError

SECRET = bytes(range(32))
NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
LATER = NOW + datetime.timedelta(hours=1)
TOKENS = ContainerTokens(SECRET)
TOKEN = TOKENS.mint("5f0c-job", 3, 2, LATER)


@settings(deadline=None)
@given(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.integers(0, 999),
    st.integers(1, 10**6),
    st.datetimes(datetime.datetime(2030, 1, 2), datetime.datetime(2200, 1, 1)),
)
def test_what_was_minted_is_read_back(job: str, number: int, attempt: int, expires: datetime.datetime) -> None:
    aware = expires.replace(tzinfo=datetime.UTC)
    token = TOKENS.mint(job, number, attempt, aware)
    assert looks_like(token)
    assert token.isascii()
    claim = TOKENS.verify(token, NOW)
    assert claim == ContainerClaim(job, number, attempt, aware.replace(microsecond=0))


def test_it_holds_until_the_instant_it_expires() -> None:
    TOKENS.verify(TOKEN, LATER - datetime.timedelta(microseconds=1))
    with pytest.raises(InvalidTokenError, match="expired at 2030-01-01T01:00:00"):
        TOKENS.verify(TOKEN, LATER)


def test_other_time_zones_are_the_same_instants() -> None:
    west = datetime.timezone(datetime.timedelta(hours=-8))
    assert TOKENS.mint("5f0c-job", 3, 2, LATER.astimezone(west)) == TOKEN
    assert TOKENS.verify(TOKEN, NOW.astimezone(west)).expires == LATER


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_anywhere_is_forgiven(bit: int) -> None:
    raw = TOKEN.encode()
    for i in range(len(raw)):
        forged = raw[:i] + bytes([raw[i] ^ (1 << bit)]) + raw[i + 1 :]
        with pytest.raises(InvalidTokenError, match=r"malformed|not signed by this service"):
            TOKENS.verify(forged.decode("latin-1"), NOW)


def test_no_change_of_the_claim_is_forgiven() -> None:
    prefix, _, signature = TOKEN.split(".")
    claim = {"j": "5f0c-job", "n": 4, "a": 2, "e": int(LATER.timestamp())}
    forged = base64.urlsafe_b64encode(json.dumps(claim).encode()).rstrip(b"=").decode()
    with pytest.raises(InvalidTokenError, match="not signed by this service"):
        TOKENS.verify(f"{prefix}.{forged}.{signature}", NOW)


def test_a_plain_hmac_with_the_same_secret_is_no_signature() -> None:
    prefix, text, _ = TOKEN.split(".")
    plain = hmac.digest(SECRET, text.encode(), hashlib.sha256)
    with pytest.raises(InvalidTokenError):
        TOKENS.verify(f"{prefix}.{text}.{base64.urlsafe_b64encode(plain).rstrip(b'=').decode()}", NOW)


@pytest.mark.parametrize(
    "token", ["", "ctsc.", "ctsc", "nope", "ctsc.abc", "ctsl.a.b", "ctsc.\u00e9.a", "ctsc.a.\ud800"]
)
def test_malformed_tokens_are_said_to_be(token: str) -> None:
    with pytest.raises(InvalidTokenError, match="malformed"):
        TOKENS.verify(token, NOW)


def test_huge_tokens_are_not_looked_at() -> None:
    with pytest.raises(InvalidTokenError, match="malformed"):
        TOKENS.verify("ctsc." + "a" * 100_000 + ".b", NOW)


@settings(deadline=None)
@given(
    st.text()
    | st.text().map(lambda t: "ctsc." + t)
    | st.tuples(st.text(), st.text()).map(lambda t: "ctsc." + ".".join(t))
)
def test_any_text_is_invalid_and_nothing_worse(token: str) -> None:
    with pytest.raises(InvalidTokenError):
        TOKENS.verify(token, NOW)


@settings(deadline=None)
@given(
    st.binary(max_size=100)
    | st.recursive(st.integers() | st.text() | st.none(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_a_signed_claim_of_another_version_is_malformed(claim: bytes) -> None:
    from cdmtaskservice.auth import container_token

    text = container_token._encode(claim)
    with pytest.raises(InvalidTokenError, match="malformed"):
        TOKENS.verify(f"ctsc.{text}.{container_token._signature(SECRET, text)}", NOW)


def test_secrets_rotate() -> None:
    new = ContainerTokens(b"n" * 32, SECRET)
    assert new.verify(TOKEN, NOW).job_id == "5f0c-job"
    minted = new.mint("j", 0, 1, LATER)
    assert ContainerTokens(b"n" * 32).verify(minted, NOW).job_id == "j"
    with pytest.raises(InvalidTokenError, match="not signed"):
        TOKENS.verify(minted, NOW)


def test_short_secrets_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        ContainerTokens(SECRET, b"short")


def test_the_kinds_of_tokens_are_told_apart() -> None:
    assert looks_like(TOKEN)
    assert not looks_like("ctsl.abc")
    assert not looks_like("KBASETOKEN")
