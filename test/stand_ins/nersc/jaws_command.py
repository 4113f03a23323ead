"""The `jaws` command: `jaws submit [--tag TAG] WDL JSON SITE`, with JAWS_USER_CONFIG naming an ini file.

Prints JSON with the run's ID. Exit code 1, with words on stderr, where the run is not taken or nobody knows; 2 for
a wrong command line. Needs nothing but Python; its first argument, the server, is written
into the executable that calls it.
"""

import argparse
import configparser
import json
import os
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_TIMEOUT = 60


def main() -> int:
    """The exit code."""
    server, *rest = sys.argv[1:]
    parser = argparse.ArgumentParser(prog="jaws")
    commands = parser.add_subparsers(dest="command", required=True)
    submit = commands.add_parser("submit", help="submit a run for execution at a site")
    submit.add_argument("--tag")
    submit.add_argument("wdl", type=Path)
    submit.add_argument("inputs", type=Path)
    submit.add_argument("site")
    options = parser.parse_args(rest)
    try:
        token, team = _user()
        asked = {
            "wdl": options.wdl.read_text(encoding="utf-8"),
            "inputs": options.inputs.read_text(encoding="utf-8"),
            "site": options.site,
            "tag": options.tag,
            "team": team,
        }
        print(json.dumps(_ask(f"{server}/jaws/stand-in/submit", token, asked), indent=4))
    except (OSError, ValueError, LookupError, configparser.Error) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    return 0


def _user() -> tuple[str, str]:
    """The token and the team of the user's configuration."""
    path = Path(os.environ.get("JAWS_USER_CONFIG") or Path.home() / "jaws.conf")
    config = configparser.ConfigParser(interpolation=None)
    with path.open(encoding="utf-8") as file:
        config.read_file(file)
    return config["USER"]["token"].strip(), config["USER"]["default_team"].strip()


def _ask(url: str, token: str, body: dict[str, str]) -> object:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with _OPENER.open(request, timeout=_TIMEOUT) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode("utf-8", "replace")
        with suppress(ValueError, LookupError, TypeError):
            text = json.loads(text)["detail"]["error"]
        raise OSError(f"{error.code}: {text}") from None


if __name__ == "__main__":
    sys.exit(main())
