"""Templates of TOML files, filled so that no value can ever change the file's structure.

Values never reach the text while Jinja renders it. Each expression leaves a marker; then the text is read as TOML reads
it, and every marker is replaced in the way that its place asks for: a quoted string where a value is expected, escaped
characters inside "…" and \"\"\"…\"\"\", and an error in a place that cannot hold any value safely.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from jinja2 import ChainableUndefined, TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True)
class RenderedTemplate:
    """A filled template.

    text: TOML. A variable that was used and is not set left a token in its place.
    missing: those variables' names by their token.
    lines: the first line, from 1, of the template that names a variable.
    faults: what is wrong with the template itself, in words without values.
    """

    text: str
    missing: Mapping[str, str]
    lines: Mapping[str, int]
    faults: Sequence[str]


def render_template(template: str, variables: Mapping[str, str]) -> RenderedTemplate:
    """Fill a template with `variables`, the only names that it can see. Never raises for what a template holds."""
    # Digits survive every change of case that a filter could make, and nobody can guess the marks.
    nonce = str(10**30 + secrets.randbelow(10**30))
    values: list[object] = []
    missing: dict[str, str] = {}

    def token_of(name: str) -> str:
        for token, known in missing.items():
            if known == name:
                return token
        token = f"{nonce}-{len(missing)}-"
        missing[token] = name
        return token

    def hold(value: object) -> str:
        values.append(str(value) if isinstance(value, Undefined) else value)
        return f"\x02{nonce}:{len(values) - 1}\x03"

    env = ImmutableSandboxedEnvironment(
        finalize=hold, undefined=_recording_undefined(token_of), keep_trailing_newline=True
    )
    env.globals.clear()
    lines: dict[str, int] = {}
    try:
        for node in env.parse(template).find_all(nodes.Name):
            lines.setdefault(node.name, node.lineno)
        marked = env.from_string(template).render(variables)
    except TemplateSyntaxError as exc:
        return RenderedTemplate("", missing, lines, [f"line {exc.lineno}: {exc.message}"])
    except Exception as exc:
        # A template can raise anything. The text of an arbitrary exception may quote a value, which may be secret.
        reason = str(exc) if isinstance(exc, TemplateError) else type(exc).__name__
        return RenderedTemplate("", missing, lines, [f"an expression cannot be worked out: {reason}"])
    filler = _Filler(nonce, values)
    return RenderedTemplate(filler.fill(marked), missing, lines, filler.faults)


def to_toml(data: Mapping[str, object]) -> str:
    """Write tables, lists, strings, numbers and booleans as TOML."""
    return "\n".join(_table_lines(data, ())) + "\n"


def _recording_undefined(token_of: Callable[[str], str]) -> type[Undefined]:
    """An undefined that notes its use and goes on, so that all missing variables are found in one go."""

    class Missing(ChainableUndefined):
        __slots__ = ()

        def __str__(self) -> str:
            return token_of(self._undefined_name or "?")

        def __bool__(self) -> bool:
            token_of(self._undefined_name or "?")
            return False

        def __len__(self) -> int:
            return int(bool(self))

        def __iter__(self) -> Iterator[object]:
            return iter((self,) if self else ())

        def __eq__(self, other: object) -> bool:
            return bool(self)

        __hash__ = Undefined.__hash__

        def __call__(self, *args: object, **kwargs: object) -> Missing:  # type: ignore[override]
            return self

    return Missing


class _Place(Enum):
    """Where in a TOML text a character stands."""

    BARE = ""
    COMMENT = "#"
    BASIC = '"'
    LITERAL = "'"
    LONG_BASIC = '"""'
    LONG_LITERAL = "'''"


