"""Plans that stage reference data, and what they leave in a store of it."""

import json
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cdmtaskservice.executor.remote import refdata
from cdmtaskservice.executor.remote.task import run

from .ranged_store import RangedStore
from .remote_tasks import Plan, Tasks, crc

PIECE = 100_000


def planned(tasks: Tasks, store: RangedStore, data: bytes, name: str = "c/data", **more: Any) -> Plan:
    """The plan to stage `data`, which lies in S3 as b/`name`."""
    path = f"/b/{urllib.parse.quote(name)}"
    store.files[path] = data
    return {
        "root": str(root(tasks)),
        "id": "id-1",
        "file": f"b/{name}",
        "url": f"{store.url}{path}?X-Amz-Signature=secret",
        "size": len(data),
        "crc64nvme": crc(data),
        "unpack": None,
        "connections": 2,
        "piece_size": PIECE,
        "patience": 0.3,
        "max_files": 100,
        "max_bytes": 1 << 24,
        **more,
    }


def root(tasks: Tasks) -> Path:
    return tasks.directory / "site/refdata"


def incoming(tasks: Tasks) -> Path:
    return root(tasks) / ".cts/incoming/id-1"


def left(tasks: Tasks) -> list[str]:
    """What is below the root, but what is always there, and what is staged."""
    always = {".cts", ".cts/incoming", ".cts/manifests"}
    found = {str(p.relative_to(root(tasks))) for p in root(tasks).rglob("*")} - always
    return sorted(p for p in found if not p.startswith("id-1/"))


def manifest(tasks: Tasks) -> list[dict[str, Any]]:
    text = (root(tasks) / ".cts/manifests/id-1.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def progress(tasks: Tasks, name: str = "1") -> dict[str, Any]:
    told: dict[str, Any] = json.loads((tasks.task(name) / "progress.json").read_text())
    return told


def pieces(size: int) -> list[tuple[int, int]]:
    """The ranges that a file of this size is asked for in."""
    return [(n, min(n + PIECE, size) - 1) for n in range(0, size, PIECE)]


def recorded(tasks: Tasks) -> list[tuple[int, int]]:
    """The ranges that are said to be on the disk, in lines that are whole."""
    try:
        lines = (incoming(tasks) / "pieces.jsonl").read_text().split("\n")[1:-1]
    except FileNotFoundError:
        return []
    return [(p["offset"], p["offset"] + p["length"] - 1) for p in map(json.loads, lines)]


def until(what: Callable[[], object]) -> None:
    """Wait for something outside of this process."""
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def told(tasks: Tasks, plan: Plan, name: str = "1") -> dict[str, Any]:
    """The result of staging in this process, which is quicker than to start one."""
    file = tasks.directory / f"plan-{name}.json"
    file.write_text(json.dumps(plan), encoding="utf-8")
    run(str(file), str(tasks.task(name)), refdata.work)
    return tasks.result(name)


def partly_staged(tasks: Tasks, store: RangedStore, plan: Plan, count: int) -> Sequence[tuple[int, int]]:
    """Stage until the first `count` pieces are there. Which they are."""
    store.answer = lambda first, last: (503, {}, b"") if first >= count * PIECE else None
    assert told(tasks, {**plan, "connections": 1, "patience": 0.01}, "part")["again"] == "later"
    store.answer = lambda first, last: None
    store.asked.clear()
    assert recorded(tasks) == pieces(plan["size"])[:count]
    return recorded(tasks)


def forgotten(store: RangedStore, tasks: Tasks) -> Sequence[tuple[int, int]]:
    """What is on the disk; the store lets everything through again, and forgets what it was asked."""
    store.released.set()
    store.room = None
    with store.changed:
        store.generation += 1
        store.asked.clear()
    return recorded(tasks)
