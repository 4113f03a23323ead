"""Publishes job transitions to Kafka: a message each, keyed by job ID so that a job's messages keep their order."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from cdmtaskservice.domain.errors import DependencyUnavailableError
from cdmtaskservice.domain.records import Transition
from cdmtaskservice.meter import UNMETERED, Meter, Metered

_log = structlog.get_logger(__name__)


class BrokerUnavailableError(DependencyUnavailableError):
    """Kafka does not take messages now. Whatever is owed stays owed."""


@dataclass(frozen=True)
class KafkaConfig:
    """timeout: seconds for every wait on the broker. security: further options of aiokafka's clients."""

    bootstrap_servers: str
    topic: str
    timeout: float = 10.0
    security: Mapping[str, Any] = field(default_factory=dict)


class KafkaPublisher:
    """A producer that is made when it is first needed, and made anew after a failure.

    aiokafka may wait for ever on a broker that is away, so every wait here has a timeout.
    """

    def __init__(self, config: KafkaConfig, meter: Meter = UNMETERED) -> None:
        self._config = config
        self._meter = meter
        self._producer: Any = None
        self._lock = asyncio.Lock()

    async def publish(self, job_id: str, transition: Transition) -> None:
        """Returns once the broker has acknowledged the message. Raises: BrokerUnavailableError."""
        with Metered(self._meter, "kafka", "publish"):
            await self._publish(job_id, transition)

    async def check(self) -> None:
        """Raises: BrokerUnavailableError where the broker does not answer."""
        with Metered(self._meter, "kafka", "metadata"):
            await self._check()

    async def _publish(self, job_id: str, transition: Transition) -> None:
        producer = await self._started()
        try:
            async with asyncio.timeout(self._config.timeout):
                await producer.send_and_wait(self._config.topic, value=message(job_id, transition), key=job_id.encode())
        except (KafkaError, OSError, TimeoutError) as e:
            await self._discard(producer)
            raise BrokerUnavailableError(f"Kafka did not take a message: {e!r}") from e
        except asyncio.CancelledError:
            # The message must not come after those of whoever goes on with this job.
            await _to_the_end(self._discard(producer))
            raise

    async def _check(self) -> None:
        producer = await self._started()
        try:
            async with asyncio.timeout(self._config.timeout):
                await producer.client.fetch_all_metadata()
        except (KafkaError, OSError, TimeoutError) as e:
            await self._discard(producer)
            raise BrokerUnavailableError(f"Kafka does not answer: {e!r}") from e

    async def close(self) -> None:
        """Close the producer; never waits longer than the timeout."""
        if self._producer is not None:
            await self._discard(self._producer)

    async def _started(self) -> Any:
        async with self._lock:
            if self._producer is None:
                await self._create_topic()
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._config.bootstrap_servers,
                    enable_idempotence=True,
                    acks="all",
                    request_timeout_ms=int(self._config.timeout * 1000),
                    client_id="cdmtaskservice",
                    **self._config.security,
                )
                try:
                    async with asyncio.timeout(self._config.timeout):
                        await producer.start()
                except (KafkaError, OSError, TimeoutError) as e:
                    await _stop(producer)
                    raise BrokerUnavailableError(f"Kafka does not answer: {e!r}") from e
                self._producer = producer
            return self._producer

    async def _create_topic(self) -> None:
        """Make the topic where it is missing; on clusters where only administrators may, it must be there."""
        admin = AIOKafkaAdminClient(
            bootstrap_servers=self._config.bootstrap_servers,
            request_timeout_ms=int(self._config.timeout * 1000),
            **self._config.security,
        )
        try:
            async with asyncio.timeout(self._config.timeout):
                await admin.start()
                topics = await admin.list_topics()
                if self._config.topic not in topics:
                    await admin.create_topics([NewTopic(self._config.topic, -1, -1, {})])
        except TopicAlreadyExistsError:
            return
        except (KafkaError, OSError, TimeoutError) as e:
            raise BrokerUnavailableError(f"Kafka does not answer: {e!r}") from e
        finally:
            await _close_admin(admin)

    async def _discard(self, producer: Any) -> None:
        async with self._lock:
            if self._producer is producer:
                self._producer = None
        await _stop(producer)


def message(job_id: str, transition: Transition) -> bytes:
    """The body of a message, as the contract has it."""
    time = transition.time.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    body = {
        "job_id": job_id,
        "state": transition.state.value,
        "time": time,
        "trans_id": transition.trans_id,
    }
    return json.dumps(body).encode()


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do it, whoever is cancelled meanwhile; it must be bounded in time."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)


async def _stop(producer: Any) -> None:
    try:
        async with asyncio.timeout(2):
            await producer.stop()
    except (KafkaError, OSError, TimeoutError) as e:
        _log.info("kafka_producer_not_stopped", error=repr(e))
        # It waits for messages to be sent, which may never be, and would go on trying beside its successors.
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(2):
                await producer.client.close()
                await producer._sender.close()


async def _close_admin(admin: Any) -> None:
    try:
        async with asyncio.timeout(2):
            await admin.close()
    except (KafkaError, OSError, TimeoutError) as e:
        _log.info("kafka_admin_not_closed", error=repr(e))
