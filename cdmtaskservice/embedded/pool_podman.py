"""The container runtime of the pool's jobs: rootless podman for an account without sub-IDs.

Its containers belong to the job that started them, as they would where HTCondor gives each job a control group:
what the job leaves is ended with it. HTCondor finds a job's processes by an environment variable that they
inherit, so conmon, whose environment podman makes anew, is given that variable.
"""

import platform
from pathlib import Path

from cdmtaskservice.embedded.engine import write_podman

# When a container ends, conmon calls podman without podman's environment. Where that fails for want of a library,
# `podman run` waits for 20 s after the end.
_PREPARATION = """\
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
export XDG_RUNTIME_DIR="{home}/run"
job=${{_CONDOR_SCRATCH_DIR#"{execute}/"}}
job=${{job%%/*}}
settings="{home}/jobs/${{job:-none}}.conf"
{{
    cat "{home}/containers.conf"
    printf 'conmon_env_vars = ["%s", "%s"' "PATH=$PATH" "LD_LIBRARY_PATH={libraries}"
    env | sed -n 's/^_CONDOR_ANCESTOR_[0-9]*=[0-9:]*$/, "&"/p'
    echo ']'
}} >"$settings.$$"
mv "$settings.$$" "$settings"
export CONTAINERS_CONF="$settings"
"""


def write_job_podman(home: Path, debian: Path, execute: Path, registry: str) -> list[Path]:
    """Write `home`/podman for jobs with scratch directories below `execute`; returns what must be the job user's."""
    own = [home / name for name in ("run", "storage", "jobs", "user")]
    for directory in own:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    folders = (f"{debian}/{usr}lib/{platform.machine()}-linux-gnu" for usr in ("usr/", ""))
    write_podman(
        home,
        debian,
        home / "run",
        home / "storage",
        registry,
        preparation=_PREPARATION.format(home=home, execute=execute, libraries=":".join(folders)),
        one_user=True,
    )
    return [*own, *(home / "user").glob("**/*")]
