"""The browser's tree: started with its own libraries and fonts, wherever it lies."""

from pathlib import Path

from cdmtaskservice.embedded import apt, browser_packages


def test_the_program_finds_what_is_beside_it(tmp_path: Path) -> None:
    tree = tmp_path / "browser"
    for folder in ("usr/lib/chromium", "usr/lib/any-linux-gnu/deeper"):
        (tree / folder).mkdir(parents=True)
    (tree / "usr/lib/any-linux-gnu/libone.so.1").touch()
    (tree / "usr/lib/any-linux-gnu/deeper/libtwo.so").touch()
    real = tree / "usr/lib/chromium/chromium-headless-shell"
    real.write_text('#!/bin/sh\necho "$FONTCONFIG_FILE" "$LD_LIBRARY_PATH" "$@"\n')
    real.chmod(0o755)
    browser_packages._wrap(tree)
    moved = tree.rename(tmp_path / "moved")
    assert browser_packages.program(tmp_path) == tmp_path / "browser/chromium"
    fonts, libraries, *arguments = apt.run([str(moved / "chromium"), "--an", "argument"]).split()
    assert fonts == f"{moved}/fonts.conf"
    assert libraries == f"{moved}/usr/lib/any-linux-gnu:{moved}/usr/lib/any-linux-gnu/deeper"
    assert arguments == ["--an", "argument"]
    assert "usr/share/fonts" in (moved / "fonts.conf").read_text()
