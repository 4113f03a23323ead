"""Bars that show how far something is: in terminals with rich, in notebooks with the notebook's own display.

None of the libraries is imported before a bar is shown.
"""

from __future__ import annotations

import html
import sys
import threading
import time
from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any

_WIDTH = 30
"""Characters of a notebook's bar."""


class Bar:
    """A bar that shows nothing, and base of the others. May be called by several threads."""

    def name(self, what: str) -> None:
        """What goes on, such as a job's state."""

    def count(self, done: int, total: int | None = None) -> None:
        """How many are done, and of how many where that is to change."""

    def note(self, text: str | None) -> None:
        """Words about it, such as why it does not go on."""

    def close(self) -> None:
        """Leave it as it is. More than once does no harm."""


def new_bar(wanted: bool | None, title: str) -> Bar:
    """A bar where it can be seen, or as wanted. title: what it is about."""
    notebook = in_notebook()
    if wanted is False or (wanted is None and not notebook and not _on_terminal()):
        return Bar()
    return NotebookBar(title) if notebook else TerminalBar(title)


def in_notebook() -> bool:
    """Whether a notebook shows what this process displays."""
    # A notebook's kernel has all of IPython in memory; nothing is imported to find out.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def _on_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


class _Drawn(Bar, ABC):
    def __init__(self, title: str) -> None:
        self._lock = threading.Lock()
        self._title = title
        self._what = ""
        self._done = 0
        self._total: int | None = None
        self._note: str | None = None
        self._closed = False

    def name(self, what: str) -> None:
        self._set(_what=what)

    def count(self, done: int, total: int | None = None) -> None:
        self._set(_done=done, **({} if total is None else {"_total": total}))

    def note(self, text: str | None) -> None:
        self._set(_note=text)

    def _set(self, **values: Any) -> None:
        with self._lock:
            if not self._closed and any(getattr(self, name) != value for name, value in values.items()):
                self.__dict__.update(values)
                self._draw()

    @abstractmethod
    def _draw(self) -> None: ...


class TerminalBar(_Drawn):
    """On standard error, by rich. console: another one of rich's, for tests."""

    def __init__(self, title: str, console: Any = None) -> None:
        super().__init__(title)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        # What the service says may have brackets, which are no markup.
        text = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("title", "what", "note")]
        self._progress = Progress(
            SpinnerColumn(),
            text[0],
            text[1],
            BarColumn(_WIDTH),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            text[2],
            console=console or Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=None, title=title, what="", note="")
        self._progress.start()

    def _draw(self) -> None:
        note = _line(self._note)
        self._progress.update(self._task, completed=self._done, total=self._total, what=self._what, note=note)

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._progress.stop()


class NotebookBar(_Drawn):
    """An output of the notebook that is drawn anew with each change."""

    def __init__(self, title: str) -> None:
        super().__init__(title)
        self._begin = time.monotonic()
        self._handle: Any = None
        self._draw()

    def _draw(self) -> None:
        # What notebooks run in; it is none of our dependencies.
        display = import_module("IPython.display").display
        text = self.text()
        shown = {"text/plain": text, "text/html": f"<pre>{html.escape(text)}</pre>"}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def text(self) -> str:
        """The bar in characters."""
        seconds = int(time.monotonic() - self._begin)
        elapsed = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        full = _WIDTH * min(self._done, self._total) // self._total if self._total else 0
        counted = f"{self._done}/{'?' if self._total is None else self._total}"
        note = f"\n{_line(self._note)}" if self._note else ""
        return f"{self._title} {self._what} |{'█' * full}{'·' * (_WIDTH - full)}| {counted} {elapsed}{note}"

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._draw()
                self._closed = True


def _line(text: str | None) -> str:
    return "".join(c if c.isprintable() else " " for c in text or "")
