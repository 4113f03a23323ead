"""CRC64NVME of bytes, streams and files."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cdmtaskservice.s3.checksum import crc64nvme, crc64nvme_of_file, crc64nvme_of_stream, decode, encode

CHECK = 0xAE8B14860A799888
"""The check value of the algorithm's definition, that of the ASCII digits 1 to 9."""


def test_check_value() -> None:
    assert crc64nvme(b"123456789") == base64.b64encode(CHECK.to_bytes(8, "big")).decode()


def test_no_bytes_at_all() -> None:
    assert crc64nvme(b"") == "AAAAAAAAAAA="


async def test_stream_is_summed_over_its_chunks() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"1234", b"", b"56789"):
            yield chunk

    assert await crc64nvme_of_stream(chunks()) == encode(CHECK)


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, b"x" * 3_000_000 + b"tail"),
        (0, 0, b""),
        (0, 5, b"xxxxx"),
        (2_999_999, None, b"xtail"),
        (2_999_999, 3, b"xta"),
        (3_000_003, 100, b"l"),
        (4_000_000, None, b""),
    ],
)
async def test_file_and_its_ranges(tmp_path: Path, offset: int, length: int | None, expected: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 3_000_000 + b"tail")
    assert await crc64nvme_of_file(file, offset, length) == crc64nvme(expected)


async def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await crc64nvme_of_file(tmp_path / "none")


def test_text_and_number_are_inverse() -> None:
    assert decode(encode(CHECK)) == CHECK


@pytest.mark.parametrize("text", ["", "AAAA", "AAAAAAAAAAAAAAAA", "not base64 at"])
def test_text_of_another_length_is_no_checksum(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which of the two faults it is does not matter
        decode(text)
