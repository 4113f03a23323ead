"""Who works in a directory of reference data: a name that outlives its process, and is nobody else's meanwhile."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdmtaskservice.stager.stores import Store, StoreUnusableError

HOLD = """
import sys
from pathlib import Path
from cdmtaskservice.stager.stores import Store
store = Store("here", Path(sys.argv[1]))
store.open()
print(store.claim, flush=True)
sys.stdin.read()
"""


def holder(root: Path) -> tuple[subprocess.Popen[str], str]:
    """A process that works in the directory until its standard input ends, and the name that it has."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def opened(root: Path) -> Store:
    store = Store("here", root)
    store.open()
    return store


def test_a_process_that_was_killed_gets_its_name_back(tmp_path: Path) -> None:
    process, name = holder(tmp_path)
    end(process)
    assert len(name) == 32
    store = opened(tmp_path)
    assert store.claim == name
    store.close()


def test_two_at_once_are_two_and_each_gets_a_name_back(tmp_path: Path) -> None:
    first, name = holder(tmp_path)
    try:
        second = opened(tmp_path)
        third = opened(tmp_path)
        assert len({name, second.claim, third.claim}) == 3
    finally:
        end(first)
    again = opened(tmp_path)
    assert again.claim == name
    for store in (second, third, again):
        store.close()
    assert {opened(tmp_path).claim for _ in range(3)} == {name, second.claim, third.claim}


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    name = store.claim
    store.open()
    assert store.claim == name
    store.close()
    store.close()
    store.open()
    assert store.claim == name
    store.close()


def test_a_name_that_was_never_written_is_made(tmp_path: Path) -> None:
    (tmp_path / ".cts/services").mkdir(parents=True)
    (tmp_path / ".cts/services/0").touch()
    store = opened(tmp_path)
    assert (tmp_path / ".cts/services/0").read_text() == store.claim != ""
    store.close()


@pytest.fixture(params=[0o022, 0o077, 0o000], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_the_directory_is_for_all_to_read_and_the_rest_is_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    store = opened(tmp_path)
    task = store.new_task_dir()
    assert task.is_dir()
    tasks = tmp_path / ".cts/tasks"
    assert task.parent == tasks / store.claim
    private = (tmp_path / ".cts/services", tasks, task.parent, task)
    modes = {str(p): stat.S_IMODE(p.stat().st_mode) for p in (tmp_path, tmp_path / ".cts", *private)}
    assert list(modes.values()) == [0o775, 0o755, 0o700, 0o700, 0o700, 0o700], modes
    assert stat.S_IMODE((tmp_path / ".cts/services/0").stat().st_mode) == 0o600
    store.close()


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    store = Store("here", tmp_path / "ref")
    with pytest.raises(StoreUnusableError, match=r"ref cannot be used for the reference data of here: .*No such file"):
        store.open()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "ref").mkdir()
    store.open()
    store.close()


def test_the_root_is_where_links_lead(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = opened(tmp_path / "link")
    assert store.root == tmp_path / "real"
    other = opened(tmp_path / "real")
    assert other.claim != store.claim
    store.close()
    other.close()


def test_a_directory_that_cannot_be_used_says_whose_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusableError, match=r"file.* reference data of here: .*(exists|directory)"):
        Store("here", tmp_path / "file").open()
    (tmp_path / ".cts/services").mkdir(parents=True)
    (tmp_path / ".cts/services/0").write_bytes(b"\xff")
    with pytest.raises(StoreUnusableError, match="utf-8"):
        Store("here", tmp_path).open()


def test_a_process_has_its_own_tasks_and_forgets_no_others(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.forget_tasks(())  # there is nothing yet
    kept, left, foreign = one.new_task_dir(), one.new_task_dir(), other.new_task_dir()
    assert kept != left
    for directory in (kept, left, foreign):
        (directory / "result.json").touch()
    one.forget_tasks([kept])
    assert (kept.exists(), left.exists(), foreign.exists()) == (True, False, True)
    one.forget_tasks(())
    assert (kept.exists(), foreign.exists()) == (False, True)
    one.close()
    other.close()
