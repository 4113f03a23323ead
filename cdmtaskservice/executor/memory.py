"""What earlier executors on this worker have learned of its engine, so that not each of them must ask again.

Asking costs more than starting a container. What is remembered may have become wrong, so it is only ever believed where
a wrong belief shows at once, as a container that does not start; and then it is forgotten.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress

ENGINE_SECONDS = 3600.0
IMAGE_SECONDS = 86400.0

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Memory:
    """Notes below `cache`, a directory that outlives the job. Without one nothing is remembered. Nothing raises."""

    def __init__(self, cache: str | None) -> None:
        self._directory = os.path.join(cache, "known") if cache else None

    def engine(self, path: str) -> str | None:
        """What the engine called `path` said of itself."""
        return self._recall("engine", {"engine": _command(path)}, ENGINE_SECONDS)

    def learn_engine(self, path: str, said: str) -> None:
        """Remember what it said."""
        self._learn("engine", {"engine": _command(path)}, said)

    def has_image(self, path: str, image: str) -> bool:
        """Whether the engine had this image."""
        return self._recall(_image_note(image), {"engine": _command(path), "image": image}, IMAGE_SECONDS) is not None

    def learn_image(self, path: str, image: str) -> None:
        """Remember that it has."""
        self._learn(_image_note(image), {"engine": _command(path), "image": image}, "")

    def forget(self, image: str) -> None:
        """Something was not as it was remembered: of the engine, or that it has this image."""
        for name in ("engine", _image_note(image)):
            if self._directory:
                with suppress(OSError):
                    os.unlink(self._path(name))

    def _path(self, name: str) -> str:
        return os.path.join(self._directory or "", f"{name}.{os.geteuid()}.json")

    def _recall(self, name: str, about: Mapping[str, str], seconds: float) -> str | None:
        if not self._directory:
            return None
        try:
            note = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(note) as file:
                state = os.fstat(note)
                ours = state.st_uid in (os.geteuid(), 0) and not stat.S_IMODE(state.st_mode) & 0o022
                if not ours or not 0 <= time.time() - state.st_mtime <= seconds:
                    return None
                noted = json.load(file)
            return str(noted["said"]) if noted["about"] == {**about, "boot": boot_id()} else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _learn(self, name: str, about: Mapping[str, str], said: str) -> None:
        if not self._directory:
            return
        path = self._path(name)
        aside = f"{path}.{os.getpid()}"
        with suppress(OSError):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as note:
                json.dump({"about": {**about, "boot": boot_id()}, "said": said}, note)
            os.replace(aside, path)


def _image_note(image: str) -> str:
    return "image-" + image.rpartition(":")[2]


def _command(path: str) -> str:
    """What tells one command from another: a plain name means what the PATH makes of it."""
    return path if "/" in path else f"{path} of {os.environ.get('PATH', '')}"


def boot_id() -> str:
    """Another one each time that the machine is started. Raises OSError."""
    with open(_BOOT_ID) as file:
        return file.read().strip()
