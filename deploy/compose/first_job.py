"""A first job through the services of docker-compose.yaml: files up, image approved, job submitted, outputs shown."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import httpx
from pydantic import SecretStr

from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Config

BUCKET = "cts-data"
TOKENS = Path(os.environ.get("CTS_TOKENS", "/handover/tokens"))
IMAGE = os.environ["CTS_TOOL"]
SITE = os.environ.get("CTS_SITE", "kbase")
WITHIN = 600.0
"""Seconds for the job, with its image to be pulled."""


def client(user: str) -> httpx.AsyncClient:
    """The service, as somebody."""
    token = (TOKENS / user).read_text().strip()
    return httpx.AsyncClient(base_url=os.environ["CTS_URL"], headers={"Authorization": f"Bearer {token}"}, timeout=60)


async def main() -> int:
    """The exit code."""
    store = S3Config(os.environ["S3_URL"], os.environ["S3_ACCESS_KEY"], SecretStr(os.environ["S3_SECRET_KEY"]))
    run = f"{int(time.time())}"
    async with S3Client.create(store) as s3, client("admin") as admin, client("ann") as ann:
        files = [f"{BUCKET}/ann/reads/{run}/{name}.fasta" for name in ("one", "two")]
        for number, file in enumerate(files):
            found = await s3.put(file, f">seq{number}\nACGT{'A' * number}\n".encode())
            print(f"uploaded   {file}   {found.crc64nvme}")

        reply = await admin.post(f"/admin/images/{IMAGE}")
        if reply.status_code != 200 and reply.json()["error"].get("appcode") != 50010:  # it is approved already
            print(reply.text, file=sys.stderr)
            return 1
        print(f"approved   {IMAGE}")

        reply = await ann.post(
            "/jobs",
            json={
                "cluster": SITE,
                "image": IMAGE,
                "params": {"args": ["copy", {"type": "input_files", "input_files_format": "space_separated_list"}]},
                "num_containers": 2,
                "memory": "100MB",
                "runtime": "PT5M",
                "input_files": files,
                "output_dir": f"{BUCKET}/ann/results/{run}",
            },
        )
        if reply.status_code != 200:
            print(reply.text, file=sys.stderr)
            return 1
        job = reply.json()["job_id"]
        state = await followed(ann, job)
        if state != "complete":
            print((await admin.get(f"/admin/jobs/{job}")).text, file=sys.stderr)
            return 1
        for output in (await ann.get(f"/jobs/{job}")).json()["outputs"]:
            print(f"output     {output['file']}   {output['crc64nvme']}")
    return 0


async def followed(ann: httpx.AsyncClient, job: str) -> str:
    """Tell of each state; returns the last."""
    print(f"submitted  {job}")
    told, end = 0, time.monotonic() + WITHIN
    while time.monotonic() < end:
        times = (await ann.get(f"/jobs/{job}/status")).json()["transition_times"]
        for entry in times[told:]:
            print(f"           {entry['time']}   {entry['state']}")
        told = len(times)
        if times[-1]["state"] in {"complete", "error", "canceled"}:
            return str(times[-1]["state"])
        await asyncio.sleep(1)
    return "not over in time"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
