"""All settings of the service, a model a section of the settings file.

`config.toml.jinja` at the top of the repository holds every setting with the same description and default; a test
keeps the two together.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import ByteSize, Field, SecretStr, ValidationInfo, field_validator

from cdmtaskservice.settings.jaws import JawsSettings, NerscSettings
from cdmtaskservice.settings.section import AllSettings, Section
from cdmtaskservice.settings.sites import SiteSettings
from cdmtaskservice.settings.values import (
    USER,
    AllowedPath,
    Duration,
    OptionalPath,
    OptionalSecret,
    OptionalStr,
    OptionalUrl,
    Origin,
    S3Prefix,
    Server,
    Url,
    comma_separated,
)

_TINY = timedelta(milliseconds=1)
_SECOND = timedelta(seconds=1)
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  (recognised here, not bound to)


class ServiceSettings(Section):
    """The HTTP service itself."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """The address to listen on; 0.0.0.0 for all of them, which needs external_url."""
    port: int = Field(default=5000, ge=1, le=65535)
    """The TCP port to listen on."""
    root_path: str = Field(default="", pattern=r"^(/[^/\s]+)*$")
    """The path below which a proxy shows the service, such as /services/cts. Blank: no proxy rewrites paths."""
    notes: str = ""
    """Notes for users, shown at the service's root."""
    external_url: OptionalUrl = Field(default=None, validate_default=True)
    """The URL at which executors reach the service. Blank: http://host:port."""
    worker_signing_secrets: tuple[Annotated[SecretStr, Field(min_length=32)], ...] = Field(min_length=1)
    """Secrets that sign container tokens, each of 32 characters or more: the first signs, all are accepted, so put a
    new one first and remove the old one when the longest job is over."""
    max_cpu_hours: float = Field(default=1000.0, gt=0, allow_inf_nan=False)
    """The most CPU hours that a job may ask for: CPUs x containers x runtime."""
    max_streams: int = Field(default=2000, ge=2, le=100_000)
    """How many readers may follow logs and jobs at once in one process; one user may have half of them."""
    max_followed: int = Field(default=200, ge=4, le=10_000)
    """How many different logs and jobs may be followed at once in one process; one user may follow a quarter of as
    many."""
    cors_origins: Annotated[tuple[Origin, ...], comma_separated] = ()
    """Web origins whose pages may call the service from a browser, such as https://app.example.org; * alone for all. A
    list, or one string with commas. Blank: none."""
    shutdown_timeout: Duration = timedelta(seconds=30)
    """How long requests and looks under way may take to end at shutdown, in seconds or as an ISO 8601 duration."""

    @field_validator("external_url")
    @classmethod
    def _reachable(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and info.data.get("host") in _EVERYWHERE:
            raise ValueError(
                f"must be set where service.host is no address that an executor can connect to, as {info.data['host']}"
            )
        return url

    @field_validator("cors_origins")
    @classmethod
    def _all_or_some(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in origins and len(origins) > 1:
            raise ValueError("must not hold other origins beside *, which is all of them")
        return origins

    @field_validator("worker_signing_secrets")
    @classmethod
    def _all_different(cls, signing: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if len(set(signing)) < len(signing):
            raise ValueError("must not hold the same secret twice")
        return signing

    @property
    def url(self) -> str:
        """The URL at which executors reach the service, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.external_url or f"http://{host}:{self.port}"


class RoleNames(Section):
    """What the auth service calls the roles."""

    admin: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], comma_separated] = ("CTS_ADMIN",)
    """Roles that make an administrator: any of these, together with both staff and nersc."""
    staff: str = Field(default="KBASE_STAFF", min_length=1)
    """The role that may submit to local sites and, with other roles, to all others."""
    nersc: str = Field(default="HAS_NERSC_ACCOUNT", min_length=1)
    """The role that, together with staff, may submit to JAWS sites."""
    executor: str = Field(default="CTS_EXTERNAL_EXECUTOR", min_length=1)
    """The role of executors."""
    refserv: str = Field(default="CTS_REFDATA_SERVICE", min_length=1)
    """The role of the reference data service."""


class AuthSettings(Section):
    """Who is asking."""

    kind: Literal["kbase", "local"] = "kbase"
    """Where users are known: kbase (a KBase auth2 service) or local (a file of accounts, made by `cts token`)."""
    kbase_url: OptionalUrl = Field(default=None, validate_default=True)
    """The URL of the KBase auth2 service, such as https://ci.kbase.us/services/auth. Needed for kind kbase."""
    local_file: OptionalPath = Field(default=None, validate_default=True)
    """Absolute path of the file of accounts. Needed for kind local."""
    cache_time: Duration = timedelta(seconds=60)
    """How long an answer about a token is remembered, in seconds or as an ISO 8601 duration; 0: not at all."""
    cache_size: int = Field(default=10_000, ge=1)
    """How many tokens are remembered at once."""
    timeout: Duration = Field(default=timedelta(seconds=10), ge=_TINY)
    """How long the auth service may take to answer, in seconds or as an ISO 8601 duration."""
    roles: RoleNames = RoleNames()
    """What the auth service calls the roles."""

    @field_validator("kbase_url")
    @classmethod
    def _kbase_needs_url(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and info.data.get("kind") == "kbase":
            raise ValueError('must be set where auth.kind is "kbase"')
        return url

    @field_validator("local_file")
    @classmethod
    def _local_needs_file(cls, file: object, info: ValidationInfo) -> object:
        if file is None and info.data.get("kind") == "local":
            raise ValueError('must be set where auth.kind is "local"')
        return file


class MongoSettings(Section):
    """The database."""

    uri: SecretStr
    """MongoDB connection string, mongodb://... or mongodb+srv://..., secret since it may hold a password."""
    database: str = Field(default="cdmtaskservice", pattern=r"^[A-Za-z0-9_-]{1,63}$")
    """The database's name: letters, digits, _ and -, at most 63."""
    timeout: Duration = Field(default=timedelta(seconds=10), ge=_TINY)
    """How long the database may take to answer, in seconds or as an ISO 8601 duration."""

    @field_validator("uri")
    @classmethod
    def _is_mongodb_uri(cls, uri: SecretStr) -> SecretStr:
        if not uri.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must begin with mongodb:// or mongodb+srv://")
        return uri


class KafkaSettings(Section):
    """The broker that job state transitions are published to."""

    bootstrap_servers: Annotated[tuple[Server, ...], comma_separated] = Field(min_length=1)
    """Brokers to begin with, as host:port: a list, or one string with commas."""
    topic: str = Field(default="cts-job-states", pattern=r"^[A-Za-z0-9-]{1,249}$")
    """The topic: letters, digits and -, at most 249."""
    timeout: Duration = Field(default=timedelta(seconds=30), ge=_TINY)
    """How long connecting to the brokers may take, and a message may wait for its acknowledgement before it counts as
    not sent and is tried anew later, in seconds or as an ISO 8601 duration."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to talk to the brokers: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """How to log in, for the SASL protocols: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""
    sasl_user: OptionalStr = Field(default=None, validate_default=True)
    """The user, for the SASL protocols."""
    sasl_password: OptionalSecret = Field(default=None, validate_default=True)
    """The password, for the SASL protocols. Secret."""
    ca_file: OptionalPath = None
    """Absolute path of a file of CA certificates, for the SSL protocols. Blank: the system's."""

    @field_validator("sasl_user", "sasl_password")
    @classmethod
    def _goes_with_sasl(cls, value: object, info: ValidationInfo) -> object:
        protocol = info.data.get("security_protocol")
        if protocol is None:
            return value
        if protocol.startswith("SASL") and value is None:
            raise ValueError(f"must be set where kafka.security_protocol is {protocol}")
        if not protocol.startswith("SASL") and value is not None:
            raise ValueError(
                f"is never used where kafka.security_protocol is {protocol}: "
                "leave it out, or use SASL_SSL or SASL_PLAINTEXT"
            )
        return value


class S3Settings(Section):
    """The object store that inputs, outputs and logs live in."""

    endpoint: Url
    """The URL at which the service reaches the store."""
    external_endpoint: OptionalUrl = None
    """The URL at which workers reach the store: it stands in presigned URLs. Blank: endpoint."""
    access_key: str = Field(min_length=1)
    """The access key's ID."""
    secret_key: SecretStr = Field(min_length=1)
    """The access key's secret. Secret."""
    region: str = Field(default="us-east-1", min_length=1)
    """The region that requests are signed for."""
    insecure_tls: bool = False
    """Whether to accept any TLS certificate from the store. For tests only."""
    head_concurrency: int = Field(default=64, ge=1, le=1000)
    """How many objects are looked at at once for one request."""
    allowed_paths: Annotated[tuple[AllowedPath, ...], comma_separated] = Field(min_length=1)
    """Where users may read and write, as bucket/prefix/: {user} stands for the user's name. A list, or one string with
    commas."""
    log_path: S3Prefix
    """Where containers' logs go, as bucket/prefix/; out of users' reach, so neither above nor below an allowed path."""
    presign_expiry: Duration = Field(default=timedelta(hours=6), ge=timedelta(minutes=1), le=timedelta(days=7))
    """How long presigned URLs serve, 1 minute to 7 days, in seconds or as an ISO 8601 duration."""
    part_size: ByteSize = Field(default=ByteSize(64 * 1024**2), ge=5 * 1024**2, le=5 * 1024**3)
    """The size from which files are uploaded in parts, and of each part: 5 MiB to 5 GiB, in bytes or with a unit such
    as "64MiB"."""
    connect_timeout: Duration = Field(default=timedelta(seconds=5), ge=_TINY)
    """How long connecting to the store may take, in seconds or as an ISO 8601 duration."""
    read_timeout: Duration = Field(default=timedelta(seconds=60), ge=_TINY)
    """How long the store may take to answer, in seconds or as an ISO 8601 duration."""

    @field_validator("log_path")
    @classmethod
    def _logs_are_out_of_reach(cls, log_path: str, info: ValidationInfo) -> str:
        for allowed in info.data.get("allowed_paths", ()):
            # A user's name may be anything, so all that begins like the part before it is within some user's reach.
            reach = allowed.partition(USER)[0]
            if log_path.startswith(reach) or reach.startswith(log_path):
                raise ValueError(
                    f"must lie neither above nor below the allowed path {allowed}, or users could write logs"
                )
        return log_path

    @property
    def presign_endpoint(self) -> str:
        """The URL at which workers reach the store, without a trailing slash."""
        return self.external_endpoint or self.endpoint


class ImageSettings(Section):
    """How images are looked up in their registries."""

    crane: str = Field(default="crane", min_length=1)
    """The crane program: a name that is found on PATH, or a path."""
    timeout: Duration = Field(default=timedelta(seconds=30), ge=_TINY)
    """How long one look-up may take, in seconds or as an ISO 8601 duration."""
    insecure_hosts: Annotated[tuple[str, ...], comma_separated] = ()
    """Registries, as host or host:port, that may be asked over plain http or with any TLS certificate: a list, or one
    string with commas. For tests only."""
    concurrency: int = Field(default=4, ge=1, le=64)
    """How many look-ups run at once."""


class JobSettings(Section):
    """How long the service waits for containers, and how often it tries."""

    heartbeat_interval: Duration = Field(default=timedelta(seconds=15), ge=_SECOND)
    """How often an executor says that it is alive, in seconds or as an ISO 8601 duration."""
    heartbeat_timeout: Duration = Field(default=timedelta(seconds=120), ge=2 * _SECOND, validate_default=True)
    """How long a silent executor is waited for before its attempt is over, at least twice heartbeat_interval, in
    seconds or as an ISO 8601 duration."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """How often a container is tried whose attempt was lost, not counting failures of its own."""
    upload_batch: int = Field(default=500, ge=1, le=1000)
    """How many uploads an executor asks for at once."""
    pids_limit: int = Field(default=4096, ge=1)
    """How many processes a container may have."""

    @field_validator("heartbeat_timeout")
    @classmethod
    def _one_beat_may_be_missed(cls, timeout: timedelta, info: ValidationInfo) -> timedelta:
        interval = info.data.get("heartbeat_interval")
        if interval is not None and timeout < 2 * interval:
            raise ValueError(
                f"must be at least twice jobs.heartbeat_interval, that is {2 * interval.total_seconds():g} seconds"
            )
        return timeout


class ReconcilerSettings(Section):
    """The loop that moves jobs."""

    lease: Duration = Field(default=timedelta(seconds=30), ge=_SECOND)
    """How long a look may hold its job before another process may take it, in seconds or as an ISO 8601 duration."""
    poll_interval: Duration = Field(default=_SECOND, ge=timedelta(milliseconds=10))
    """How often an idle loop asks for jobs that are due, in seconds or as an ISO 8601 duration."""
    look_delay: Duration = Field(default=timedelta(seconds=5), ge=timedelta(milliseconds=10))
    """When to look at a job again that has to wait and named no time, in seconds or as an ISO 8601 duration."""
    max_backoff: Duration = Field(default=timedelta(seconds=60), ge=timedelta(milliseconds=10))
    """The longest wait between two looks at a job that meets faults, in seconds or as an ISO 8601 duration."""
    concurrency: int = Field(default=8, ge=1, le=1000)
    """How many jobs are looked at at once."""
    orphan_age: Duration = Field(default=timedelta(days=1), ge=timedelta(minutes=1))
    """How old what a submission left that never became a job must be before it is cleaned away, in seconds or as an ISO
    8601 duration."""


class RefdataSettings(Section):
    """Reference data: how it comes to sites."""

    connections: int = Field(default=8, ge=1, le=64)
    """Pieces of a file that come at once."""
    piece_size: ByteSize = Field(default=ByteSize(16 * 1024**2), ge=1024**2, le=1024**3)
    """The size of a piece, 1 MiB to 1 GiB, in bytes or with a unit such as "16MiB". What has come is kept by pieces."""
    patience: Duration = Field(default=timedelta(hours=1), ge=_SECOND)
    """How long a transfer goes on trying while the object store does not answer, before it counts as failed. In seconds
    or as an ISO 8601 duration."""
    max_tries: int = Field(default=10, ge=1, le=1000)
    """How often in a row staging at a site may fail, for reasons that can pass, before it ends in error."""
    max_files: int = Field(default=2_000_000, ge=1)
    """How many files, directories and links an archive may hold. Each takes some 350 bytes of memory while it is
    staged."""
    max_unpacked: ByteSize = Field(default=ByteSize(10_000_000_000_000), ge=1)
    """How many bytes an archive may hold, unpacked, in bytes or with a unit such as "10TB"."""
    silence: Duration = Field(default=timedelta(seconds=120), ge=2 * _SECOND)
    """How long a silent reference data service is waited for before its work is given to another one, in seconds or as
    an ISO 8601 duration."""
    report_interval: Duration = Field(default=timedelta(seconds=5), ge=timedelta(milliseconds=100))
    """How often a reference data service tells how far it is, in seconds or as an ISO 8601 duration."""
    poll_interval: Duration = Field(default=timedelta(seconds=2), ge=timedelta(milliseconds=100))
    """How often the service looks for reference data that it is to stage itself, in seconds or as an ISO 8601
    duration."""
    at_once: int = Field(default=2, ge=1, le=100)
    """How many files the service itself stages at once, at one site."""

    @field_validator("report_interval")
    @classmethod
    def _one_report_may_be_missed(cls, interval: timedelta, info: ValidationInfo) -> timedelta:
        silence = info.data.get("silence")
        if silence is not None and 2 * interval > silence:
            raise ValueError(
                f"must be at most half of refdata.silence, that is {silence.total_seconds() / 2:g} seconds"
            )
        return interval


class LoggingSettings(Section):
    """What is logged, and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """The least severe events that are logged: DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    format: Literal["json", "console"] = "json"
    """json (a line of JSON an event) or console (for people)."""


class Settings(AllSettings):
    """All settings of the service. Made by `load_settings`."""

    service: ServiceSettings
    """The HTTP service itself."""
    auth: AuthSettings
    """Who is asking."""
    mongo: MongoSettings
    """The database, MongoDB 7 or newer."""
    kafka: KafkaSettings
    """The broker that job state transitions are published to."""
    s3: S3Settings
    """The object store that inputs, outputs and logs live in."""
    images: ImageSettings = ImageSettings()
    """How images are looked up in their registries."""
    jobs: JobSettings = JobSettings()
    """How long the service waits for containers, and how often it tries."""
    reconciler: ReconcilerSettings = ReconcilerSettings()
    """The loop that moves jobs."""
    refdata: RefdataSettings = RefdataSettings()
    """Reference data: how it comes to sites."""
    logging: LoggingSettings = LoggingSettings()
    """What is logged, and how."""
    nersc: NerscSettings = NerscSettings()
    """NERSC, by its Superfacility API. Only JAWS sites need it."""
    jaws: JawsSettings = JawsSettings()
    """JAWS, which runs the jobs of JAWS sites."""
    sites: tuple[SiteSettings, ...] = Field(min_length=1)
    """The sites that jobs can be sent to, a table each."""

    @field_validator("sites")
    @classmethod
    def _names_are_unique(cls, sites: tuple[SiteSettings, ...]) -> tuple[SiteSettings, ...]:
        names = [site.name for site in sites]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"must have different names: {', '.join(twice)} stands there more than once")
        return sites

    @field_validator("sites")
    @classmethod
    def _jaws_can_be_reached(cls, sites: tuple[SiteSettings, ...], info: ValidationInfo) -> tuple[SiteSettings, ...]:
        jaws = [site.name for site in sites if site.kind == "jaws"]
        missing = [
            f"{section}.{name}"
            for section in ("nersc", "jaws")
            if section in info.data
            for name, value in info.data[section]
            if value is None and name != "refdata_dir"
        ]
        if jaws and missing:
            raise ValueError(f"has the JAWS sites {', '.join(jaws)}, which need {', '.join(missing)}")
        return sites
