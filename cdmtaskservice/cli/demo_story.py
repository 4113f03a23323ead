"""What the demo shows: an image is approved, files are uploaded, a job runs, and another one fails."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer
from pydantic import SecretStr
from rich.console import Console

from cdmtaskservice.embedded.image import Pushed
from cdmtaskservice.embedded.service import BUCKET, LOG_BUCKET, EmbeddedService
from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Config

_TERMINAL = {"complete", "error", "canceled"}
_PATIENCE = 180.0
"""Seconds for a job of the demo."""

_READS = {f"reads/sample{n}.fasta": "".join(f">seq{i}\n{'ACGT' * (n + i)}\n" for i in range(1, 4)) for n in range(1, 5)}
"""Four small FASTA files by their path."""


class DemoFailed(Exception):
    """The demo did not go as it should; the text says what was seen instead."""


class Story:
    """One run of the demo."""

    def __init__(
        self, console: Console, stack: EmbeddedStack, service: EmbeddedService, image: Pushed, site: str
    ) -> None:
        """site: the name of the one that runs the jobs."""
        self._console = console
        self._stack = stack
        self._service = service
        self._image = image
        self._site = site

    @staticmethod
    async def prepare(stack: EmbeddedStack) -> None:
        """Make the buckets that the service is set up for."""
        async with s3_client(stack) as s3:
            for bucket in (BUCKET, LOG_BUCKET):
                await s3.create_bucket(bucket)

    async def tell(self) -> None:
        """Raises: DemoFailed."""
        try:
            async with (
                s3_client(self._stack) as s3,
                self._client("admin") as admin,
                self._client("ann") as ann,
                AIOKafkaConsumer(
                    bootstrap_servers=self._stack.kafka_bootstrap, auto_offset_reset="earliest"
                ) as messages,
            ):
                messages.subscribe([self._service.topic])
                await self._wait_for_site(ann)
                await self._approve(admin)
                files = await self._upload(s3)
                await self._happy_job(s3, admin, ann, messages, files)
                await self._failing_job(admin, ann, messages, files)
        except DemoFailed as e:
            self._console.print(f"[red]demo: {e}[/red]")
            sys.exit(1)

    async def _wait_for_site(self, client: httpx.AsyncClient) -> None:
        deadline = time.monotonic() + 30
        while True:
            [site] = [s for s in _ok(await client.get("/sites"))["sites"] if s["cluster"] == self._site]
            if site["available"]:
                return
            if time.monotonic() > deadline:
                raise DemoFailed(f"the {self._site} site cannot run containers: {site.get('unavailable_reason')}")
            await asyncio.sleep(0.1)

    async def _approve(self, admin: httpx.AsyncClient) -> None:
        self._say("2. An administrator approves an image; crane looks it up in the registry")
        image = _ok(
            await admin.post(
                f"/admin/images/{self._image.by_tag}", json={"usage_notes": "Counts sequences in FASTA files"}
            )
        )
        self._console.print(f"   {image['name']}:{image['tag']}")
        self._console.print(f"   digest {image['digest']}   entrypoint {image['entrypoint']}\n")

    async def _upload(self, s3: S3Client) -> list[str]:
        self._say("3. A scientist uploads FASTA files; S3 keeps the CRC64NVME checksum of each")
        files = []
        for path, text in _READS.items():
            stored = await s3.put(f"{BUCKET}/ann/{path}", text.encode())
            self._console.print(f"   {stored.path}   {stored.size} bytes   {stored.crc64nvme}")
            files.append(stored.path)
        self._console.print()
        return files

    async def _happy_job(
        self,
        s3: S3Client,
        admin: httpx.AsyncClient,
        ann: httpx.AsyncClient,
        messages: AIOKafkaConsumer,
        files: list[str],
    ) -> None:
        self._say("4. A job of four containers, one file each")
        job_id = await self._submit(ann, files, "run1", ["stats", {"type": "input_files", **_LIST}])
        job = await self._watch(admin, ann, messages, job_id)
        if job["state"] != "complete":
            raise DemoFailed(f"the job ended in the state {job['state']}: {job.get('error')}")
        self._console.print("\n   Outputs, each compared with a fresh HEAD of the object in S3:")
        for output in job["outputs"]:
            found = await s3.head(output["file"])
            if found.crc64nvme != output["crc64nvme"]:
                raise DemoFailed(f"{output['file']} has the checksum {found.crc64nvme}, not {output['crc64nvme']}")
            self._console.print(f"   [green]✓[/green] {output['file']}   {output['crc64nvme']}   {found.size} bytes")
        first = b"".join([chunk async for chunk in s3.read(job["outputs"][0]["file"])])
        self._console.print(f"\n   {job['outputs'][0]['file']}:")
        self._print_text(first.decode())
        await self._show_log(ann, job_id, 0, "stdout")
        used = [f"CPU hours {job['cpu_hours']:.6f}"]
        used += [f"CPU factor {job['cpu_factor']:.3f}"] if "cpu_factor" in job else []  # JAWS does not tell
        used += [f"most memory {job['max_memory'] / 1e6:.1f} MB"] if "max_memory" in job else []
        self._console.print(f"   {'   '.join(used)}\n")

    async def _failing_job(
        self,
        admin: httpx.AsyncClient,
        ann: httpx.AsyncClient,
        messages: AIOKafkaConsumer,
        files: list[str],
    ) -> None:
        self._say("5. A job whose container fails, and what the user then sees")
        job_id = await self._submit(ann, files[:1], "run2", ["fail", "7"])
        job = await self._watch(admin, ann, messages, job_id)
        if job["state"] != "error":
            raise DemoFailed(f"the failing job ended in the state {job['state']}")
        self._console.print(f"\n   GET /jobs/{job_id}: error: [red]{job['error']}[/red]")
        codes = _ok(await ann.get(f"/jobs/{job_id}/exit_codes"))["exit_codes"]
        self._console.print(f"   GET /jobs/{job_id}/exit_codes: {codes}")
        await self._show_log(ann, job_id, 0, "stderr")
        self._console.print()

    async def _submit(self, ann: httpx.AsyncClient, files: list[str], name: str, args: list[Any]) -> str:
        body = {
            "cluster": self._site,
            "image": self._image.by_tag,
            "params": {"args": args, "declobber": True},
            "num_containers": len(files),
            "cpus": 1,
            "memory": "50MB",
            "runtime": "PT1M",
            "input_files": files,
            "output_dir": f"{BUCKET}/ann/results/{name}",
        }
        job_id: str = _ok(await ann.post("/jobs", json=body))["job_id"]
        self._console.print(f"   POST /jobs → {job_id}")
        return job_id

    async def _watch(
        self, admin: httpx.AsyncClient, ann: httpx.AsyncClient, messages: AIOKafkaConsumer, job_id: str
    ) -> dict[str, Any]:
        """Show the job's states, its containers and its Kafka messages until the last message has come."""
        begun = time.monotonic()
        shown = ""
        told: list[str] = []
        while time.monotonic() < begun + _PATIENCE:
            batch = await messages.getmany(timeout_ms=150)
            for record in (r for records in batch.values() for r in records):
                message = json.loads(record.value)
                if message["job_id"] == job_id:
                    told.append(message["state"])
                    self._console.print(f"   {_since(begun)}  Kafka: {message['state']}")
            containers = _ok(await admin.get(f"/admin/jobs/{job_id}/container"))["subjobs"]
            counts = Counter(c["state"] for c in containers)
            line = "  ".join(f"{state} {n}" for state, n in sorted(counts.items()))
            if line != shown:
                shown = line
                self._console.print(f"   {_since(begun)}  containers: {line}")
            if told and told[-1] in _TERMINAL:
                job: dict[str, Any] = _ok(await ann.get(f"/jobs/{job_id}"))
                states = [t["state"] for t in job["transition_times"]]
                if told != states:
                    raise DemoFailed(f"Kafka told of the states {told}, the job went through {states}")
                return job
        raise DemoFailed(f"job {job_id} was not over within {_PATIENCE:.0f} seconds; Kafka told of {told}")

    async def _show_log(self, ann: httpx.AsyncClient, job_id: str, number: int, stream: str) -> None:
        path = f"/jobs/{job_id}/log/{number}/{stream}"
        reply = await ann.get(path)
        if reply.status_code != httpx.codes.OK:
            raise DemoFailed(f"GET {path} answered {reply.status_code}: {reply.text}")
        self._console.print(f"   GET {path}:")
        self._print_text(reply.text)

    def _client(self, user: str) -> httpx.AsyncClient:
        token = self._service.tokens[user]
        return httpx.AsyncClient(base_url=self._service.url, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def _print_text(self, text: str) -> None:
        for line in text.splitlines():
            self._console.print(f"      {line}", markup=False)

    def _say(self, text: str) -> None:
        self._console.print(f"[bold]{text}[/bold]")


_LIST = {"input_files_format": "space_separated_list"}


def s3_client(stack: EmbeddedStack) -> S3Client:
    """A client of a stack's S3 store."""
    s3 = stack.s3
    return S3Client.create(S3Config(s3.url, s3.access_key, SecretStr(s3.secret_key)))


def _ok(reply: httpx.Response) -> dict[str, Any]:
    if reply.is_error:
        raise DemoFailed(f"{reply.request.method} {reply.request.url.path} answered {reply.status_code}: {reply.text}")
    body: dict[str, Any] = reply.json()
    return body


def _since(begun: float) -> str:
    return f"{time.monotonic() - begun:5.1f} s"
