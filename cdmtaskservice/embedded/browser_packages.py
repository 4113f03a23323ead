"""Fetch a browser without a window from Debian's archive into `PARTS/browser`; the system stays as it is.

    python -m cdmtaskservice.embedded.browser_packages PARTS

For the tests of the pages. `PARTS/browser/chromium` starts it with the libraries that this machine lacks, and with a
font, so that there is text on screenshots of any machine. The tree may be moved.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cdmtaskservice.embedded import apt

_FORMAT = 1  # raise when the layout of the result changes
_BROWSER = "chromium-headless-shell"
_FONT = "fonts-dejavu-core"
# Fetched even where the machine has them; what else depends on them must count as missing with them.
_ALWAYS_OURS = frozenset({_BROWSER, "chromium-common", "chromium", "chromium-driver", "chromium-shell"})
_UNNEEDED = (
    "etc",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/icons",
    "usr/share/locale",
    "usr/lib/chromium/libVkLayer_*",
)
_FONTS = """\
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir prefix="relative">usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
  <alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
  <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""
_WRAPPER = """\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
export FONTCONFIG_FILE="$here/fonts.conf"
{libraries}exec "$here/usr/lib/chromium/{browser}" "$@"
"""


def fetch(parts: Path) -> bool:
    """Bring `parts`/browser up to date; False if it was so already. Raises FetchFailed."""
    return apt.bring(parts / "browser", _key(), _make)


def is_complete(parts: Path) -> bool:
    """Whether `parts`/browser holds all that this version of the project asks for."""
    return apt.is_brought(parts / "browser", _key())


def program(parts: Path) -> Path:
    """What starts the browser."""
    return parts / "browser/chromium"


def main(arguments: Sequence[str]) -> int:
    """Fetch it into the directory that is the only argument; exit code 1 with the reasons on standard error."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m cdmtaskservice.embedded.browser_packages PARTS\n")
        return 2
    parts = Path(arguments[0]).absolute()
    how = f"Chromium from Debian, for the tests of pages, into {parts}/browser"
    return 0 if apt.bring_and_say("browser", how, lambda: is_complete(parts), lambda: fetch(parts)) else 1


def _key() -> str:
    return apt.key_of(_FORMAT, [_BROWSER, _FONT])


def _make(work: Path) -> None:
    unpacked = work / "unpacked"
    # With the machine's status apt leaves out the libraries that are there already.
    own = apt.Apt(work / "apt", status=apt.status_without(_ALWAYS_OURS))
    own.update()
    own.fetch_with_dependencies([_BROWSER])
    own.fetch([_FONT])
    own.unpack(unpacked)
    for pattern in _UNNEEDED:
        for path in unpacked.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    _wrap(unpacked)
    apt.run([str(unpacked / "chromium"), "--version"])


def _wrap(unpacked: Path) -> None:
    (unpacked / "fonts.conf").write_text(_FONTS)
    folders = sorted({so.parent.relative_to(unpacked) for so in unpacked.glob("**/*-linux-gnu*/**/lib*.so*")})
    libraries = (
        'export LD_LIBRARY_PATH="{}"\n'.format(":".join(f"$here/{folder}" for folder in folders)) if folders else ""
    )
    wrapper = unpacked / "chromium"
    wrapper.write_text(_WRAPPER.format(libraries=libraries, browser=_BROWSER))
    wrapper.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
