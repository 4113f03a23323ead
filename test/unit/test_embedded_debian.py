"""Fetching the container tools: what happens where it cannot be done. Nothing here touches the network."""

from pathlib import Path

import pytest

from cdmtaskservice.embedded import debian


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory that is all of PATH, and no pauses between tries."""
    monkeypatch.setattr(debian, "_PAUSES", (0, 0))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_machine_without_apt(quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert debian.main([str(tmp_path / "parts")]) == 1
    assert "apt-get is missing" in capsys.readouterr().err


def test_archive_out_of_reach(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_INSTALLED", tmp_path / "status")
    (tmp_path / "status").write_text("Package: podman\nVersion: 1\n\nPackage: libc6\nVersion: 2\n")
    program(quick, "dpkg", "exit 0")
    program(quick, "apt-get", f"echo again >>{tmp_path}/tries; echo 'E: no route to host' >&2; exit 100")
    with pytest.raises(debian.FetchFailed, match=r"(?s)exit code 100.*no route to host.*run this again"):
        debian.fetch(tmp_path / "parts")
    assert (tmp_path / "tries").read_text().count("again") == 3
    assert not (tmp_path / "parts/debian").exists()
    assert not (tmp_path / "parts/debian.new").exists()


def test_what_is_installed_counts_except_what_must_be_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_INSTALLED", tmp_path / "status")
    (tmp_path / "status").write_text("Package: podman\nVersion: 1\n\nPackage: libc6\nVersion: 2\n")
    assert debian._status_without(frozenset({"podman"})) == "Package: libc6\nVersion: 2\n"


def test_finished_for_another_release_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian/COMPLETE").write_text(debian._key())
    assert debian.is_complete(tmp_path)
    assert debian.fetch(tmp_path) is False
    monkeypatch.setattr(debian.platform, "freedesktop_os_release", lambda: {"ID": "debian", "VERSION_ID": "99"})
    assert not debian.is_complete(tmp_path)


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert debian.main([]) == 2
    assert "usage" in capsys.readouterr().err
