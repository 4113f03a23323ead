"""Reference data: how fast it comes from S3 to a directory, beside `curl`, and is unpacked, beside `tar`."""

from __future__ import annotations

import asyncio
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Effort, Figure, median
from benchmarks.stage import House, Stage
from cdmtaskservice.embedded.service import BUCKET
from cdmtaskservice.s3.model import S3Object

_PIECE = 16 << 20
_SETTINGS = {"KBCTS_LOCAL_STOP_WITH_SERVICE": "true", "KBCTS_REFDATA__POLL_INTERVAL": "0.2"}
_PATIENCE = 600.0


async def staging(stage: Stage, effort: Effort) -> list[Figure]:
    """A task of staging against `curl` of the same file, the same with unpacking against `tar`, and all of it through
    the service."""
    place = stage.stack.root / "staging"
    place.mkdir()
    figures = []
    try:
        archive = await asyncio.to_thread(_archive, place / "db.tar.gz", effort.times(300, 100))
        found = await stage.s3.upload_file(f"{BUCKET}/ref/db.tar.gz", archive)
        figures += await _against_others(stage, effort, place, archive, found)
        async with stage.house(_SETTINGS, real_workers=True) as house:
            seconds = await _through_service(house, found)
        figures.append(
            Figure("staging.service", "registered → complete, unpacked", _rate(found.size, seconds), "MB/s", "more")
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return figures


async def _against_others(
    stage: Stage, effort: Effort, place: Path, archive: Path, found: S3Object
) -> Sequence[Figure]:
    url = stage.s3.presign_get(found.path, 3600)
    times: dict[str, list[float]] = {"curl": [], "staged": [], "tar": [], "unpacked": []}
    for number in range(effort.times(5, 2)):
        copy, tree = place / "copy", place / "tree"
        times["curl"].append(await _run("curl", "--silent", "--fail", "--output", str(copy), url))
        times["staged"].append(await _stage(place, f"plain-{number}", found, url, unpack=None))
        tree.mkdir()
        times["tar"].append(await _run("tar", "-xzf", str(archive), "-C", str(tree)))
        times["unpacked"].append(await _stage(place, f"unpacked-{number}", found, url, unpack="tar.gz"))
        copy.unlink()
        shutil.rmtree(tree)
    curl, staged, tar, unpacked = (median(times[name]) for name in ("curl", "staged", "tar", "unpacked"))
    size = f"{found.size / 1e6:.0f} MB"
    return [
        Figure(
            "staging.curl", f"curl of {size}", _rate(found.size, curl), "MB/s", "more", note="writes, checks nothing"
        ),
        Figure(
            "staging.plain",
            "staged, not unpacked",
            _rate(found.size, staged),
            "MB/s",
            "more",
            note="verified, on disk for good, with a manifest; the start of its process included",
        ),
        Figure("staging.plain_ratio", "staged ÷ curl", curl / staged, "×", "more"),
        Figure("staging.tar", f"tar -xzf of {size} on disk", _rate(found.size, tar), "MB/s", "more"),
        Figure(
            "staging.unpacked",
            "staged and unpacked",
            _rate(found.size, unpacked),
            "MB/s",
            "more",
            note="the transfer included, and a checksum of every file",
        ),
        Figure("staging.unpacked_ratio", "staged and unpacked ÷ tar", tar / unpacked, "×", "more"),
        Figure(
            "staging.sum_ratio",
            "staged and unpacked ÷ curl, then tar",
            (curl + tar) / unpacked,
            "×",
            "more",
        ),
    ]


async def _stage(place: Path, name: str, found: S3Object, url: str, *, unpack: str | None) -> float:
    """Seconds of a task that stages the file. What it has brought is removed."""
    root = place / "store"
    plan = place / f"{name}.json"
    plan.write_text(
        json.dumps(
            {
                "root": str(root),
                "id": name,
                "file": found.path,
                "url": url,
                "size": found.size,
                "crc64nvme": found.crc64nvme,
                "unpack": unpack,
                "connections": 8,
                "piece_size": _PIECE,
                "patience": 60,
                "max_files": 10**6,
                "max_bytes": 10**12,
            }
        )
    )
    task = place / f"{name}-task"
    module = ("-m", "cdmtaskservice.executor.remote", "refdata")
    seconds = await _run(sys.executable, *module, "--plan", str(plan), "--task", str(task))
    result = json.loads((task / "result.json").read_text())
    if not result["ok"]:
        raise AssertionError(result)
    shutil.rmtree(root)
    return seconds


async def _through_service(house: House, found: S3Object) -> float:
    """Seconds from the registration of a file until it is complete at the local site."""
    begun = time.perf_counter()
    reply = json.loads(await house.admin.call("POST", f"/admin/refdata/{found.path}?unpack=true"))
    while True:
        told = await house.admin.get(f"/admin/refdata/{reply['id']}")
        [status] = told["statuses"]
        if status["state"] == "complete":
            return time.perf_counter() - begun
        if status["state"] == "error" or time.perf_counter() - begun > _PATIENCE:
            raise AssertionError(status)
        await asyncio.sleep(0.02)


async def _run(*words: str) -> float:
    """Seconds that a command takes."""
    begun = time.perf_counter()
    await asyncio.to_thread(subprocess.run, words, check=True, timeout=_PATIENCE, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def _archive(file: Path, megabytes: int) -> Path:
    """A .tar.gz of about so many MB: a large file, and small ones, which are a tenth of it."""
    dice = random.Random(megabytes)
    with tarfile.open(file, "w:gz", compresslevel=1) as archive:
        small = [(f"parts/{n % 50}/{n}", 50_000) for n in range(2 * megabytes)]
        for name, size in [("large.bin", 900_000 * megabytes), *small]:
            entry = tarfile.TarInfo(name)
            entry.size = size
            archive.addfile(entry, io.BytesIO(_text(dice, size)))
    return file


def _text(dice: random.Random, size: int) -> bytes:
    """Bytes that compress to about half, as sequences and tables do."""
    return dice.randbytes(size // 2).hex().encode()[:size]


def _rate(size: int, seconds: float) -> float:
    return size / seconds / 1e6
