"""A running service, as commands reach it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from cdmtaskservice.cli.terminal import fail

if TYPE_CHECKING:
    from types import TracebackType

UNREACHABLE = 3
"""The exit code where the service does not answer, which is not the same as that it said no."""

Url = Annotated[str, typer.Option("--url", envvar="CTS_URL", metavar="URL", help="The service.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", envvar="CTS_TOKEN_FILE", metavar="FILE", help="Holds your token."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

_TIMEOUT = 60.0


class Remote:
    """Calls the service. What goes wrong ends the command, with words."""

    def __init__(self, url: str, token_file: Path | None) -> None:
        import httpx

        headers = {}
        if token_file is not None:
            try:
                headers["Authorization"] = f"Bearer {token_file.read_text(encoding='utf-8').strip()}"
            except (OSError, UnicodeError) as exc:
                fail(f"The token file {token_file} cannot be read: {exc}")
        try:
            self._client = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT)
        except (httpx.InvalidURL, UnicodeError) as exc:
            fail(f"{url} is no URL: {exc}")

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def call(self, method: str, path: str, **query: str | bool | None) -> Any:
        """The JSON that the service answers with; None where there is nothing. path: as text, it is quoted here."""
        import httpx

        params = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()}
        try:
            quoted = quote(path, errors="surrogateescape")
            reply = self._client.request(method, quoted, params={k: v for k, v in params.items() if v is not None})
            told = reply.json() if reply.content else None
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            typer.echo(f"{self._client.base_url} does not answer: {type(exc).__name__} {exc}", err=True)
            raise typer.Exit(UNREACHABLE) from None
        except ValueError:
            fail(f"{self._client.base_url} answers {method} {path} with what is no JSON: {reply.text[:200]}")
        if not reply.is_success:
            error = told.get("error", {}) if isinstance(told, dict) else {}
            if reply.status_code == httpx.codes.UNAUTHORIZED and "Authorization" not in self._client.headers:
                fail("This needs your token: name its file with --token-file or CTS_TOKEN_FILE")
            words, request = error.get("message", reply.text[:500]), error.get("request_id", "no ID")
            fail(f"{words} (HTTP {reply.status_code}, request {request})")
        return told
