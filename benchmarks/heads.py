"""How fast many objects are looked at in S3, which is what a submission of many files waits for."""

from __future__ import annotations

import asyncio
import time

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from benchmarks.figures import Effort, Figure
from benchmarks.stage import Stage

_BOTOCORE_HEADS = 300
_CONCURRENCY = 64


async def heads(stage: Stage, effort: Effort) -> list[Figure]:
    """`head_many` of 10 000 objects, and the same by aiobotocore, of 300."""
    paths = await stage.files(effort.times(10_000, 2000))
    rates = []
    for _ in range(effort.times(3, 1)):
        begun = time.perf_counter()
        await stage.s3.head_many(paths, concurrency=_CONCURRENCY)
        rates.append(len(paths) / (time.perf_counter() - begun))
    botocore = max([await _botocore_rate(stage, paths[:_BOTOCORE_HEADS]) for _ in range(effort.times(3, 1))])
    return [
        Figure("heads.rate", f"HEADs of {len(paths):,} objects", max(rates), "/s", "more", note="best of its runs"),
        Figure("heads.botocore", f"the same by aiobotocore, {_BOTOCORE_HEADS} objects", botocore, "/s", "more"),
        Figure("heads.ratio", "head_many ÷ aiobotocore", max(rates) / botocore, "×", "more"),
    ]


async def _botocore_rate(stage: Stage, paths: list[str]) -> float:
    account = stage.stack.s3
    config = AioConfig(max_pool_connections=_CONCURRENCY, s3={"addressing_style": "path"})
    session = get_session()
    async with session.create_client(
        "s3",
        endpoint_url=account.url,
        aws_access_key_id=account.access_key,
        aws_secret_access_key=account.secret_key,
        region_name="us-east-1",
        config=config,
    ) as client:
        slots = asyncio.Semaphore(_CONCURRENCY)

        async def head(path: str) -> None:
            bucket, _, key = path.partition("/")
            async with slots:
                await client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")

        await head(paths[0])
        begun = time.perf_counter()
        await asyncio.gather(*(head(p) for p in paths))
        return len(paths) / (time.perf_counter() - begun)
