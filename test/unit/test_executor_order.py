"""The work order: what is believed of it, and what is refused."""

import copy
from typing import Any

import pytest

from cdmtaskservice.executor.order import OrderError, parse_order

ORDER: dict[str, Any] = {
    "job_id": "5e8c6d3a-1",
    "container_number": 0,
    "attempt": 2,
    "token": "secret-token",
    "token_expires": "2030-01-01T00:00:00Z",
    "image": f"host:5000/path@sha256:{'a' * 64}",
    "args": ["--in", "/input_files/a.fa", ""],
    "environment": {"NAME": "secret value"},
    "input_mount_point": "/input_files",
    "output_mount_point": "/output_files",
    "refdata": None,
    "limits": {"cpus": 1, "memory": 1000000000, "runtime": 60.0, "gpus": 0, "pids": 4096},
    "network": False,
    "inputs": [{"file": "b/k", "path": "sub/a.fa", "url": "http://s3/b/k?sig", "size": 8, "crc64nvme": "S8AXmd7A3f8="}],
    "manifest": {"path": ".cts/manifest-0.txt", "content": "x\n"},
    "upload": {"part_size": 67108864, "batch": 500},
    "heartbeat_interval": 15.0,
}


def changed(path: str, value: object) -> dict[str, Any]:
    order = copy.deepcopy(ORDER)
    *steps, last = [int(s) if s.isdigit() else s for s in path.split(".")]
    at: Any = order
    for step in steps:
        at = at[step]
    at[last] = value
    return order


def test_good_order_with_fields_of_later_services() -> None:
    order = parse_order({**ORDER, "later": {"than": "this"}})
    assert order.name == "cts-5e8c6d3a-1-0-2"
    assert order.args == ("--in", "/input_files/a.fa", "")
    assert order.inputs[0].path == "sub/a.fa"
    assert order.manifest is not None
    assert order.refdata is None
    for secret in ("secret-token", "secret value", "?sig"):
        assert secret not in repr(order)


def test_optional_parts() -> None:
    order = parse_order({**ORDER, "manifest": None, "refdata": {"id": "r-1", "mount_point": "/ref"}, "inputs": []})
    assert order.manifest is None
    assert order.silence_limit is None
    assert parse_order({**ORDER, "silence_limit": 60}).silence_limit == 60
    assert parse_order({**ORDER, "silence_limit": None}).silence_limit is None
    assert order.refdata is not None
    assert order.refdata.mount_point == "/ref"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("job_id", "../x"),
        ("job_id", "a b"),
        ("container_number", -1),
        ("container_number", True),
        ("attempt", 0),
        ("token", None),
        ("image", "host/path:latest"),
        ("image", f"--privileged@sha256:{'a' * 64}"),
        ("args", "one"),
        ("args", ["nul\0"]),
        ("environment", []),
        ("environment.NAME", 1),
        ("input_mount_point", "relative"),
        ("input_mount_point", "/"),
        ("output_mount_point", "/a/../b"),
        ("output_mount_point", "/a,readonly"),
        ("limits.memory", 0),
        ("limits.memory", 1.5),
        ("limits.runtime", 0),
        ("limits.cpus", "1"),
        ("inputs", None),
        ("inputs.0.path", "/etc/passwd"),
        ("inputs.0.path", "a/../../b"),
        ("inputs.0.path", "a//b"),
        ("inputs.0.path", ""),
        ("inputs.0.size", -1),
        ("manifest.path", ".."),
        ("refdata", {"id": "..", "mount_point": "/ref"}),
        ("refdata", {"id": "a/b", "mount_point": "/ref"}),
        ("upload.part_size", 0),
        ("heartbeat_interval", 0),
        ("silence_limit", 0),
        ("silence_limit", "60"),
    ],
)
def test_refused_and_named(path: str, value: object) -> None:
    with pytest.raises(OrderError) as error:
        parse_order(changed(path, value))
    assert path.split(".")[0] in str(error.value)


@pytest.mark.parametrize("body", [None, [], "x", {}])
def test_no_order_at_all(body: object) -> None:
    with pytest.raises(OrderError):
        parse_order(body)


def test_two_files_at_one_place() -> None:
    other = {**ORDER["inputs"][0], "file": "b/other"}
    with pytest.raises(OrderError, match=r"b/k and b/other would both be at sub/a\.fa"):
        parse_order({**ORDER, "inputs": [ORDER["inputs"][0], other]})


def test_file_where_a_directory_is_needed() -> None:
    other = {**ORDER["inputs"][0], "file": "b/other", "path": "sub"}
    with pytest.raises(OrderError, match="b/other is a file at sub, where b/k needs a directory"):
        parse_order({**ORDER, "inputs": [ORDER["inputs"][0], other]})
