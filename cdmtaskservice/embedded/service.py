"""The service itself as a part: a process with its own settings on an embedded stack.

For the demo, and for tests that start, kill and restart it.
"""

from __future__ import annotations

import http.client
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cdmtaskservice.auth.token_file import create_token, list_tokens
from cdmtaskservice.embedded.part import Part
from cdmtaskservice.embedded.pool import CondorPool
from cdmtaskservice.embedded.stack import EmbeddedStack

BUCKET = "cts-data"
LOG_BUCKET = "cts-logs"

USERS: Mapping[str, Sequence[str]] = {
    "admin": ("CTS_ADMIN", "KBASE_STAFF", "HAS_NERSC_ACCOUNT"),
    "ann": ("KBASE_STAFF", "HAS_NERSC_ACCOUNT"),
    "ben": ("KBASE_STAFF",),
    "guest": (),
    "executor": ("CTS_EXTERNAL_EXECUTOR",),
    "refserv": ("CTS_REFDATA_SERVICE",),
}
"""Accounts and their roles: an administrator, two scientists, somebody without any role, and what runs elsewhere."""


class EmbeddedService(Part):
    """`cts serve` with the local site, and a pool's, on the parts of a stack. Several may run on one stack and home."""

    name: ClassVar[str] = "service"
    term_grace: ClassVar[float] = 45.0

    def __init__(
        self,
        stack: EmbeddedStack,
        home: Path,
        overrides: Mapping[str, str] | None = None,
        *,
        command: Sequence[str] = ("-m", "cdmtaskservice.cli", "serve"),
        name: str = "service",
        pool: CondorPool | None = None,
    ) -> None:
        """home: tokens, settings and the local site's work directory; two services may share one.

        overrides: further variables for the service, such as `KBCTS_RECONCILER__LEASE`. command: arguments of Python
        that stand for `cts serve`. name: tells several services with one home apart. pool: becomes a further site,
        `kbase`; it must run.
        """
        self.stack = stack
        self.pool = pool
        self._shared = home
        self._overrides = dict(overrides or {})
        self._command = tuple(command)
        home.mkdir(parents=True, exist_ok=True)
        super().__init__(home / name, stack.logs / f"{home.name}-{name}.log", stack.launcher)
        self.tokens = self._accounts()
        """Tokens by user name."""

    @property
    def url(self) -> str:
        """Where the service is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def topic(self) -> str:
        """The Kafka topic of this home's services."""
        return f"cts-{self._shared.name}"

    @property
    def refdata_dir(self) -> Path:
        """Where the pool's workers have reference data."""
        assert self.pool is not None
        return self.pool.worker_dir / f"refdata-{self._shared.name}"

    def command(self, ports: Mapping[str, int]) -> list[str]:
        for directory in (self._shared / "refdata", *([self.refdata_dir] if self.pool is not None else [])):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)
        return [sys.executable, *self._command, "--config", str(_template())]

    def environment(self) -> dict[str, str]:
        s3 = self.stack.s3
        cpus = str(os.cpu_count() or 1)
        return {
            **super().environment(),
            "KBCTS_SERVICE_PORT": str(self._ports["main"]),
            "KBCTS_SERVICE_SIGNING_SECRET": self._secret(),
            "KBCTS_AUTH_KIND": "local",
            "KBCTS_AUTH_LOCAL_FILE": str(self._shared / "accounts.json"),
            "KBCTS_MONGO_URI": self.stack.mongo_uri,
            "KBCTS_MONGO_DATABASE": f"cts-{self._shared.name}",
            "KBCTS_KAFKA_BOOTSTRAP_SERVERS": self.stack.kafka_bootstrap,
            "KBCTS_KAFKA_TOPIC": self.topic,
            "KBCTS_S3_ENDPOINT": s3.url,
            "KBCTS_S3_ACCESS_KEY": s3.access_key,
            "KBCTS_S3_SECRET_KEY": s3.secret_key,
            "KBCTS_S3_ALLOWED_PATHS": f"{BUCKET}/{{user}}/",
            "KBCTS_S3_LOG_PATH": f"{LOG_BUCKET}/containers/",
            "KBCTS_IMAGES_CRANE": str(self.stack.crane),
            "KBCTS_LOCAL_CPUS_PER_NODE": cpus,
            "KBCTS_LOCAL_WORK_DIR": str(self._shared / "work"),
            "KBCTS_LOCAL_TOKEN_FILE": str(self.token_file("executor")),
            "KBCTS_LOCAL_REFDATA_DIR": str(self._shared / "refdata"),
            "KBCTS_LOCAL_CONTAINER_RUNTIME": "podman",
            "KBCTS_LOCAL_CONTAINER_RUNTIME_PATH": str(self.stack.podman),
            **self._pool_settings(),
            **self._overrides,
        }

    def _pool_settings(self) -> dict[str, str]:
        if self.pool is None:
            return {}
        token = self.pool.install_token(self.tokens["executor"], f"{self._shared.name}.token")
        return {
            "KBCTS_HTCONDOR_CPUS_PER_NODE": str(self.pool.cpus),
            # The rest is for the executor.
            "KBCTS_HTCONDOR_MEMORY_PER_NODE": f"{self.pool.memory_mb - 64}MiB",
            "KBCTS_HTCONDOR_CONDOR_CONFIG": str(self.pool.client_config),
            "KBCTS_HTCONDOR_TOKEN_FILE": str(token),
            "KBCTS_HTCONDOR_CACHE_DIR": str(self.pool.worker_dir / "cache"),
            "KBCTS_HTCONDOR_CONTAINER_RUNTIME": "podman",
            "KBCTS_HTCONDOR_CONTAINER_RUNTIME_PATH": str(self.pool.podman),
            "KBCTS_HTCONDOR_INITIAL_DIR": str(self.pool.worker_dir),
            "KBCTS_HTCONDOR_SCRATCH": "10MB",
            "KBCTS_HTCONDOR_REFDATA_DIR": str(self.refdata_dir),
            "KBCTS_HTCONDOR_REFDATA_BY": "service",
        }

    def answers(self) -> bool:
        """Whether the service serves requests."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health/live")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()

    def _accounts(self) -> dict[str, str]:
        accounts = self._shared / "accounts.json"
        known = {t.name for t in list_tokens(accounts)} if accounts.exists() else set()
        tokens = {}
        for user, roles in USERS.items():
            file = self.token_file(user)
            if user not in known:
                file.touch(mode=0o600)
                file.write_text(create_token(accounts, user, user, roles))
            tokens[user] = file.read_text()
        return tokens

    def token_file(self, user: str) -> Path:
        """The file with the token of a user."""
        return self._shared / f"{user}.token"

    def _secret(self) -> str:
        file = self._shared / "signing-secret"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(48))
        return file.read_text()


def _template() -> Path:
    """The settings template at the top of the repository."""
    return Path(__file__).parents[2] / "config.toml.jinja"
