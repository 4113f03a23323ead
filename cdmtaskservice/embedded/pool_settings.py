"""What the embedded HTCondor pool's daemons, administrators and clients are configured with. Text only, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DOMAIN = "pool.test"
"""Of the users, of the file system and of the tokens."""

SCHEDD = f"schedd@{DOMAIN}"
"""The schedd's name."""

# Of those who may change the jobs of others, HTCondor believes only accounts that exist.
ADMINISTRATOR = f"root@{DOMAIN}"
DAEMONS = ("collector", "negotiator", "schedd", "startd")

_DAEMONS = """\
RELEASE_DIR = {condor}/usr
LIBEXEC = $(RELEASE_DIR)/libexec/condor
LOCAL_DIR = {run}
LOCAL_CONFIG_FILE =
LOCAL_CONFIG_DIR =
REQUIRE_LOCAL_CONFIG_FILE = False
LOG = {state}/log
SPOOL = {state}/spool
ETC = {state}
EXECUTE = {run}/execute
LOCK = {run}/lock
RUN = {run}/lock
DAEMON_SOCKET_DIR = {run}/sock
CREATE_CORE_FILES = False
ENABLE_KERNEL_TUNING = False
DISCARD_SESSION_KEYRING_ON_STARTUP = False
MAX_DEFAULT_LOG = 10 Mb
MAIL = /bin/true

# One port of one address.
CONDOR_HOST = 127.0.0.1
COLLECTOR_HOST = 127.0.0.1:{port}
COLLECTOR_NAME = embedded
USE_SHARED_PORT = True
SHARED_PORT_PORT = {port}
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
NETWORK_HOSTNAME = localhost
FULL_HOSTNAME = localhost
DAEMON_LIST = MASTER {daemons}
SCHEDD_NAME = {schedd}

# One machine whose resources are handed out in the amounts that jobs ask for. What is told may exceed what is there.
NUM_CPUS = {cpus}
MEMORY = {memory_mb}
NUM_SLOTS = 1
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = True
START = True
SUSPEND = False
PREEMPT = False
KILL = False
WANT_SUSPEND = False
WANT_VACATE = False
MACHINEMAXVACATETIME = 10
RUNBENCHMARKS = False
STARTD_COMPUTE_AVAIL_STATS = False
STARTD_CRON_JOBLIST =
DOCKER =
SINGULARITY =
JAVA =
ENABLE_URL_TRANSFERS = True
# The others are Python that needs more than the standard library.
FILETRANSFER_PLUGINS = $(LIBEXEC)/curl_plugin, $(LIBEXEC)/data_plugin
# A job's /tmp is the machine's.
MOUNT_UNDER_SCRATCH =
JOB_DEFAULT_REQUESTCPUS = 1
JOB_DEFAULT_REQUESTMEMORY = 64
JOB_DEFAULT_REQUESTDISK = 1024

# Soon, since somebody waits.
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
SCHEDD_INTERVAL = 2
SCHEDD_MIN_INTERVAL = 1
UPDATE_INTERVAL = 2
JOB_START_COUNT = 50
JOB_START_DELAY = 0
JOB_STOP_COUNT = 50
JOB_STOP_DELAY = 0
PERIODIC_EXPR_INTERVAL = 5
SHADOW_QUEUE_UPDATE_INTERVAL = 5
STARTER_UPDATE_INTERVAL = 5
STARTER_INITIAL_UPDATE_INTERVAL = 1
MASTER_BACKOFF_CONSTANT = 1
MASTER_BACKOFF_FACTOR = 1
MASTER_UPDATE_INTERVAL = 5
SHUTDOWN_GRACEFUL_TIMEOUT = 20
CLAIM_WORKLIFE = 3600

# Who somebody is says a token, or the ownership of a file; everything is encrypted.
TRUST_DOMAIN = {domain}
UID_DOMAIN = {domain}
FILESYSTEM_DOMAIN = {domain}
DEFAULT_DOMAIN_NAME = {domain}
TRUST_UID_DOMAIN = True
SEC_PASSWORD_DIRECTORY = {state}/passwords.d
SEC_TOKEN_SYSTEM_DIRECTORY = {state}/tokens.d
SEC_TOKEN_POOL_SIGNING_KEY_FILE = {state}/passwords.d/POOL
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_ENCRYPTION = REQUIRED
SEC_DEFAULT_INTEGRITY = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = FS, IDTOKENS
ALLOW_READ = *
ALLOW_CLIENT = *
ALLOW_WRITE = {itself}, {administrator}
ALLOW_DAEMON = {itself}
ALLOW_NEGOTIATOR = {itself}
ALLOW_ADVERTISE_MASTER = {itself}
ALLOW_ADVERTISE_STARTD = {itself}
ALLOW_ADVERTISE_SCHEDD = {itself}
ALLOW_ADMINISTRATOR = {administrator}
"""

