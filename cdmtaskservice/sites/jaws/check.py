"""Everything that can be wrong with the connection to NERSC and JAWS, tried in order, for whoever makes it."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from cdmtaskservice.sites.base import Finding, SiteUnreachableError
from cdmtaskservice.sites.jaws.config import REFDATA, JawsSiteConfig
from cdmtaskservice.sites.jaws.platform import JawsPlatform

_WRITABLE = """\
set -e
mkdir -p "$1"
cd "$1"
: >.cts-check
ln .cts-check .cts-check-link
rm .cts-check .cts-check-link
"""
_PYTHON = "import sys; sys.exit(sys.version_info < (3, 9))"


async def check(config: JawsSiteConfig, platform: JawsPlatform, patience: float) -> AsyncIterator[Finding]:
    """Try everything that can be tried without a run. patience: seconds for each command at NERSC."""
    steps: Sequence[tuple[str, Callable[[], Awaitable[str]], str]] = (
        (
            "nersc",
            lambda: _credentials(platform),
            "see nersc.credentials_file and nersc.user; a client of SFAPI expires, and is renewed in Iris",
        ),
        ("machines", lambda: _machines(platform), "wait for the end of the outage; see NERSC's status page"),
        (
            "jaws",
            lambda: _central(platform),
            "see jaws.url, jaws.token_file and jaws.user; a new token comes from the JAWS team",
        ),
        ("jaws site", lambda: _site(config, platform), "see jaws_site, and JAWS's status page"),
        ("python", lambda: _python(config, platform, patience), "set nersc.python to Python 3.9 or later"),
        ("code", lambda: _code(platform), "nersc.code_dir must be writable by nersc.user on both machines"),
        ("staging", lambda: _staging(config, platform, patience), "see jaws.staging_dir and jaws.submit_staging_dir"),
        ("results", lambda: _results(platform, patience), "see jaws.outputs_dir and jaws.submit_outputs_dir"),
        ("refdata", lambda: _refdata(platform, patience), "see jaws.refdata_dir"),
        ("command", lambda: _command(platform, patience), "set jaws.executable to the `jaws` command's path"),
    )
    try:
        failed: str | None = None
        for name, step, mend in steps:
            if failed is not None:
                yield Finding(name, None, f"not tried, since the step {failed} failed")
                continue
            try:
                yield Finding(name, True, await step())
            except SiteUnreachableError as error:
                yield Finding(name, False, error.message, mend)
                failed = name
    finally:
        await platform.nersc.close()
        await platform.central.close()


async def _credentials(platform: JawsPlatform) -> str:
    await platform.nersc.check()
    client = await platform.nersc.client_info()
    return f"the client {client.id} of {platform.nersc_config.user} is good until {client.expires_at.isoformat()}"


async def _machines(platform: JawsPlatform) -> str:
    if (why := await platform.nersc.why_down()) is not None:
        raise SiteUnreachableError(why)
    return f"{platform.nersc_config.transfer_machine} and {platform.nersc_config.submit_machine} are up"


async def _central(platform: JawsPlatform) -> str:
    await platform.central.check_user()
    return f"JAWS Central knows the token as {platform.jaws_config.user}'s"


async def _site(config: JawsSiteConfig, platform: JawsPlatform) -> str:
    if (down := await platform.central.site_down(config.jaws_site)) is not None:
        raise SiteUnreachableError(down)
    return f"JAWS says that its site {config.jaws_site} is up"


async def _python(config: JawsSiteConfig, platform: JawsPlatform, patience: float) -> str:
    python = config.nersc.python
    for machine in (config.nersc.transfer_machine, config.nersc.submit_machine):
        await _run(platform, machine, [python, "-c", _PYTHON], patience, f"{python} is not Python 3.9 or later")
    return f"{python} is Python 3.9 or later on both machines"


async def _code(platform: JawsPlatform) -> str:
    await platform.set_up()
    return f"the executor's code and the JAWS token are in {platform.nersc_config.code_dir}"


async def _staging(config: JawsSiteConfig, platform: JawsPlatform, patience: float) -> str:
    places, nersc = config.places, config.nersc
    script = ["bash", "-c", _WRITABLE, "cts", places.here]
    await _run(platform, nersc.transfer_machine, script, patience, f"{places.here} cannot be written, or has no links")
    seen = ["test", "-d", places.there]
    await _run(platform, nersc.submit_machine, seen, patience, f"{places.there} is not seen from there")
    return f"{places.here} can be written, and is seen as {places.there}"


async def _results(platform: JawsPlatform, patience: float) -> str:
    there, here = platform.jaws_config.submit_outputs_dir, platform.jaws_config.outputs_dir
    await _run(platform, platform.nersc_config.transfer_machine, ["test", "-r", here], patience, f"{here} is not there")
    return f"{here}, which JAWS calls {there}, can be read"


async def _refdata(platform: JawsPlatform, patience: float) -> str:
    if (directory := platform.jaws_config.refdata_dir) is None:
        return "jaws.refdata_dir is blank: there is no reference data at JAWS sites"
    own = f"{directory}/{REFDATA}"
    script = ["bash", "-c", _WRITABLE, "cts", own]
    await _run(platform, platform.nersc_config.transfer_machine, script, patience, f"{own} cannot be written")
    return f"{own} can be written"


async def _command(platform: JawsPlatform, patience: float) -> str:
    name = platform.jaws_config.executable
    script = ["bash", "-c", f"command -v {shlex.quote(name)}"]
    await _run(platform, platform.nersc_config.submit_machine, script, patience, f"there is no command {name}")
    return f"{name} is there"


async def _run(platform: JawsPlatform, machine: str, arguments: Sequence[str], patience: float, wrong: str) -> None:
    ran = await platform.nersc.run(machine, arguments, within=patience)
    if ran.exit_code != 0:
        said = (ran.error or ran.output).strip()[-500:]
        raise SiteUnreachableError(f"{machine}: {wrong} (exit code {ran.exit_code}{f': {said}' if said else ''})")
