"""Build OCI images with the standard library alone, and push them to a local registry over plain http.

The same input gives the same digest, on any machine and at any time: entries are sorted, no clock is read,
and the layer is not compressed, since compressors differ between versions.
"""

import hashlib
import http.client
import io
import json
import platform
import subprocess
import tarfile
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from pathlib import Path

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_EPOCH = "1970-01-01T00:00:00Z"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def host_architecture() -> str:
    """This machine's architecture in the words of OCI, such as "amd64"."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class ImageSpec:
    """What an image holds and how it starts. Paths are absolute; files are executable (mode 0755)."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    """Symbolic links: path to target."""
    directories: Sequence[str] = ()
    """Empty directories that anyone may write to (mode 1777)."""
    entrypoint: Sequence[str] | None = None
    command: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    architecture: str = field(default_factory=host_architecture)


@dataclass(frozen=True)
class Image:
    """The blobs of a built image."""

    manifest: bytes
    config: bytes
    layer: bytes
    architecture: str

    @property
    def digest(self) -> str:
        """The manifest's digest, "sha256:…"."""
        return digest_of(self.manifest)


@dataclass(frozen=True)
class Pushed:
    """An image in a registry."""

    name: str
    """With registry and repository, without a tag: "127.0.0.1:15000/tools/seqtool"."""
    tag: str
    digest: str

    @property
    def by_tag(self) -> str:
        """ "NAME:TAG"."""
        return f"{self.name}:{self.tag}"

    @property
    def by_digest(self) -> str:
        """ "NAME@sha256:…"."""
        return f"{self.name}@{self.digest}"


def build_image(spec: ImageSpec) -> Image:
    """Build an image of one layer."""
    layer = _layer(spec)
    settings: dict[str, object] = {"Env": [f"{name}={value}" for name, value in sorted(spec.env.items())]}
    for key, value in (("Entrypoint", spec.entrypoint), ("Cmd", spec.command)):
        if value is not None:
            settings[key] = list(value)
    settings |= {key: text for key, text in (("User", spec.user), ("WorkingDir", spec.workdir)) if text}
    config = _json(
        {
            "architecture": spec.architecture,
            "os": "linux",
            "created": _EPOCH,
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
            "history": [{"created": _EPOCH, "created_by": "cdmtaskservice.embedded.image"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [_descriptor(_LAYER, layer)],
        }
    )
    return Image(manifest, config, layer, spec.architecture)


def shell_image(parts: Path, script: bytes | None = None) -> ImageSpec:
    """An image with a static busybox, all its applets, a static bash, /tmp and the usual PATH.

    `script` becomes /usr/local/bin/tool and the entrypoint; without it the image has none. For anything else
    change the result with `dataclasses.replace`.
    """
    debian = parts / "debian"
    busybox, bash = (_find(debian, name) for name in ("busybox", "bash-static"))
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=10)
    applets = set(listed.stdout.split()) - {"busybox", "bash"}
    tool = {} if script is None else {"/usr/local/bin/tool": script}
    return ImageSpec(
        files={"/bin/busybox": busybox.read_bytes(), "/bin/bash": bash.read_bytes(), **tool},
        links={f"/bin/{name}": "busybox" for name in applets},
        directories=("/tmp",),  # noqa: S108 - inside the image
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        entrypoint=tuple(tool) or None,
    )


def push(registry: str, repository: str, tag: str, image: Image) -> Pushed:
    """Push an image to "HOST:PORT" under REPOSITORY:TAG. Raises RegistryRefused."""
    with _Registry(registry) as target:
        target.add_image(repository, tag, image)
    return Pushed(f"{registry}/{repository}", tag, image.digest)


def push_index(registry: str, repository: str, tag: str, images: Iterable[Image]) -> Pushed:
    """Push images of several architectures under one tag; the digest is the index's."""
    members = []
    with _Registry(registry) as target:
        for image in images:
            target.add_image(repository, image.digest, image)
            where = {"os": "linux", "architecture": image.architecture}
            members.append({**_descriptor(_MANIFEST, image.manifest), "platform": where})
        index = _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": members})
        target.add_manifest(repository, tag, _INDEX, index)
    return Pushed(f"{registry}/{repository}", tag, digest_of(index))


def push_seqtool(registry: str, parts: Path, repository: str = "tools/seqtool", tag: str = "1.0") -> Pushed:
    """Build and push the small FASTA tool of the demo and the tests; `seqtool.sh` tells what it can do."""
    script = (package_files(__package__) / "seqtool.sh").read_bytes()
    return push(registry, repository, tag, build_image(shell_image(parts, script)))


class RegistryRefused(Exception):
    """A registry did not take what was pushed; the text holds its answer."""


def digest_of(blob: bytes) -> str:
    """ "sha256:" and 64 hex digits."""
    return "sha256:" + hashlib.sha256(blob).hexdigest()


class _Registry:
    """The few calls of the OCI distribution protocol (v2) that a push needs."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=30)

    def __enter__(self) -> "_Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add_image(self, repository: str, reference: str, image: Image) -> None:
        for blob in (image.layer, image.config):
            self._add_blob(repository, blob)
        self.add_manifest(repository, reference, _MANIFEST, image.manifest)

    def add_manifest(self, repository: str, reference: str, media_type: str, manifest: bytes) -> None:
        self._call("PUT", f"/v2/{repository}/manifests/{reference}", manifest, media_type, wanted=201)

    def _add_blob(self, repository: str, blob: bytes) -> None:
        digest = digest_of(blob)
        if self._call("HEAD", f"/v2/{repository}/blobs/{digest}")[0] == 200:
            return
        _, location = self._call("POST", f"/v2/{repository}/blobs/uploads/", wanted=202)
        # The registry names a place of its own, absolute or not, often with a query already.
        place = urllib.parse.urlsplit(location)
        query = "&".join(filter(None, [place.query, urllib.parse.urlencode({"digest": digest})]))
        self._call("PUT", f"{place.path}?{query}", blob, "application/octet-stream", wanted=201)

    def _call(
        self, method: str, path: str, body: bytes = b"", media_type: str = "", wanted: int | None = None
    ) -> tuple[int, str]:
        """Status and Location of the answer; an unwanted status raises."""
        self._connection.request(method, path, body, {"Content-Type": media_type} if media_type else {})
        response = self._connection.getresponse()
        text = response.read().decode(errors="replace")
        if wanted is not None and response.status != wanted:
            raise RegistryRefused(f"{method} {path}: {response.status} {text.strip()}")
        return response.status, response.headers.get("Location", "")


def _layer(spec: ImageSpec) -> bytes:
    entries: dict[str, tuple[tarfile.TarInfo, bytes]] = {}

    def add(path: str, kind: bytes, mode: int, content: bytes = b"", target: str = "") -> None:
        name = path.strip("/")
        parent = name.rpartition("/")[0]
        if parent and parent not in entries:
            add(parent, tarfile.DIRTYPE, 0o755)
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), target
        entries[name] = (entry, content)

    for path in spec.directories:
        add(path, tarfile.DIRTYPE, 0o1777)
    for path, content in spec.files.items():
        add(path, tarfile.REGTYPE, 0o755, content)
    for path, target in spec.links.items():
        add(path, tarfile.SYMTYPE, 0o777, target=target)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for _, (entry, content) in sorted(entries.items()):  # a directory sorts before what it holds
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _find(debian: Path, name: str) -> Path:
    return next(path for path in (debian / "bin" / name, debian / "usr/bin" / name) if path.is_file())


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "size": len(blob), "digest": digest_of(blob)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
