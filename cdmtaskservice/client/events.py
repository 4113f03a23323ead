"""What the service tells of a job while it goes on: server-sent events. No I/O.

Source of the form: HTML Living Standard, 9.2 Server-sent events.
"""

from __future__ import annotations

import codecs
import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cdmtaskservice.client.errors import UnexpectedReply
from cdmtaskservice.client.models import TERMINAL_STATES
from cdmtaskservice.client.reading import Model


@dataclass(frozen=True, kw_only=True)
class Event(Model):
    """Something that happened to a job. kind: the event's name; a kind that this client does not know is just this."""

    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class StateEvent(Event):
    """The job has come to a state. number: of the transition, from 0."""

    state: str
    time: datetime.datetime
    number: int = -1


@dataclass(frozen=True, kw_only=True)
class ContainersEvent(Event):
    """How many containers are in each state. exit_codes: how many have one, where the service says so."""

    counts: Mapping[str, int]
    exit_codes: int | None = None

    @property
    def total(self) -> int:
        """The number of containers."""
        return sum(self.counts.values())

    @property
    def over(self) -> int:
        """The number of those that are over."""
        return sum(n for state, n in self.counts.items() if state in TERMINAL_STATES)


@dataclass(frozen=True, kw_only=True)
class WaitingEvent(Event):
    """Something holds the job up, in words, or, None, nothing does any more."""

    waiting: str | None = None


@dataclass(frozen=True, kw_only=True)
class EndEvent(Event):
    """The job is over, and nothing follows."""

    state: str


_KINDS: Mapping[str, type[Event]] = {
    "state": StateEvent,
    "containers": ContainersEvent,
    "waiting": WaitingEvent,
    "end": EndEvent,
}
COMMENT = ":"
"""The name under which the parser tells of a comment, by which the service shows that it lives."""

_NUMBER = re.compile(r"[0-9]{1,9}")
_Utf8 = codecs.getincrementaldecoder("utf-8")
_MAX_EVENT = 1 << 20
"""Characters. None of the service's is nearly as large."""


@dataclass(frozen=True)
class RawEvent:
    """An event as it came."""

    name: str
    data: str
    id: str


@dataclass
class EventParser:
    """Makes events of bytes, however they were cut on their way."""

    last_id: str = ""
    _decoder: codecs.IncrementalDecoder = field(default_factory=lambda: _Utf8(errors="replace"))
    _rest: str = ""
    _name: str = ""
    _data: list[str] = field(default_factory=list)
    _begun: bool = False

    def feed(self, chunk: bytes) -> list[RawEvent]:
        """The events that are complete now. Raises UnexpectedReply where one never ends."""
        text = self._decoder.decode(chunk)
        if text and not self._begun:
            self._begun, text = True, text.removeprefix("\ufeff")
        text = self._rest + text
        # A \r at the end may be the first half of a \r\n.
        held = text.endswith("\r")
        lines = (text[:-1] if held else text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop() + ("\r" if held else "")
        if len(self._rest) + sum(map(len, self._data)) > _MAX_EVENT:
            raise UnexpectedReply("The service has sent an event that does not end")
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: str) -> RawEvent | None:
        if not line:
            event = RawEvent(self._name or "message", "\n".join(self._data), self.last_id) if self._data else None
            self._name, self._data = "", []
            return event
        name, _, value = line.partition(":")
        if not name:
            return RawEvent(COMMENT, "", self.last_id)
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self.last_id = value
        return None


def read_event(raw: RawEvent) -> Event:
    """The event of what came. Raises UnexpectedReply where it is not what it must be."""
    try:
        data: Any = json.loads(raw.data)
    except (ValueError, RecursionError):
        raise UnexpectedReply(f"The service has sent an event {raw.name[:50]!r} that cannot be read") from None
    kind = _KINDS.get(raw.name, Event)
    extra: dict[str, Any] = {"kind": raw.name}
    if kind is StateEvent:
        extra["number"] = int(raw.id) if _NUMBER.fullmatch(raw.id) else -1
    return kind.read({**data, **extra} if isinstance(data, dict) else extra)
