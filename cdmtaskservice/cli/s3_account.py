"""Whose S3 store it is, for `cts s3`: AWS's variables and files say, or options do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cdmtaskservice.cli.terminal import Exit, fail

if TYPE_CHECKING:
    from cdmtaskservice.s3.model import S3Config

Endpoint = Annotated[
    str | None, typer.Option("--endpoint", metavar="URL", envvar="AWS_ENDPOINT_URL", help="The S3 store.")
]
Profile = Annotated[
    str | None, typer.Option("--profile", metavar="NAME", envvar="AWS_PROFILE", help="Of your AWS configuration.")
]

_PATIENCE = 20.0
"""Seconds for a connection to stand, and between two arrivals of bytes: the store may be far away."""

_SLOWEST = 20_000
"""Bytes per second and request that are not taken for a transfer that is stuck: many share a slow line."""

_REGION = "us-east-1"


async def s3_config(endpoint: str | None, profile: str | None) -> S3Config:
    """The store and the keys; where they cannot be known, the command ends."""
    from aiobotocore.session import AioSession
    from botocore.exceptions import BotoCoreError
    from pydantic import SecretStr

    from cdmtaskservice.s3.model import S3Config

    try:
        session = AioSession(profile=profile)
        credentials = await session.get_credentials()
        keys = credentials and await credentials.get_frozen_credentials()
        region = session.get_config_variable("region") or _REGION
        async with session.create_client("s3", endpoint_url=endpoint, region_name=region) as client:
            address: str = client.meta.endpoint_url
    except (BotoCoreError, ValueError) as exc:
        fail(f"AWS's configuration cannot be used: {exc}")
    if keys is None or not keys.access_key:
        fail("There are no S3 keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if endpoint is None and address.endswith(".amazonaws.com"):
        fail(f"Name the S3 store with --endpoint or AWS_ENDPOINT_URL; if it is AWS's own, {address}", Exit.USAGE)
    return S3Config(
        address.rstrip("/"),
        keys.access_key,
        SecretStr(keys.secret_key),
        region,
        session_token=SecretStr(keys.token) if keys.token else None,
        connect_timeout=_PATIENCE,
        read_timeout=_PATIENCE,
        slowest=_SLOWEST,
    )


@contextmanager
def refusals_end() -> Iterator[None]:
    """What concerns the store as a whole ends the command."""
    from cdmtaskservice.domain.errors import CTSError, DependencyUnavailableError
    from cdmtaskservice.s3.attempts import CredentialsRefusedError

    try:
        yield
    except CredentialsRefusedError as exc:
        fail(f"The S3 store does not accept your keys ({exc.code}): check them, the region and this machine's clock")
    except DependencyUnavailableError as exc:
        fail(exc.message, Exit.UNREACHABLE)
    except CTSError as exc:
        fail(exc.message)
