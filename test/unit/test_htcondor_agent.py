"""Choosing a schedd, and taking a job's requirements apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.sites.htcondor.agent import Away, Refused, choose_schedd, conjuncts

A, B = {"Name": "a@one", "Machine": "one"}, {"Name": "b@one", "Machine": "one"}
C = {"Name": "two", "Machine": "two"}


@pytest.mark.parametrize(
    ("ads", "named", "usual", "chosen"),
    [
        ([C], None, None, C),
        ([C], None, "here", C),  # SCHEDD_HOST is this machine unless somebody has set it
        ([A, C], "two", None, C),
        ([A, C], "one", None, A),
        ([A, B, C], "b@one", "two", B),
        ([A, C], None, "two", C),
    ],
)
def test_the_schedd_that_is_meant_is_chosen(ads, named, usual, chosen):
    assert choose_schedd(ads, named, usual, "here") is chosen


@pytest.mark.parametrize(("named", "usual"), [("one", None), (None, "one")])
def test_no_other_schedd_stands_in_for_one_that_is_away(named, usual):
    with pytest.raises(Away):
        choose_schedd([C], named, usual, "here")


@pytest.mark.parametrize(
    ("ads", "named", "usual"), [([A, B], "one", None), ([A, C], None, None), ([A, C], None, "here")]
)
def test_where_there_are_several_schedds_one_must_be_named(ads, named, usual):
    with pytest.raises(Refused):
        choose_schedd(ads, named, usual, "here")


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        ("a", ["a"]),
        ("a && b", ["a", "b"]),
        ("(a) && (b || c)", ["a", "b || c"]),
        ("((a && b) && (c))", ["a", "b", "c"]),
        ("a || b && c", ["a || b && c"]),
        ("(a || b) && c", ["a || b", "c"]),
        ("a ? b : c && d", ["a ? b : c && d"]),
        ('x == "a && b" && y', ['x == "a && b"', "y"]),
        ('x == "a\\" && b" && y', ['x == "a\\" && b"', "y"]),
        ("f(a && b) && {1, 2} && [a = 1]", ["f(a && b)", "{1, 2}", "[a = 1]"]),
        ("(a) + (b)", ["(a) + (b)"]),
    ],
)
def test_conjuncts(expression, parts):
    assert conjuncts(expression) == parts


@given(st.text(alphabet='ab&|()[]{}"\\?: ', max_size=30))
def test_any_text_is_taken_apart(text):
    assert "".join(conjuncts(text)).replace(" ", "").count("a") == text.count("a")
