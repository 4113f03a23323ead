"""`cts s3`: with which keys it asks which store, and what it refuses. What it does there: see test/integration."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import Result

from cdmtaskservice.s3.attempts import DEADLINE
from cdmtaskservice.s3.uploading import send
from test.unit.cli_service import FakeService

CRC = "S8AXmd7A3f8="
NOTHING = {
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def store(service: FakeService) -> FakeService:
    """A store with one file."""
    found = {"Content-Length": "5", "ETag": '"e"', "x-amz-checksum-crc64nvme": CRC}
    service.says("HEAD /bucket/a/k", b"", headers=found)
    return service


def test_keys_that_are_lent_for_a_while_have_a_third_part(store: FakeService) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "lent"}
    done = store.cts("s3", "checksum", "s3://bucket/a/k", AWS_ENDPOINT_URL=store.url, **NOTHING, **keys)
    assert (done.exit_code, done.stdout) == (0, f"bucket/a/k\t5\tcomplete\t{CRC}\n"), done.output
    [asked] = store.asked
    assert asked.headers["x-amz-security-token"] == "lent"
    assert "Credential=AK/" in asked.headers["authorization"]
    assert asked.headers["x-amz-checksum-mode"] == "ENABLED"


def test_the_option_names_the_store(store: FakeService) -> None:
    keys: dict[str, str | None] = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": None}
    words = ["s3", "checksum", "bucket/a/k", "--endpoint", store.url, "--json"]
    done = store.cts(*words, AWS_ENDPOINT_URL="http://elsewhere.example", **NOTHING, **keys)
    assert json.loads(done.stdout) == {"files": [{"file": "bucket/a/k", "size": 5, "crc64nvme": CRC}]}
    assert "x-amz-security-token" not in store.asked[0].headers


KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "s"}


def test_tags_that_may_not_be_read_are_not_lost(service: FakeService) -> None:
    service.says("HEAD /bucket/a/k", b"", headers={"Content-Length": "5", "ETag": '"e"'})
    service.says("GET /bucket/a/k", b"<Error><Code>AccessDenied</Code></Error>", 403)
    done = service.cts("s3", "checksum", "bucket/a/k", "--add", AWS_ENDPOINT_URL=service.url, **NOTHING, **KEYS)
    assert done.exit_code == 1
    assert done.stdout.split("\t")[2] == "error"
    assert "your keys do not let you read its tags (s3:GetObjectTagging)" in done.stdout
    assert service.requests == ["HEAD /bucket/a/k", "GET /bucket/a/k?tagging"]


def _put(service: FakeService, *sources: Path) -> Result:
    words = [str(source) for source in sources]
    return service.cts("s3", "put", *words, "bucket/a/", AWS_ENDPOINT_URL=service.url, **NOTHING, **KEYS)


def _loop(place: Path) -> None:
    (place / "odd").symlink_to(place.parent)


def _socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(place / "odd"))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda place: (place / "odd").symlink_to("nothing"), "is a link that leads nowhere"),
        (lambda place: (place / "odd").symlink_to("odd"), "cannot be read"),
        (_loop, "is a link to a directory that it lies in itself"),
        (lambda place: os.mkfifo(place / "odd"), "is a FIFO"),
        (_socket, "is a socket"),
        (lambda place: (place / "odd").symlink_to("/dev/null"), "is a device"),
    ],
    ids=["nowhere", "itself", "loop", "fifo", "socket", "device"],
)
def test_what_is_no_file_is_named_and_nothing_is_sent(
    make: Callable[[Path], None], told: str, service: FakeService, tmp_path: Path
) -> None:
    (tmp_path / "reads" / "deep").mkdir(parents=True)
    (tmp_path / "reads" / "a").write_bytes(b"x")
    make(tmp_path / "reads" / "deep")
    done = _put(service, tmp_path / "reads")
    assert (done.exit_code, done.stdout, service.asked) == (1, "", [])
    assert f"{tmp_path}/reads/deep/odd" in done.stderr
    assert told in done.stderr


@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_may_not_be_read_is_named_and_nothing_is_sent(
    what: str, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read all, so that a no comes from elsewhere."""
    (tmp_path / "reads" / "deep").mkdir(parents=True)
    (tmp_path / "reads" / "deep" / "a").write_bytes(b"x")
    (tmp_path / "reads" / "z").write_bytes(b"x")
    closed = tmp_path / "reads" / ("deep" if what == "directory" else "z")

    def refusing(real: Any) -> Any:
        def asked(path: Path, *arguments: Any, **more: Any) -> Any:
            if path == closed:
                raise PermissionError(errno.EACCES, "Permission denied")
            return real(path, *arguments, **more)

        return asked

    for name in ("iterdir", "open"):
        monkeypatch.setattr(Path, name, refusing(getattr(Path, name)))
    done = _put(service, tmp_path / "reads")
    assert (done.exit_code, done.stdout, service.asked) == (1, "", [])
    assert done.stderr == f"{closed} cannot be read: Permission denied\n"


async def test_how_slow_a_transfer_may_be_is_the_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: list[float] = []

    class Slow:
        slowest = 10.0

        async def call(self, operation: str, path: str, deadline: float, /, **_: Any) -> dict[str, Any]:
            deadlines.append(deadline)
            return {}

    await send(Slow(), "put_object", "b/k", b"x" * 100, CRC)  # type: ignore[arg-type]
    assert deadlines == [DEADLINE + 10]
