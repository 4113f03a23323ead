"""Fetching packages: what happens where it cannot be done, and when it is done. Nothing here touches the network."""

from pathlib import Path

import pytest

from cdmtaskservice.embedded import apt, browser_packages, condor_packages, debian


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory that is all of PATH, and no pauses between tries."""
    monkeypatch.setattr(apt, "_PAUSES", (0, 0))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_machine_without_apt(quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert debian.main([str(tmp_path / "parts")]) == 1
    told = capsys.readouterr()
    assert told.err.count("apt-get is missing") == 2
    assert "fetching HTCondor" in told.out
    assert browser_packages.main([str(tmp_path / "parts")]) == 1
    told = capsys.readouterr()
    assert "browser: apt-get is missing" in told.err
    assert "fetching Chromium" in told.out


def test_archive_out_of_reach(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "_INSTALLED", tmp_path / "status")
    (tmp_path / "status").write_text("Package: podman\nVersion: 1\n\nPackage: libc6\nVersion: 2\n")
    program(quick, "dpkg", "exit 0")
    program(quick, "apt-get", f"echo again >>{tmp_path}/tries; echo 'E: no route to host' >&2; exit 100")
    with pytest.raises(debian.FetchFailed, match=r"(?s)exit code 100.*no route to host.*run this again"):
        debian.fetch(tmp_path / "parts")
    assert (tmp_path / "tries").read_text().count("again") == 3
    assert not (tmp_path / "parts/debian").exists()
    assert not (tmp_path / "parts/debian.new").exists()


def test_every_newer_suite_is_tried(quick: Path, tmp_path: Path) -> None:
    program(quick, "dpkg", "exit 0")
    mirror = "echo Debian file:/nowhere"
    program(
        quick, "apt-get", f'[ "$1" != indextargets ] || {{ {mirror}; exit 0; }}; echo "no condor here" >&2; exit 100'
    )
    with pytest.raises(
        apt.FetchFailed, match=r"(?s)condor is in none of the suites testing, sid.*no condor.*no condor"
    ):
        condor_packages.fetch(tmp_path / "parts")
    assert not (tmp_path / "parts/condor").exists()


def test_what_is_installed_counts_except_what_must_be_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "_INSTALLED", tmp_path / "status")
    (tmp_path / "status").write_text("Package: podman\nVersion: 1\n\nPackage: libc6\nVersion: 2\n")
    assert apt.status_without(frozenset({"podman"})) == "Package: libc6\nVersion: 2\n"


@pytest.mark.parametrize(
    ("fetcher", "name"), [(debian, "debian"), (condor_packages, "condor"), (browser_packages, "browser")]
)
def test_finished_for_another_release_is_not_finished(
    fetcher: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "COMPLETE").write_text(fetcher._key())  # type: ignore[attr-defined]
    assert fetcher.is_complete(tmp_path)  # type: ignore[attr-defined]
    assert fetcher.fetch(tmp_path) is False  # type: ignore[attr-defined]
    monkeypatch.setattr(apt.platform, "freedesktop_os_release", lambda: {"ID": "debian", "VERSION_ID": "99"})
    assert not fetcher.is_complete(tmp_path)  # type: ignore[attr-defined]


def test_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    prefix = tmp_path / "tools"

    def make(work: Path) -> None:
        (work / "unpacked/file").write_text(str(len(list(tmp_path.iterdir()))))

    def fail(work: Path) -> None:
        make(work)
        raise apt.FetchFailed("half way")

    assert apt.bring(prefix, "first", make)
    assert not apt.bring(prefix, "first", fail)
    with pytest.raises(apt.FetchFailed):
        apt.bring(prefix, "second", fail)
    assert apt.is_brought(prefix, "first")
    assert apt.bring(prefix, "second", make)
    assert apt.is_brought(prefix, "second")
    assert not (tmp_path / "tools.new").exists()


def test_wrapped_programs_move_with_their_tree(tmp_path: Path) -> None:
    """The wrapper starts the real program beside it through the tree's own linker, under the name it was called by."""
    tree = tmp_path / "tree"
    (tree / "usr/lib/any-linux-gnu").mkdir(parents=True)
    program(tree / "usr/lib/any-linux-gnu", "ld-linux-any.so.2", 'echo "$@"')
    for folder in ("usr/bin", "usr/sbin", "usr/libexec/condor"):
        (tree / folder).mkdir(parents=True)
    (tree / "usr/bin/tool").write_bytes(b"\x7fELF and so on /lib64/ld-linux-x86-64.so.2")
    (tree / "usr/bin/other").symlink_to("tool")
    (tree / "usr/bin/script").write_text("#!/bin/sh\n")
    condor_packages._wrap(tree)
    moved = tree.rename(tmp_path / "moved")
    told = apt.run([str(moved / "usr/bin/other"), "an argument"]).split()
    assert told[:2] == ["--argv0", str(moved / "usr/bin/other")]
    assert told[-3:] == [f"{moved}/usr/bin/tool.real", "an", "argument"]
    assert (moved / "usr/bin/script").read_text() == "#!/bin/sh\n"


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for fetcher in (debian, browser_packages):
        assert fetcher.main([]) == 2
        assert "usage" in capsys.readouterr().err
