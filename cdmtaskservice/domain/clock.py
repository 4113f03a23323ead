"""Where the service takes time and names from. Both are passed in, so that the engine can be replayed."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime.datetime]
"""Gives the aware UTC time."""

IdSource: TypeAlias = Callable[[], str]
"""Gives a new unique ID at each call."""
