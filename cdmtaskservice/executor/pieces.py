"""A file that comes in pieces, in any order, and goes on where a process that died left it.

DIRECTORY/archive       the file, each piece at its place
DIRECTORY/pieces.jsonl  a line that says of which file, then one for each piece that is there: offset, length, crc

A record is only a hint. It may have outlived the bytes that it speaks of, so what an earlier process has recorded is
read from the disk and compared before it counts.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from .checksum import READ_SIZE, combined, crc64nvme
from .stopping import Stop

ARCHIVE = "archive"
RECORD = "pieces.jsonl"


class Piece(NamedTuple):
    """Bytes of a file that are fetched in one request."""

    offset: int
    length: int


class Pieces:
    """The pieces of the file that `about` tells of, below `directory`.

    recorded: bytes that an earlier process says it has left there.
    """

    def __init__(self, directory: str, about: Mapping[str, object], size: int, piece_size: int) -> None:
        self.size = size
        self.piece_size = piece_size
        self.all = [Piece(offset, min(piece_size, size - offset)) for offset in range(0, size, piece_size)]
        self.path = os.path.join(directory, ARCHIVE)
        self._record_path = os.path.join(directory, RECORD)
        self._recorded = self._read_record(about)
        self.recorded = sum(p.length for p in self._recorded)
        self._there: dict[Piece, int] = {}
        self.changed = threading.Condition()
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._record = self._new_record(about)

    def close(self) -> None:
        """Close the files; they stay where they are."""
        os.close(self.fd)
        os.close(self._record)

    def forget(self) -> None:
        """Remove the files, whose bytes are the wrong ones."""
        os.unlink(self._record_path)
        os.unlink(self.path)

    def find(self, piece: Piece, stop: Stop) -> bool:
        """Whether the piece lies on the disk, as it was recorded. Then it is there."""
        recorded = self._recorded.get(piece)
        if recorded is None:
            return False
        buffer = memoryview(bytearray(min(READ_SIZE, piece.length)))
        crc = done = 0
        while done < piece.length:
            stop.check()
            count = os.preadv(self.fd, [buffer[: piece.length - done]], piece.offset + done)
            if not count:
                return False
            crc = crc64nvme(buffer[:count], crc)
            done += count
        if crc != recorded:
            return False
        self._arrived(piece, crc)
        return True

    def add(self, piece: Piece, crc: int) -> None:
        """The piece has been written to its place."""
        self._append({"offset": piece.offset, "length": piece.length, "crc": crc})
        self._arrived(piece, crc)

    def has(self, offset: int) -> bool:
        """Whether the piece with this byte is there."""
        return self.all[offset // self.piece_size] in self._there

    def crc(self) -> int:
        """The checksum of the whole, when all pieces are there."""
        return combined([(self._there[piece], piece.length) for piece in self.all])

    def _arrived(self, piece: Piece, crc: int) -> None:
        with self.changed:
            self._there[piece] = crc
            self.changed.notify_all()

    def _append(self, line: Mapping[str, object]) -> None:
        data = json.dumps(line).encode() + b"\n"
        with self.changed:
            while data:
                data = data[os.write(self._record, data) :]

    def _read_record(self, about: Mapping[str, object]) -> dict[Piece, int]:
        """What is recorded of these very pieces; of two records of one the later."""
        found: dict[Piece, int] = {}
        expected = set(self.all)
        with suppress(FileNotFoundError), open(self._record_path, "rb") as record:
            if _parsed(next(record, b"")) != about:
                return {}
            for line in record:
                told = _parsed(line)
                if isinstance(told, dict):
                    piece = Piece(told.get("offset", -1), told.get("length", -1))
                    if piece in expected:
                        found[piece] = told.get("crc", -1)
        return found

    def _new_record(self, about: Mapping[str, object]) -> int:
        """Begin the record anew, with what can be believed of the old one: a torn line must not lie below new ones."""
        aside = self._record_path + ".new"
        record = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        lines = [about, *({"offset": p.offset, "length": p.length, "crc": c} for p, c in self._recorded.items())]
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        while data:
            data = data[os.write(record, data) :]
        os.replace(aside, self._record_path)
        return record


class Arriving:
    """The bytes of the file from its begin to its end, each as soon as its piece is there."""

    def __init__(self, pieces: Pieces, stop: Stop) -> None:
        self._pieces = pieces
        self._stop = stop
        self._at = 0
        stop.on_set(self._wake)

    def read(self, size: int) -> bytes:
        """At most `size` bytes, and none at the end of the file. Raises the stop's reason instead of waiting on."""
        pieces = self._pieces
        if self._at == pieces.size:
            return b""
        with pieces.changed:
            while not pieces.has(self._at):
                self._stop.check()
                pieces.changed.wait()
        self._stop.check()
        data = os.pread(pieces.fd, min(size, pieces.piece_size - self._at % pieces.piece_size), self._at)
        if not data:
            raise OSError(f"{pieces.path} was cut short by another process")
        self._at += len(data)
        return data

    def _wake(self) -> None:
        with self._pieces.changed:
            self._pieces.changed.notify_all()


def _parsed(line: bytes) -> object:
    """The JSON of a line; None where it is none, as where a process died while it wrote."""
    try:
        return json.loads(line)
    except ValueError:
        return None
