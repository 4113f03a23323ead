"""The bodies that executors and administrators send: limits, and what is done about words that are too long."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from cdmtaskservice.domain.images import ImageApproval
from cdmtaskservice.domain.worker_calls import (
    MAX_WORDS,
    ContainerUpdate,
    Heartbeat,
    InputsRequest,
    UploadsComplete,
    UploadsRequest,
    WorkRequest,
)

CRC = "S8AXmd7A3f8="
TIME = "2030-01-01T02:00:00+02:00"
FILE = {"path": "sub/out.txt", "size": 8, "crc64nvme": CRC, "parts": None}
LOG = {"stream": "stdout", "size": 0, "crc64nvme": "AAAAAAAAAAA="}
DONE = {"path": "sub/out.txt", "crc64nvme": CRC, "upload_id": "u", "etags": ['"e"']}
OUTPUT = {"file": "bucket/key", "crc64nvme": CRC}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (ContainerUpdate, {"time": TIME}),
        (ContainerUpdate, {"time": TIME, "exit_code": 137, "usage": {"cpu_seconds": 1.5, "max_memory": 1048576}}),
        (ContainerUpdate, {"time": TIME, "outputs": [OUTPUT] * 10_000}),
        (ContainerUpdate, {"time": TIME, "error": "a", "admin_error": None, "traceback": "b\nc"}),
        (WorkRequest, {"claim": "0123456789abcdef" * 2}),
        (WorkRequest, {"claim": "0123456789abcdef" * 2, "attempt": 7}),
        (Heartbeat, {"phase": "downloading", "bytes_done": 0, "bytes_total": 8, "ending": None}),
        (Heartbeat, {"phase": "running", "ending": "SIGTERM"}),
        (InputsRequest, {"files": ["bucket/key"]}),
        (UploadsRequest, {"files": [FILE], "logs": [LOG, {**LOG, "stream": "stderr"}]}),
        (UploadsRequest, {"files": [{**FILE, "parts": [{"size": 8, "crc64nvme": CRC}] * 10_000}]}),
        (UploadsRequest, {"files": [], "logs": []}),
        (UploadsComplete, {"files": [DONE], "logs": [{**DONE, "stream": "stderr"} | {"path": None}][:0]}),
        (ImageApproval, {}),
        (ImageApproval, {"urls": ["https://example.org/a?b=c#d"] * 20, "usage_notes": "n" * 10_000}),
    ],
)
def test_good_bodies(model: type[BaseModel], body: dict[str, Any]) -> None:
    model.model_validate(body)


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (ContainerUpdate, {}),
        (ContainerUpdate, {"time": "2030-01-01T02:00:00"}),
        (ContainerUpdate, {"time": TIME, "surprise": 1}),
        (ContainerUpdate, {"time": TIME, "exit_code": 2**32}),
        (ContainerUpdate, {"time": TIME, "outputs": [OUTPUT] * 10_001}),
        (ContainerUpdate, {"time": TIME, "outputs": [{**OUTPUT, "file": "bucket/../key"}]}),
        (ContainerUpdate, {"time": TIME, "outputs": [{**OUTPUT, "crc64nvme": "S8AXmd7A3f8=\n"}]}),
        (ContainerUpdate, {"time": TIME, "usage": {"cpu_seconds": float("nan")}}),
        (ContainerUpdate, {"time": TIME, "usage": {"max_memory": 2**63}}),
        (ContainerUpdate, {"time": TIME, "error": 1}),
        (WorkRequest, {}),
        (WorkRequest, {"claim": "0" * 31}),
        (WorkRequest, {"claim": "0" * 32 + "\n"}),
        (WorkRequest, {"claim": "G" * 32}),
        (WorkRequest, {"claim": "0" * 32, "attempt": 0}),
        (Heartbeat, {"phase": "sleeping"}),
        (Heartbeat, {"phase": "running", "bytes_done": -1}),
        (InputsRequest, {"files": []}),
        (InputsRequest, {"files": ["nokey"]}),
        (InputsRequest, {"files": ["bucket/key"] * 10_001}),
        (UploadsRequest, {"files": [{**FILE, "path": "../x"}]}),
        (UploadsRequest, {"files": [{**FILE, "path": "/x"}]}),
        (UploadsRequest, {"files": [{**FILE, "path": "\ud800"}]}),
        (UploadsRequest, {"files": [{**FILE, "path": "x" * 1025}]}),
        (UploadsRequest, {"files": [{**FILE, "size": -1}]}),
        (UploadsRequest, {"files": [{**FILE, "parts": []}]}),
        (UploadsRequest, {"files": [{**FILE, "parts": [{"size": 8, "crc64nvme": CRC}] * 10_001}]}),
        (UploadsRequest, {"logs": [LOG] * 3}),
        (UploadsRequest, {"logs": [{**LOG, "stream": "stdin"}]}),
        (UploadsComplete, {"files": [{**DONE, "etags": []}]}),
        (UploadsComplete, {"files": [{**DONE, "upload_id": "u\r\nx: y"}]}),
        (ImageApproval, {"urls": ["https://example.org"] * 21}),
        (ImageApproval, {"urls": ["ftp://example.org"]}),
        (ImageApproval, {"urls": ["javascript:alert(1)"]}),
        (ImageApproval, {"urls": [" https://example.org"]}),
        (ImageApproval, {"urls": ["https://example.org/" + "x" * 2083]}),
        (ImageApproval, {"usage_notes": "n" * 10_001}),
        (ImageApproval, {"usage_notes": "a\0b"}),
        (ImageApproval, {"usage_notes": "\ud800"}),
        (ImageApproval, {"from_image": ""}),
        (ImageApproval, {"from_image": "x" * 1001}),
        (ImageApproval, {"from_image": "\ud800"}),
    ],
)
def test_bad_bodies(model: type[BaseModel], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(body)


def test_urls_stay_as_they_are() -> None:
    assert ImageApproval.model_validate({"urls": ["HTTPS://Example.org"]}).urls == ("HTTPS://Example.org",)


def test_time_becomes_utc() -> None:
    assert ContainerUpdate.model_validate({"time": TIME}).time.isoformat() == "2030-01-01T00:00:00+00:00"


@pytest.mark.parametrize("field", ["error", "admin_error", "traceback"])
def test_words_about_a_failure_are_cut_and_never_refused(field: str) -> None:
    text = "begin" + "x" * 10**6 + "end"
    kept = getattr(ContainerUpdate.model_validate({"time": TIME, field: text}), field)
    assert len(kept) <= MAX_WORDS
    assert kept.startswith("begin")
    assert kept.endswith("end")
    assert "cut here" in kept
    odd = getattr(ContainerUpdate.model_validate({"time": TIME, field: "a\ud800\0b"}), field)
    assert odd == "a?\N{REPLACEMENT CHARACTER}b"
    assert len(Heartbeat.model_validate({"phase": "running", "ending": text}).ending or "") <= MAX_WORDS
