"""The image, built as its Dockerfile says on a base that is made of Debian's own packages, and a service that runs it.

What the Dockerfile takes from registries otherwise, a base with Python and crane, comes from this machine's own mirror
and from the fetched parts.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdmtaskservice.embedded import apt
from cdmtaskservice.embedded.service import EmbeddedService
from cdmtaskservice.embedded.stack import EmbeddedStack

REPO = Path(__file__).parents[2]
BASE, CRANE = "localhost/cts-test/debian:base", "localhost/cts-test/crane:1"
USER = 10001
"""The service's user in the image."""

_LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_BEGIN = "-----BEGIN CERTIFICATE-----"


class Images:
    """Builds images with the stack's podman."""

    def __init__(self, stack: EmbeddedStack, work: Path) -> None:
        self.stack = stack
        self._work = work
        self.seconds: dict[str, float] = {}
        """What took how long."""

    def podman(self, *arguments: str) -> str:
        """What podman prints."""
        done = subprocess.run([self.stack.podman, *arguments], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"podman {arguments[0]}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def make_base(self, suite: str | None = None) -> None:
        """A Debian without Python, which trusts whom this machine trusts and reaches what it reaches."""
        begun = time.monotonic()
        state = self._work / "apt"
        state.mkdir(parents=True)
        own = apt.Apt(state / "own")
        own.update()
        own.fetch(["mmdebstrap"])
        own.unpack(state / "tools")
        tar = self._work / "base.tar"
        apt.run(
            [
                *("env", f"PATH={state / 'tools/usr/bin'}:{os.environ['PATH']}", "perl"),
                *(str(state / "tools/usr/bin/mmdebstrap"), "--quiet", "--variant=minbase"),
                "--include=ca-certificates",
                '--aptopt=Acquire::Languages "none"',
                *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
                f"--customize-hook={self._as_this_machine()}",
                *(suite or platform.freedesktop_os_release()["VERSION_CODENAME"], str(tar), apt.mirror()),
            ]
        )
        self.podman("import", "--quiet", str(tar), BASE)
        tar.unlink()
        self.seconds["base"] = time.monotonic() - begun

    def make_crane(self) -> None:
        """An image with crane where crane's own has it."""
        program = next(self.stack.parts.glob("debian/**/bin/crane")).resolve()
        tar = self._work / "crane.tar"
        with tarfile.open(tar, "w") as archive:
            archive.add(program, "ko-app/crane")
        self.podman("import", "--quiet", str(tar), CRANE)

    def build(self, tag: str, **arguments: str) -> dict[str, Any]:
        """The service's image from the Dockerfile; returns what podman says of it."""
        begun = time.monotonic()
        values = {"BASE": BASE, "CRANE_IMAGE": CRANE, **arguments}
        words = [word for name, value in values.items() for word in ("--build-arg", f"{name}={value}")]
        # Docker's own format: OCI's has no health check.
        self.podman("build", "--format=docker", "--network=host", "--pull=never", *words, f"--tag={tag}", str(REPO))
        self.seconds["build"] = time.monotonic() - begun
        [told] = json.loads(self.podman("image", "inspect", tag))
        return dict(told)

    def _as_this_machine(self) -> str:
        """A script that takes over, into the root `$1`, what this machine needs to reach the world."""
        given = self._work / "given"
        (given / "authorities").mkdir(parents=True)
        if _AUTHORITIES.exists():
            for number, rest in enumerate(_AUTHORITIES.read_text().split(_BEGIN)[1:]):
                (given / f"authorities/this-machine-{number}.crt").write_text(_BEGIN + rest)
        proxies = apt.run(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire::http", "Acquire::https"])
        kept = [line for line in proxies.splitlines() if "::Proxy" in line]
        (given / "this-machine.conf").write_text("".join(f"{line}\n" for line in kept))
        return " && ".join(
            [
                'mkdir -p "$1/usr/local/share/ca-certificates"',
                f'cp "{given}/authorities/"* "$1/usr/local/share/ca-certificates/"',
                f'cp "{given}/this-machine.conf" "$1/etc/apt/apt.conf.d/90this-machine"',
                'chroot "$1" update-ca-certificates >/dev/null',
            ]
        )


class ImageService(EmbeddedService):
    """The service from the image, on a pool: as strangers run it, with a root file system that nobody can write to."""

    def __init__(self, image: str, *arguments: Any, **options: Any) -> None:
        self._image = image
        super().__init__(*arguments, **options)
        self.container = f"cts-image-{self.home.parent.name}"

    def command(self, ports: Mapping[str, int]) -> list[str]:
        super().command(ports)
        given = self._given()
        variables = {
            **self._variables(),
            "KBCTS_SERVICE_EXTERNAL_URL": self.url,
            "KBCTS_AUTH_LOCAL_FILE": "/run/cts/accounts.json",
            "KBCTS_HTCONDOR_CONDOR_CONFIG": "/run/cts/condor_config",
            # Other processes of the service stage it, which see the directory.
            "KBCTS_HTCONDOR_REFDATA_BY": "refdata_service",
        }
        return [
            *(str(self.stack.podman), "run", "--rm", f"--name={self.container}", "--network=host"),
            *("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges"),
            f"--mount=type=bind,src={given},dst=/run/cts,ro=true",
            *(f"--env={name}={value}" for name, value in variables.items()),
            self._image,
        ]

    def environment(self) -> dict[str, str]:
        return {name: value for name, value in super().environment().items() if not name.startswith("KBCTS_")}

    def execute(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run something in the container."""
        return subprocess.run(
            [self.stack.podman, "exec", self.container, *arguments], capture_output=True, text=True, timeout=60
        )

    def _came_up(self) -> bool:
        # The ports are the container's, and no process of ours listens to them.
        while self.pid is not None and time.monotonic() < self._deadline:
            if self.answers():
                return True
            time.sleep(0.1)
        return False

    def _variables(self) -> dict[str, str]:
        found = {name: value for name, value in super().environment().items() if name.startswith("KBCTS_")}
        kept = {name: v for name, v in found.items() if not name.startswith(("KBCTS_LOCAL_", "KBCTS_IMAGES_CRANE"))}
        assert kept
        return kept

    def _given(self) -> Path:
        """The files that the container sees, readable by its user."""
        assert self.pool is not None
        given = self.home / "given"
        shutil.rmtree(given, ignore_errors=True)
        client = self.pool.client_config.parent
        shutil.copytree(client, given)
        shutil.copy(self._shared / "accounts.json", given)
        config = given / "condor_config"
        config.write_text(config.read_text().replace(str(client), "/run/cts"))
        _give([given, *given.rglob("*")])
        return given


def _give(paths: Sequence[Path]) -> None:
    for path in paths:
        if os.geteuid() == 0:
            os.chown(path, USER, USER)
        else:
            path.chmod(0o755 if path.is_dir() else 0o644)
