"""`cts s3 checksum`: with which keys it asks which store. What it does there: test/integration/test_cli_s3.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

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


async def test_how_slow_a_transfer_may_be_is_the_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: list[float] = []

    class Slow:
        slowest = 10.0

        async def call(self, operation: str, path: str, deadline: float, /, **_: Any) -> dict[str, Any]:
            deadlines.append(deadline)
            return {}

    await send(Slow(), "put_object", "b/k", b"x" * 100, CRC)  # type: ignore[arg-type]
    assert deadlines == [DEADLINE + 10]
