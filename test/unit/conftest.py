"""Fixtures that several modules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from test.unit.cli_service import FakeService, fake_service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    """A service for `cts`, which knows nothing yet."""
    with fake_service(tmp_path / "profile.json") as service:
        yield service
