"""Imports that are not searched for garbage."""

import gc
import weakref

import pytest

from cdmtaskservice.cli.imports import uncollected


class Ring:
    """Garbage, once nobody holds it: it holds itself."""

    def __init__(self) -> None:
        self.me = self


def test_what_is_made_meanwhile_is_left_alone_for_ever() -> None:
    with uncollected():
        assert not gc.isenabled()
        kept = weakref.ref(Ring())
    later = weakref.ref(Ring())
    gc.collect()
    assert kept() is not None
    assert later() is None


def test_garbage_is_collected_again_after_a_failure() -> None:
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()
