"""Drives a running service as its users, executors and message consumers do."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

import httpx
from aiokafka import AIOKafkaConsumer

from cdmtaskservice.embedded.image import Pushed
from cdmtaskservice.embedded.service import BUCKET, EmbeddedService
from cdmtaskservice.s3.client import S3Client

TERMINAL = {"complete", "error", "canceled"}
HAPPY = [
    "created",
    "download_submitted",
    "job_submitting",
    "job_submitted",
    "upload_submitting",
    "upload_submitted",
    "complete",
]
FAILED = [*HAPPY[:4], "error_processing_submitting", "error_processing_submitted", "error"]

T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T | None]], what: str, within: float = 60.0) -> T:
    """Poll until the condition gives something true; fails after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        if found := await condition():
            return found
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        await asyncio.sleep(0.1)


class Driver:
    """A service, and what a test does with it."""

    def __init__(self, service: EmbeddedService, s3: S3Client, image: Pushed, site: str = "local") -> None:
        """site: where jobs are submitted to unless a test says otherwise."""
        self.service = service
        self.site = site
        self.s3 = s3
        self.image = image
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            await client.aclose()

    def client(self, user: str | None = "ann") -> httpx.AsyncClient:
        """An HTTP client with a user's token, or with none."""
        key = f"{user} {self.service.url}"
        if key not in self._clients:
            headers = {"Authorization": f"Bearer {self.service.tokens[user]}"} if user else {}
            self._clients[key] = httpx.AsyncClient(base_url=self.service.url, headers=headers, timeout=60)
        return self._clients[key]

    async def ready(self) -> None:
        """Wait until the site can run containers, and approve the image."""
        await until(self.site_available, f"the site {self.site} is available")
        reply = await self.client("admin").post(f"/admin/images/{self.image.by_tag}")
        assert reply.status_code == 200 or reply.json()["error"]["appcode"] == 50010, reply.text

    async def site_available(self) -> bool:
        """Whether the service says that its site can take jobs now."""
        return bool((await self.site_shown())["available"])

    async def site_shown(self) -> dict[str, Any]:
        """What everybody sees of its site."""
        sites = (await self.client().get("/sites")).json()["sites"]
        return next(dict(site) for site in sites if site["cluster"] == self.site)

    async def upload(self, files: dict[str, bytes], user: str = "ann") -> list[str]:
        """Put files below a directory of their own; returns their S3 paths."""
        root = f"{BUCKET}/{user}/in/{uuid.uuid4().hex[:8]}"
        slots = asyncio.Semaphore(32)

        async def put(name: str, data: bytes) -> str:
            async with slots:
                return (await self.s3.put(f"{root}/{name}", data)).path

        return await asyncio.gather(*(put(name, data) for name, data in files.items()))

    def body(self, files: list[Any], args: list[Any], **more: Any) -> dict[str, Any]:
        """A job with a container for each file unless told otherwise, and an output directory of its own."""
        params = {"args": args, **more.pop("params", {})}
        return {
            "cluster": self.site,
            "image": self.image.by_tag,
            "params": params,
            "num_containers": len(files),
            "memory": "50MB",
            "runtime": 60,
            "input_files": files,
            "output_dir": f"{BUCKET}/ann/out/{uuid.uuid4().hex[:8]}",
            **more,
        }

    async def submit(self, files: list[Any], args: list[Any], **more: Any) -> str:
        """Submit a job as ann; returns its ID."""
        reply = await self.client().post("/jobs", json=self.body(files, args, **more))
        assert reply.status_code == 200, reply.text
        return str(reply.json()["job_id"])

    async def status(self, job_id: str) -> dict[str, Any]:
        """The job's status as its owner sees it."""
        reply = await self.client().get(f"/jobs/{job_id}/status")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    async def job(self, job_id: str) -> dict[str, Any]:
        """The job as its owner sees it."""
        return dict(await self._get("ann", f"/jobs/{job_id}"))

    async def admin(self, path: str) -> Any:
        """What an administrator gets from a path."""
        return await self._get("admin", path)

    async def _get(self, user: str, path: str) -> Any:
        """The body of a GET, asked again where the service dies over it."""

        async def answered() -> httpx.Response | None:
            with contextlib.suppress(httpx.TransportError):
                return await self.client(user).get(path)
            return None

        reply = await until(answered, f"GET {path} is answered")
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def containers(self, job_id: str) -> list[dict[str, Any]]:
        """The job's containers by number."""
        return list((await self.admin(f"/admin/jobs/{job_id}/container"))["subjobs"])

    async def reached(self, job_id: str, *states: str, within: float = 60.0) -> dict[str, Any]:
        """Wait until the job is in one of the states, or over; the service may be away meanwhile."""

        async def there() -> dict[str, Any] | None:
            with contextlib.suppress(httpx.TransportError, AssertionError):
                status = await self.status(job_id)
                if status["state"] in {*states, *TERMINAL}:
                    return status
            return None

        try:
            status = await until(there, f"job {job_id} is {' or '.join(states)}", within)
        except AssertionError as e:
            now = await self.admin(f"/admin/jobs/{job_id}")
            raise AssertionError(f"{e}; it is {now}, its containers {await self.containers(job_id)}") from None
        assert not states or status["state"] in states, await self.admin(f"/admin/jobs/{job_id}")
        return status

    async def over(self, job_id: str, state: str = "complete", within: float = 90.0) -> dict[str, Any]:
        """Wait until the job is over, in this state."""
        await self.reached(job_id, state, within=within)
        return await self.job(job_id)

    async def log(self, job_id: str, number: int = 0, stream: str = "stdout") -> str:
        """A container's log."""
        reply = await self.client().get(f"/jobs/{job_id}/log/{number}/{stream}")
        assert reply.status_code == 200, reply.text
        return reply.text

    async def read(self, path: str) -> bytes:
        """An object's bytes."""
        return b"".join([chunk async for chunk in self.s3.read(path)])

    async def outputs(self, job: dict[str, Any]) -> dict[str, bytes]:
        """The job's outputs by their path below the output directory, each checked against a fresh HEAD."""
        found = {}
        for output in job["outputs"]:
            head = await self.s3.head(output["file"])
            assert head.crc64nvme == output["crc64nvme"], output
            found[output["file"].removeprefix(job["job_input"]["output_dir"])] = await self.read(output["file"])
        return found

    async def messages(self, job_id: str, last: str, within: float = 60.0) -> list[dict[str, Any]]:
        """The job's Kafka messages from the first to the one of the state `last`, without repeated ones.

        Fails where a message has another key than the job's ID, or comes out of order.
        """
        consumer = AIOKafkaConsumer(
            self.service.topic,
            bootstrap_servers=self.service.stack.kafka_bootstrap,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        told: dict[str, dict[str, Any]] = {}
        try:
            deadline = time.monotonic() + within
            while not told or list(told.values())[-1]["state"] != last:
                assert time.monotonic() < deadline, f"no message of {last} for {job_id} within {within} s: {told}"
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        message = json.loads(record.value)
                        if message["job_id"] == job_id:
                            assert record.key == job_id.encode()
                            told.setdefault(message["trans_id"], message)
        finally:
            await consumer.stop()
        return list(told.values())

    async def check_history(self, job_id: str, states: list[str]) -> None:
        """The job went through exactly these states, and Kafka told of each, in order, with the same IDs and times."""
        job = await self.admin(f"/admin/jobs/{job_id}")
        assert [t["state"] for t in job["transition_times"]] == states
        told = await self.messages(job_id, states[-1])
        made = [(t["state"], t["time"], t["trans_id"]) for t in job["transition_times"]]
        assert [(m["state"], m["time"], m["trans_id"]) for m in told] == made
