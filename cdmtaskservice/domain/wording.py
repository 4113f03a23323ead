"""How values are shown in messages: quoted, and cut where a client sent something huge."""

from __future__ import annotations

_LIMIT = 200


def shown(value: object, limit: int = _LIMIT) -> str:
    """`value` quoted for a message, at most about `limit` characters long, printable and encodable as UTF-8."""
    if isinstance(value, str):
        if len(value) <= limit:
            return _printable(value)
        return f"{_printable(value[:limit])}… ({len(value)} characters)"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits, lists in lists in lists
        return f"a huge {type(value).__name__}"
    return text if len(text) <= limit else f"{text[:limit]}…"


def _printable(text: str) -> str:
    # Quoting with repr would double the quotes of names that have some; only what cannot be printed is escaped.
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return f"'{safe}'"
