#!/bin/bash
# Make .venv hold exactly what uv.lock says. Usage: environment.sh PARTS, where uv is kept if PATH has none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
parts=$1
own=$parts/uv
noted=$parts/uv.log

say() { printf '%s\n' "$*"; }

# Each way to a uv of our own, from the cleanest on; what they print is shown only if all of them fail.
through_venv() { python3 -m venv --clear "$own" && "$own/bin/pip" install --quiet uv; }
through_pip() { rm -rf "$own" && python3 -m pip install --quiet --target "$own" uv; }
through_apt() {
    [[ $EUID == 0 ]] && command -v apt-get >/dev/null &&
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends python3-venv &&
        through_venv
}

find_uv() {
    if uv --version >/dev/null 2>&1; then # a shim may be on PATH with nothing behind it
        command -v uv
        return
    fi
    if "$own/bin/uv" --version >/dev/null 2>&1; then
        printf '%s\n' "$own/bin/uv"
        return
    fi
    say "uv is not on PATH: installing it into $own …" >&2
    mkdir -p "$parts"
    for way in through_venv through_pip through_apt; do
        if "$way" >>"$noted" 2>&1 && [[ -x $own/bin/uv ]]; then
            printf '%s\n' "$own/bin/uv"
            return
        fi
    done
    tail -n 15 "$noted" >&2
    say "uv could not be installed (all of it: $noted). Install the package python3-venv and run this again," \
        "or install uv yourself and put it on PATH." >&2
    return 1
}

command -v python3 >/dev/null || {
    say "python3 is missing: install Python 3.11 or newer." >&2
    exit 1
}
uv=$(find_uv)
[[ -x .venv/bin/python ]] || say "installing the Python packages of uv.lock into .venv …"
for pause in 3 10 0; do # the network may be flaky; a wrong lock file fails three times, quickly
    "$uv" sync --locked --all-extras --quiet && exit
    ((pause)) && say "trying again in $pause s …" >&2 && sleep "$pause"
done
say "uv could not install what uv.lock names; its reason stands above." >&2
exit 1
