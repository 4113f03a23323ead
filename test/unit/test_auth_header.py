import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmtaskservice.auth.header import parse_authorization
from cdmtaskservice.domain.errors import InvalidAuthHeaderError


def test_no_header_is_no_token() -> None:
    assert parse_authorization(None) is None


@pytest.mark.parametrize("value", ["Bearer T0k.en", "bearer T0k.en", "BEARER   T0k.en", "  bEaReR T0k.en \t"])
def test_the_scheme_has_no_case_and_blanks_around_do_not_count(value: str) -> None:
    assert parse_authorization(value) == "T0k.en"


@pytest.mark.parametrize(
    "value", ["", " ", "T0ken", "Basic T0ken", "Bearer:T0ken", "BearerT0ken", "Be\u0130arer T0ken"]
)
def test_other_schemes_are_refused_and_secrets_not_repeated(value: str) -> None:
    with pytest.raises(InvalidAuthHeaderError, match="must be of the scheme Bearer") as e:
        parse_authorization(value)
    assert "T0ken" not in e.value.message


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer \t "])
def test_an_empty_token_is_refused(value: str) -> None:
    with pytest.raises(InvalidAuthHeaderError, match="has no token"):
        parse_authorization(value)


@pytest.mark.parametrize("token", ["a b", "a\tb", "a\nb", "\u00e9", "\ud800", "a\x00", "a\x7f"])
def test_what_can_be_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidAuthHeaderError, match="visible ASCII") as e:
        parse_authorization(f"Bearer {token}")
    assert token not in e.value.message


@settings(deadline=None)
@given(st.text() | st.text().map(lambda t: f"Bearer {t}"))
def test_any_text_gives_a_clean_token_or_the_one_error(value: str) -> None:
    try:
        token = parse_authorization(value)
    except InvalidAuthHeaderError:
        return
    assert token
    assert token.isascii()
    assert token.isprintable()
    assert " " not in token
    assert token in value
