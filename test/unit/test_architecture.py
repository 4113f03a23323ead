"""Which room may import which: the tables of docs/architecture.md, held against every import in the code."""

import ast
import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGE = REPO / "cdmtaskservice"
PAGE = (REPO / "docs/architecture.md").read_text(encoding="utf-8")
MODULES = sorted(PACKAGE.rglob("*.py"))
IMPURE = frozenset({"asyncio", "os", "random", "secrets", "socket", "subprocess", "threading", "time", "uuid"})


def table(name: str) -> list[list[str]]:
    """The rows of the table under the mark `checked: name`."""
    _, mark, rest = PAGE.partition(f"<!-- checked: {name} -->\n")
    assert mark, f"there is no table {name}"
    lines = list(itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines()))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def rules() -> dict[str, set[str] | None]:
    """By room what it may import; None for everything."""
    found: dict[str, set[str] | None] = {}
    for room, _, allowed in table("rooms"):
        words = {w.strip() for w in allowed.split(",")}
        found[room.strip("`")] = None if words == {"everything"} else words - {"nothing"}
    return found


def homes() -> dict[str, set[str]]:
    """By library the rooms that may import it."""
    return {
        library: {r.strip() for r in rooms.split(",")}
        for libraries, rooms in table("libraries")
        for library in re.findall(r"`(\w+)`", libraries)
    }


def room_of(module: Path) -> str:
    """The room that a module belongs to: a package, or a module of its own."""
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def imports(module: Path) -> tuple[tuple[int, str], ...]:
    """(line, full name) of everything that a module imports, inside of functions too."""
    return tuple(_imports(module))


def _imports(module: Path) -> Iterator[tuple[int, str]]:
    parts = module.relative_to(REPO).with_suffix("").parts
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = [*parts[: -node.level]] if node.level else []
            name = ".".join([*base, *(node.module.split(".") if node.module else ())])
            for alias in node.names:
                yield node.lineno, f"{name}.{alias.name}"


def ours(module: Path) -> Iterator[tuple[int, str]]:
    """(line, room) of what a module imports from other rooms."""
    for line, name in imports(module):
        if name.startswith("cdmtaskservice."):
            room = name.split(".")[1]
            # `import cdmtaskservice` alone finds where the package lies.
            if room != room_of(module):
                yield line, room


def test_every_room_is_in_the_table():
    assert {room_of(m) for m in MODULES} - {"__init__"} == set(rules())


@pytest.mark.parametrize("room", rules())
def test_rooms_import_only_what_they_may(room: str):
    allowed = rules()[room]
    wrong = [
        f"{module.relative_to(REPO)}:{line} imports {other}"
        for module in MODULES
        if room_of(module) == room and allowed is not None
        for line, other in ours(module)
        if other not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("room", rules())
def test_the_table_allows_nothing_that_it_need_not(room: str):
    """What the table allows must lie below: no two rooms may import each other."""
    for other in rules()[room] or ():
        assert other in rules()
        beyond = rules()[other]
        assert beyond is not None
        assert room not in beyond


@pytest.mark.parametrize("library", homes())
def test_libraries_stay_at_home(library: str):
    wrong = [
        f"{module.relative_to(REPO)}:{line}"
        for module in MODULES
        for line, name in imports(module)
        if name.split(".")[0] == library and room_of(module) not in homes()[library]
    ]
    assert wrong == []


def test_the_domain_is_pure():
    wrong = [
        f"{module.relative_to(REPO)}:{line} imports {name}"
        for module in (PACKAGE / "domain").rglob("*.py")
        for line, name in imports(module)
        if name.split(".")[0] in IMPURE
    ]
    assert wrong == []
    calls = re.compile(r"\.now\(|\.utcnow\(|\bopen\(")
    assert [m.name for m in (PACKAGE / "domain").rglob("*.py") if calls.search(m.read_text(encoding="utf-8"))] == []


def test_the_executor_needs_nothing_but_the_standard_library():
    import sys

    known = sys.stdlib_module_names | {"awscrt", "_awscrt", "cdmtaskservice"}
    wrong = [
        f"{module.relative_to(REPO)}:{line} imports {name}"
        for module in (PACKAGE / "executor").rglob("*.py")
        for line, name in imports(module)
        if name.split(".")[0] not in known
    ]
    assert wrong == []


def test_settings_are_read_where_parts_are_put_together():
    readers = {room_of(m) for m in MODULES for _, room in ours(m) if room == "settings"}
    assert readers <= {"wiring", "cli"}


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_modules_hold_one_idea(module: Path):
    """A module that grows past 500 lines holds two."""
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 500
    assert module.stem not in {"utils", "common", "helpers", "misc"}
