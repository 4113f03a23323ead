"""The commit that the service says it is."""

import os
import subprocess
from pathlib import Path

import pytest

from cdmtaskservice.wiring.revision import git_hash


@pytest.fixture(autouse=True)
def not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ["CTS_GIT_HASH", *(name for name in os.environ if name.startswith("GIT_"))]:
        monkeypatch.delenv(name, raising=False)


def git(root: Path, *args: str) -> str:
    who = ["-c", "user.name=ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", root, *who, *args], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    return tmp_path


def test_of_a_checkout(checkout: Path) -> None:
    assert git_hash(checkout) == git(checkout, "rev-parse", "HEAD")


def test_what_the_image_says_counts_first(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTS_GIT_HASH", "0123abc")
    assert git_hash(checkout) == "0123abc"


def test_an_installed_package_is_not_of_the_repository_around_it(checkout: Path) -> None:
    installed = checkout / "lib"
    installed.mkdir()
    assert git_hash(installed) == "unknown"


def test_another_repository_is_not_taken_for_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = checkout / "broken"
    (broken / ".git").mkdir(parents=True)
    assert git_hash(broken) == "unknown"
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    assert git_hash(broken) == "unknown"


def test_without_git_nothing_is_known(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_hash(checkout) == "unknown"
