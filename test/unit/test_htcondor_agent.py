"""Taking a job's requirements apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.sites.htcondor.agent import conjuncts


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
