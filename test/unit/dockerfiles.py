"""Reads Dockerfiles as far as tests need it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).parents[2]


@dataclass
class Stage:
    """What follows a FROM: (instruction, rest) of each line, continued lines joined."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """What the instructions of this sort say."""
        return [rest for word, rest in self.steps if word == instruction]


def read(file: Path) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first stage with their defaults, and the stages in order."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base.strip(), name.strip()))
        elif not stages:
            assert word == "ARG"
            name, _, default = rest.partition("=")
            arguments[name] = default
        else:
            stages[-1].steps.append((word, re.sub(r"\s+", " ", rest.strip())))
    return arguments, stages


def copied(stage: Stage) -> list[str]:
    """The sources of what comes from the build context."""
    found = []
    for rest in stage.all("COPY"):
        words = [word for word in rest.split() if not word.startswith("--")]
        if "--from=" not in rest:
            found += words[:-1]
    return found


def in_context(path: str) -> bool:
    """Whether `.dockerignore` lets a path in: it shuts out all, and then names what is not."""
    lines = (REPO / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    named = [line.removeprefix("!") for line in rules if line.startswith("!")]
    return any(path == name or path.startswith(f"{name}/") for name in named)
