"""Templates, and the files that pages refer to.

The files' address has a digest of all of them in it, so that browsers may keep them for ever and never have old ones.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cdmtaskservice.api import views
from cdmtaskservice.web import words

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Asset:
    """A file of the pages."""

    content: bytes
    media_type: str


class Assets:
    """Style sheet, scripts and pictures, read once."""

    def __init__(self, directory: Path = _HERE / "static") -> None:
        files = sorted(path for path in directory.iterdir() if path.is_file())
        self._files = {path.name: Asset(path.read_bytes(), _media_type(path.name)) for path in files}
        digest = hashlib.sha256()
        for name, asset in self._files.items():
            digest.update(f"{name}\0{len(asset.content)}\0".encode() + asset.content)
        self.version = digest.hexdigest()[:16]

    def get(self, name: str) -> Asset | None:
        """The file of that name."""
        return self._files.get(name)


class Templates:
    """Makes pages. Everything that is put into a template is escaped for HTML."""

    def __init__(self, assets: Assets) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals.update(
            assets=assets.version,
            look=words.look,
            ago=words.ago,
            waiting_words=views.waiting,
            count=words.count,
            linked=linked,
        )
        self._environment.filters.update(
            size=words.size,
            duration=words.duration,
            moment=words.moment,
            number=words.number,
            hours=words.hours,
            segment=segment,
            pretty=_pretty,
            inline=_inline,
        )

    def render(self, template: str, **values: Any) -> str:
        """A page as text, in which everything can be sent: what UTF-8 cannot hold is replaced."""
        text = self._environment.get_template(template).render(**values)
        return text.encode("utf-8", "replace").decode()


def segment(text: object) -> str:
    """A text as one segment of a path, or a value in a query."""
    return urllib.parse.quote(str(text), safe="")


def linked(path: str, query: Mapping[str, object]) -> str:
    """A path with a query of what is set."""
    given = {name: value for name, value in query.items() if value not in (None, "", False)}
    return f"{path}?{urllib.parse.urlencode(given)}" if given else path


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _inline(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _media_type(name: str) -> str:
    if name.endswith(".js"):
        return "text/javascript; charset=utf-8"
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed
