"""JSON bodies, written as fast as can be and never refused for what stands in them."""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticSerializationError, to_json
from starlette.responses import Response


class JsonResponse(Response):
    """A body of JSON. Times come out as ISO 8601 with `Z`, enums as their values, NaN and infinities as null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body; content that JSON cannot hold is shown as text."""
        return dump(content)


def dump(content: Any) -> bytes:
    """`content` as JSON."""
    try:
        return to_json(content, inf_nan_mode="null", fallback=str)
    except (PydanticSerializationError, UnicodeError):
        # Unpaired surrogates, which a request can carry in escaped form and UTF-8 cannot: some message quotes one.
        return to_json(_encodable(content), inf_nan_mode="null", fallback=str)


def no_content() -> Response:
    """204, without a body."""
    return Response(status_code=204)


def _encodable(content: Any) -> Any:
    match content:
        case str():
            return content.encode("utf-8", "replace").decode()
        case dict():
            return {_encodable(key): _encodable(value) for key, value in content.items()}
        case list() | tuple():
            return [_encodable(value) for value in content]
    return content