class _Filler:
    """Replaces markers in a text, knowing where in TOML each stands."""

    def __init__(self, nonce: str, values: Sequence[object]) -> None:
        self.faults: list[str] = []
        self._values = values
        marker = rf"\x02{nonce}:(?P<index>\d+)\x03"
        self._marker = re.compile(marker)
        self._piece = re.compile(
            rf"{marker}|(?P<escape>\\[^\x02\n])|(?P<quote>\"{{3,5}}|'{{3,5}}|\"|')|(?P<char>.)", re.DOTALL
        )

    def fill(self, marked: str) -> str:
        """The text with every marker replaced; what could not be replaced is in `faults`."""
        out: list[str] = []
        place, position, line = _Place.BARE, 0, 1
        while position < len(marked):
            piece = self._piece.match(marked, position)
            # The last alternative matches any character.
            assert piece is not None
            text, end = piece.group(), piece.end()
            if piece["index"] is not None:
                before, after = marked[position - 1 : position], marked[end : end + 1]
                out.append(self._value_at(place, int(piece["index"]), before, after, line))
            elif piece["quote"] is not None:
                place, text = _after_quote(place, text)
                end = position + len(text)
                out.append(text)
            elif piece["escape"] is not None and place not in {_Place.BASIC, _Place.LONG_BASIC}:
                # A backslash is only special inside basic strings; elsewhere what follows it is read by itself.
                end, text = position + 1, text[0]
                out.append(text)
            else:
                if text == "#" and place is _Place.BARE:
                    place = _Place.COMMENT
                elif text == "\n" and place not in {_Place.LONG_BASIC, _Place.LONG_LITERAL}:
                    place = _Place.BARE
                out.append(text)
            line += marked.count("\n", position, end)
            position = end
        return "".join(out)

    def _value_at(self, place: _Place, index: int, before: str, after: str, line: int) -> str:
        value = self._values[index]
        if isinstance(value, str):
            value = self._unmarked(value)
        if place is _Place.BARE:
            if before.strip(" \t\r\n=[,{") or after.strip(" \t\r\n],}#"):
                return self._fault(line, "stands beside other text; put both between one pair of double quotes")
            written = _literal(value)
            return written if written is not None else self._fault(line, "gives no string, number, bool or list")
        if place in {_Place.LITERAL, _Place.LONG_LITERAL}:
            return self._fault(line, "stands between single quotes, which know no escapes; use double quotes")
        if isinstance(value, bool):
            value = str(value).lower()
        if not isinstance(value, (str, int, float)):
            return self._fault(line, "gives no string, number or bool, which is all that can stand in a string")
        if before == "\\" and place is not _Place.COMMENT:
            return self._fault(line, "follows a backslash")
        escaped = _escaped(str(value))
        if place is _Place.LONG_BASIC and escaped.startswith(" "):
            # TOML drops blanks after a backslash at a line's end, and these are data.
            escaped = "\\u0020" + escaped[1:]
        return escaped

    def _unmarked(self, value: str) -> str:
        """A value that was caught from the output, as by `{% set %}…{% endset %}`, holds markers itself."""
        return self._marker.sub(lambda m: self._unmarked(str(self._values[int(m["index"])])), value)

    def _fault(self, line: int, what: str) -> str:
        self.faults.append(f"line {line}: an expression {what}")
        return '""'


def _after_quote(place: _Place, quotes: str) -> tuple[_Place, str]:
    """Where the text goes on after some equal quotes, and how many of them were read."""
    one, three = quotes[0], quotes[0] * 3
    if place is _Place.BARE:
        # Three open a long string; the fourth and fifth are its first characters.
        return (_Place(three), three) if len(quotes) >= 3 else (_Place(one), one)
    if place.value == one:
        return _Place.BARE, one
    if place.value == three and len(quotes) >= 3:
        # Up to two quotes may stand before the three that close a long string.
        return _Place.BARE, quotes
    return place, quotes


def _escaped(text: str) -> str:
    return "".join(_SHORT_ESCAPES.get(c) or (f"\\u{ord(c):04X}" if c < " " or c == "\x7f" else c) for c in text)


def _literal(value: object) -> str | None:
    """The value in TOML, or None for what TOML cannot hold."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{_escaped(value)}"'
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        items = [_literal(item) for item in value]
        return None if None in items else "[" + ", ".join(i for i in items if i is not None) + "]"
    if isinstance(value, Mapping):
        pairs = [(_key(str(k)), _literal(v)) for k, v in value.items()]
        return None if any(v is None for _, v in pairs) else "{" + ", ".join(f"{k} = {v}" for k, v in pairs) + "}"
    return None


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{_escaped(name)}"'


def _table_lines(table: Mapping[str, object], path: tuple[str, ...]) -> Iterator[str]:
    inner: list[tuple[str, object]] = []
    for name, value in table.items():
        if isinstance(value, Mapping) or _is_list_of_tables(value):
            inner.append((name, value))
        else:
            # Dates and times are all that TOML can give beyond these, and TOML writes them as ISO 8601.
            yield f"{_key(name)} = {_literal(value) or str(value)}"
    for name, value in inner:
        heading = ".".join(_key(part) for part in (*path, name))
        if isinstance(value, Mapping):
            yield f"\n[{heading}]"
            yield from _table_lines(value, (*path, name))
        elif isinstance(value, Sequence):
            for row in value:
                yield f"\n[[{heading}]]"
                yield from _table_lines(row, (*path, name))


def _is_list_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)
