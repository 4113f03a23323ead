"""The bars: where they are shown, and what they show."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cdmtaskservice.client import progress
from cdmtaskservice.client.progress import Bar, NotebookBar, TerminalBar, new_bar


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_screen(bar_of: Any) -> str:
    """What stands on a terminal after a bar has been used."""
    screen = Screen()
    console = Console(file=screen, force_terminal=True, width=200, color_system=None)
    bar = TerminalBar("Job 1234", console)
    bar_of(bar)
    bar.close()
    bar.close()
    return screen.getvalue()


def test_a_terminal_shows_state_containers_time_and_words():
    def use(bar: Bar) -> None:
        bar.name("job_submitted")
        bar.count(1, 3)
        bar.count(2)
        bar.note("[red]no\x1b[31m room[/red]")

    shown = on_screen(use)
    for words in ("Job 1234", "job_submitted", "2/3", "0:00:0", "[red]no [31m room[/red]"):
        assert words in shown


def test_nothing_is_drawn_after_the_end():
    screen = Screen()
    bar = TerminalBar("Job", Console(file=screen, force_terminal=True, width=200))
    bar.close()
    before = screen.getvalue()
    bar.name("later")
    bar.note("later")
    assert screen.getvalue() == before


@pytest.mark.parametrize(
    ("wanted", "terminal", "expected"),
    [(None, True, TerminalBar), (None, False, Bar), (False, True, Bar), (True, False, TerminalBar)],
)
def test_where_a_bar_is_shown(
    wanted: bool | None, terminal: bool, expected: type[Bar], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stderr", Screen() if terminal else io.StringIO())
    monkeypatch.setattr(progress, "in_notebook", lambda: False)
    bar = new_bar(wanted, "Job")
    assert type(bar) is expected
    bar.name("x")
    bar.count(1, 2)
    bar.note("x")
    bar.close()


@pytest.mark.parametrize("stderr", [None, SimpleNamespace()])
def test_no_standard_error_at_all(stderr: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", stderr)
    assert type(new_bar(None, "Job")) is Bar


class Display:
    """Stands in for IPython's display."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def display(self, shown: dict[str, str], *, raw: bool, display_id: bool) -> "Display":
        assert raw
        assert display_id
        self.shown.append(shown)
        return self

    def update(self, shown: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(shown)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Display:
    display = Display()
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return display


def test_a_notebook_shows_a_bar_of_its_own(notebook: Display, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    bar = new_bar(None, "Job 1234")
    assert isinstance(bar, NotebookBar)
    bar.name("job_submitted")
    bar.count(2, 4)
    bar.note("no <b> room")
    bar.note("no <b> room")
    bar.close()
    bar.close()
    bar.name("later")
    texts = [s["text/plain"] for s in notebook.shown]
    assert len(texts) == 5
    assert "Job 1234 job_submitted |" in texts[-1]
    assert f"|{'█' * 15}{'·' * 15}| 2/4 0:00:0" in texts[-1]
    assert texts[-1].endswith("\nno <b> room")
    assert "no &lt;b&gt; room" in notebook.shown[-1]["text/html"]
    assert new_bar(False, "Job").__class__ is Bar


def test_a_shell_of_ipython_is_no_notebook(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert not progress.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not progress.in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not progress.in_notebook()