_CLIENT = """\
LOCAL_CONFIG_FILE =
LOCAL_CONFIG_DIR =
REQUIRE_LOCAL_CONFIG_FILE = False
CONDOR_HOST = 127.0.0.1
COLLECTOR_HOST = 127.0.0.1:{port}
NETWORK_INTERFACE = 127.0.0.1
ENABLE_IPV6 = False
TRUST_DOMAIN = {domain}
UID_DOMAIN = {domain}
FILESYSTEM_DOMAIN = {domain}
SEC_CLIENT_AUTHENTICATION = REQUIRED
SEC_CLIENT_ENCRYPTION = REQUIRED
SEC_CLIENT_INTEGRITY = REQUIRED
"""

_TOOL = """\
ETC = {own}
SEC_PASSWORD_DIRECTORY = {own}/passwords.d
SEC_TOKEN_POOL_SIGNING_KEY_FILE = {own}/passwords.d/POOL
"""

_TOKENS = """\
SCHEDD_HOST = {schedd}
SEC_CLIENT_AUTHENTICATION_METHODS = IDTOKENS
SEC_TOKEN_DIRECTORY = {tokens}
SEC_TOKEN_SYSTEM_DIRECTORY = {tokens}
"""


@dataclass(frozen=True)
class Places:
    """Where the pool's things lie; the daemons see some of them at other places than the pool's owner."""

    condor: Path
    run: Path
    state: Path


@dataclass(frozen=True)
class Machine:
    """The one worker, and who runs it."""

    port: int
    cpus: int
    memory_mb: int
    user: str


def daemon_config(places: Places, machine: Machine, further: Mapping[str, str]) -> str:
    """For the daemons; `further` entries come last and win."""
    text = _DAEMONS.format(
        condor=places.condor,
        run=places.run,
        state=places.state,
        port=machine.port,
        daemons=" ".join(DAEMONS).upper(),
        cpus=machine.cpus,
        memory_mb=machine.memory_mb,
        schedd=SCHEDD,
        domain=DOMAIN,
        administrator=ADMINISTRATOR,
        itself=", ".join(f"{user}@{DOMAIN}" for user in ("condor", machine.user)),
    )
    return text + _entries(further)


def tool_config(places: Places, machine: Machine, further: Mapping[str, str], own: Path) -> str:
    """For the tools: the daemons', so that they tell the same settings, with tokens and a signing key below `own`."""
    tokens = _TOKENS.format(schedd=SCHEDD, tokens=own / "tokens.d")
    return daemon_config(places, machine, further) + _TOOL.format(own=own) + tokens


def client_config(port: int, own: Path) -> str:
    """For a client that has nothing but tokens, below `own`, and the collector's address."""
    tokens = _TOKENS.format(schedd=SCHEDD, tokens=own / "tokens.d")
    return _CLIENT.format(port=port, domain=DOMAIN) + tokens


def _entries(settings: Mapping[str, str]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in settings.items())
