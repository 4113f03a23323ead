"""Tasks of remote code in processes of their own: stage, submit, remove, and what all have in common."""

import base64
import json
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .remote_tasks import Plan, Store, Tasks, crc, mode, serving, unused_port


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    with Tasks(tmp_path) as made:
        yield made


@pytest.fixture
def store() -> Iterator[Store]:
    with serving(Store()) as running:
        yield running


# Any task


REMOVE_NOTHING: Plan = {"trees": [], "expired": []}


def test_a_result_is_whole_and_written_once(tasks: Tasks):
    assert tasks.run("remove", REMOVE_NOTHING) == {"ok": True, "removed": 0}
    assert sorted(p.name for p in tasks.task().iterdir()) == ["alive", "plan.json", "result.json"]
    before = (tasks.task() / "result.json").stat()
    (tasks.directory / "x/y").mkdir(parents=True)
    again = {"trees": [{"root": str(tasks.directory / "x"), "name": "y"}], "expired": []}
    assert tasks.run("remove", again) == {"ok": True, "removed": 0}
    after = (tasks.task() / "result.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert (tasks.directory / "x/y").is_dir()


def test_of_two_results_the_first_is_kept(tasks: Tasks, store: Store):
    plan = staged(store, tasks.directory / "cache", {"x": b"one"})
    first_asks, first_may_go_on = threading.Event(), threading.Event()

    def answer(path: str) -> None:
        if not first_asks.is_set():
            first_asks.set()
            assert first_may_go_on.wait(30)

    store.answer = answer  # type: ignore[assignment]
    first = tasks.begin("stage", plan)
    assert first_asks.wait(30)
    assert tasks.run("stage", plan) == {"ok": True, "fetched": 1, "reused": 0}
    before = (tasks.task() / "result.json").stat()
    first_may_go_on.set()
    assert first.wait(30) == 0
    after = (tasks.task() / "result.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert sorted(p.name for p in tasks.task().iterdir()) == ["alive", "plan.json", "result.json"]


def test_a_plan_is_taken_to_where_nobody_else_can_read_it(tasks: Tasks):
    tasks.run("remove", REMOVE_NOTHING)
    assert not (tasks.directory / "plan-1.json").exists()
    assert json.loads((tasks.task() / "plan.json").read_text()) == REMOVE_NOTHING
    assert stat.S_IMODE(tasks.task().stat().st_mode) == 0o700
    assert stat.S_IMODE((tasks.task() / "result.json").stat().st_mode) == 0o600


def test_a_task_that_died_goes_on_with_the_plan_that_it_took(tasks: Tasks):
    tasks.run("remove", {**REMOVE_NOTHING, "trees": [{"root": "nonsense", "name": "x"}]})
    (tasks.task() / "result.json").unlink()
    assert "below 'nonsense'" in tasks.run("remove", None)["admin_error"]


def test_a_task_without_a_plan_is_a_fault(tasks: Tasks):
    process = tasks.begin("remove", None)
    assert b"No such file" in process.communicate()[1]
    assert process.returncode == 1
    assert not (tasks.task() / "result.json").exists()


def test_a_task_that_is_not_wanted_any_more_is_not_begun(tasks: Tasks):
    (tasks.directory / "x/y").mkdir(parents=True)
    (tasks.directory / "plan-1.json.stop").touch()
    told = tasks.run("remove", trees((tasks.directory / "x", "y")))
    assert (told["ok"], told["again"], told["error"]) == (False, "later", "It was stopped: nobody wants it any more")
    assert (tasks.directory / "x/y").is_dir()


def test_another_kind_is_refused(tasks: Tasks):
    process = tasks.begin("task", REMOVE_NOTHING)
    assert b"invalid choice" in process.communicate()[1]
    assert process.returncode == 2


def test_a_fault_is_for_another_try_and_for_administrators(tasks: Tasks):
    told = tasks.run("remove", {})
    assert (told["ok"], told["again"]) == (False, "absent")  # which is not for ever
    assert "KeyError" in told["admin_error"]
    assert "KeyError" not in told["error"]


def test_the_service_is_called_when_the_result_is_there(tasks: Tasks, store: Store):
    found = []
    store.files["/cb"] = b""
    store.answer = lambda path: found.append((tasks.task() / "result.json").exists())
    tasks.run("remove", {**REMOVE_NOTHING, "callback": f"{store.url}/cb?id=1"})
    tasks.run("remove", {"callback": f"{store.url}/cb?id=2"}, "2")
    assert store.asked == [("GET", "/cb")] * 2
    assert found == [True, True]


def test_a_service_that_cannot_be_called_is_no_failure(tasks: Tasks, store: Store):
    store.answer = lambda path: 500
    for n, url in enumerate([f"http://127.0.0.1:{unused_port()}/", f"{store.url}/cb", "nonsense", ""]):
        assert tasks.run("remove", {**REMOVE_NOTHING, "callback": url}, str(n)) == {"ok": True, "removed": 0}


def test_a_service_that_answers_nonsense_is_no_failure(tasks: Tasks):
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = tasks.begin("remove", {**REMOVE_NOTHING, "callback": f"http://127.0.0.1:{server.getsockname()[1]}/"})
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"this is no HTTP\r\n\r\n")
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, b"")
    assert tasks.result()["ok"]


# stage


def staged(store: Store, cache: Path, files: Mapping[str, bytes], **more: Any) -> Plan:
    """The plan to stage `files`, by their names in S3."""
    inputs = []
    for name, data in files.items():
        store.files[f"/b/{name}"] = data
        digits = base64.b64decode(crc(data)).hex()
        inputs.append(
            {
                "file": f"b/{name}",
                "name": f"{digits[:2]}/{digits}-{len(data)}",
                "url": f"{store.url}/b/{name}?X-Amz-Signature=secret",
                "size": len(data),
                "crc64nvme": crc(data),
            }
        )
    return {"cache": str(cache), "inputs": inputs, "connections": 4, "patience": 0.5, **more}


def cached(plan: Plan) -> list[Path]:
    return [Path(plan["cache"], i["name"]) for i in plan["inputs"]]


def test_inputs_are_fetched_once_and_used_again(tasks: Tasks, store: Store):
    plan = staged(
        store, tasks.directory / "a/cache", {"x": b"one", "y": os.urandom(3 << 20), "empty": b"", "z": b"one"}
    )
    assert tasks.run("stage", plan) == {"ok": True, "fetched": 3, "reused": 0}
    assert [p.read_bytes() for p in cached(plan)] == [store.files[f"/b/{n}"] for n in ("x", "y", "empty", "z")]
    for path in cached(plan):
        os.utime(path, (1, 1))
    begun = time.time()
    assert tasks.run("stage", plan, "2") == {"ok": True, "fetched": 0, "reused": 3}
    assert len(store.asked) == 3
    assert all(path.stat().st_mtime >= begun - 1 for path in cached(plan))


def test_a_cached_file_that_is_not_what_it_should_be_is_fetched_again(tasks: Tasks, store: Store):
    plan = staged(store, tasks.directory / "cache", {"x": b"one", "longer": b"two", "good": b"three"})
    tasks.run("stage", plan)
    wrong, longer, _ = cached(plan)
    linked = tasks.directory / "of another job"
    os.link(wrong, linked)
    for path, data in [(wrong, b"0ne"), (longer, b"two ")]:
        path.chmod(0o600)
        path.write_bytes(data)
    assert tasks.run("stage", plan, "2") == {"ok": True, "fetched": 2, "reused": 1}
    assert [p.read_bytes() for p in cached(plan)] == [b"one", b"two", b"three"]
    assert linked.read_bytes() == b"0ne"


def test_a_link_in_the_cache_is_not_followed(tasks: Tasks, store: Store):
    plan = staged(store, tasks.directory / "cache", {"x": b"one"})
    [path] = cached(plan)
    path.parent.mkdir(parents=True)
    elsewhere = tasks.directory / "elsewhere"
    elsewhere.write_bytes(b"one")
    path.symlink_to(elsewhere)
    assert tasks.run("stage", plan) == {"ok": True, "fetched": 1, "reused": 0}
    assert path.is_file()
    assert not path.is_symlink()


@pytest.mark.parametrize(
    ("status", "again", "words"),
    [
        (404, None, "is not in S3 any more"),
        (403, "renewed", "HTTP 403"),
        (400, None, "HTTP 400"),
        (503, "later", "0 s"),
    ],
)
def test_an_input_that_s3_does_not_give(tasks: Tasks, store: Store, status: int, again: str | None, words: str):
    plan = staged(store, tasks.directory / "cache", {"x": b"one"}, patience=0.5 if status != 403 else 30)
    store.answer = lambda path: status
    told = tasks.run("stage", plan)
    assert (told["ok"], told["again"]) == (False, again)
    assert words in told["error"]
    assert "b/x" in told["error"]
    assert f"/b/x: {status}" in told["admin_error"]
    assert "secret" not in json.dumps(told)
    assert [p for p in (tasks.directory / "cache").rglob("*") if not p.is_dir()] == []


def test_an_input_where_nothing_answers(tasks: Tasks, store: Store):
    plan = staged(store, tasks.directory / "cache", {"x": b"one"}, patience=0.3)
    plan["inputs"][0]["url"] = f"http://127.0.0.1:{unused_port()}/b/x"
    told = tasks.run("stage", plan)
    assert (told["ok"], told["again"]) == (False, "later")
    assert "refused" in told["admin_error"]


def test_an_input_that_is_not_what_it_was(tasks: Tasks, store: Store):
    plan = staged(store, tasks.directory / "cache", {"x": b"one"}, patience=30)
    store.files["/b/x"] = b"0ne"
    told = tasks.run("stage", plan)
    assert (told["ok"], told["again"]) == (False, None)
    assert "b/x is not what it was when the job was submitted" in told["error"]
    assert not cached(plan)[0].exists()


def test_the_group_can_read_what_is_cached_and_nobody_can_write(tasks: Tasks, store: Store):
    ours = tasks.directory / "ours"
    ours.mkdir()
    if os.geteuid() == 0:
        os.chown(ours, -1, 4321)
    ours.chmod(0o2750)
    plan = staged(store, ours / "a/cache", {"x": b"one"})
    tasks.run("stage", plan)
    [path] = cached(plan)
    assert mode(path) == 0o440
    assert [mode(p) for p in (ours / "a", ours / "a/cache", path.parent)] == [0o2750] * 3
    assert {p.stat().st_gid for p in ours.rglob("*")} == {ours.stat().st_gid}


def test_nobody_can_write_to_what_was_fetched_before_another_file_failed(tasks: Tasks, store: Store):
    plan = staged(store, tasks.directory / "cache", {"x": b"one", "y": b"two"}, connections=1)
    del store.files["/b/y"]
    assert not tasks.run("stage", plan)["ok"]
    good = staged(store, tasks.directory / "cache", {"x": b"one"})
    tasks.run("stage", good, "2")
    assert mode(cached(good)[0]) == 0o440


def test_two_at_once(tasks: Tasks, store: Store):
    plan = staged(store, tasks.directory / "cache", {"x": os.urandom(1000), "y": b"two"})
    both = threading.Barrier(4)

    def answer(path: str) -> None:
        both.wait(30)

    store.answer = answer  # type: ignore[assignment]
    with ThreadPoolExecutor(2) as threads:
        told = list(threads.map(lambda name: tasks.run("stage", plan, name), "12"))
    assert told == [{"ok": True, "fetched": 2, "reused": 0}] * 2
    assert [p.read_bytes() for p in cached(plan)] == [store.files["/b/x"], b"two"]
    assert [p for p in (tasks.directory / "cache").iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("how", ["stop", "SIGTERM", "time limit"])
def test_a_stage_that_hangs_is_ended(tasks: Tasks, store: Store, how: str):
    limit = {"time_limit": 0.5} if how == "time limit" else {}
    plan = staged(store, tasks.directory / "cache", {"x": b"one"}, patience=600, **limit)
    store.answer = lambda path: 500 if store.released.wait(60) else None
    process = tasks.begin("stage", plan)
    store.wait_for(1)
    if how == "stop":
        (tasks.directory / "plan-1.json.stop").touch()
    elif how == "SIGTERM":
        process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 0
    told = tasks.result()
    assert (told["ok"], told["again"]) == (False, "later")
    assert told["error"].startswith("It was stopped: ")
    assert [p for p in (tasks.directory / "cache").rglob("*") if not p.is_dir()] == []


# submit


def submission(tasks: Tasks, script: str, **more: Any) -> Plan:
    jaws = tasks.directory / "jaws"
    jaws.write_text(f"#!/bin/sh\necho >>{tasks.directory}/calls\n{script}\n")
    jaws.chmod(0o755)
    return {
        "directory": str(tasks.directory / "jobs/1"),
        "files": [{"name": "cts.wdl", "content": "version 1.0\n"}, {"name": "m-0.txt", "content": "é\r\n\ud83e\uddec"}],
        "command": [str(jaws), "submit", "--tag", "a b"],
        "environment": {"JAWS_USER_CONFIG": "/our/settings"},
        "timeout": 30,
        "not_after": time.time() + 600,
        **more,
    }


def calls(tasks: Tasks) -> int:
    file = tasks.directory / "calls"
    return len(file.read_text()) if file.exists() else 0


def test_a_run_is_submitted_with_its_files_laid_out(tasks: Tasks):
    script = f"""
cat "{tasks.directory}/jobs/1/m-0.txt" >"{tasks.directory}/seen"
echo "A newer version is there: {{1.2}} {{\\"a\\": 1}}"
echo "{{\\"tag\\": \\"$3\\", \\"settings\\": \\"$JAWS_USER_CONFIG\\", \\"run_id\\": 77}}"; echo "Bye" """
    (tasks.directory / "jobs").mkdir()
    (tasks.directory / "jobs").chmod(0o2750)
    assert tasks.run("submit", submission(tasks, script)) == {"ok": True, "run_id": "77"}
    assert (tasks.directory / "seen").read_bytes() == "é\r\n🧬".encode()
    laid_out = tasks.directory / "jobs/1"
    assert sorted(p.name for p in laid_out.iterdir()) == ["cts.wdl", "m-0.txt"]
    assert (mode(laid_out), {mode(p) for p in laid_out.iterdir()}) == (0o2750, {0o640})


def test_a_submission_has_its_arguments_and_settings_and_no_stdin(tasks: Tasks):
    script = 'cat; printf "%s|" "$@" "$JAWS_USER_CONFIG" >"${0%/*}/told"; echo "{\\"run_id\\": 1}"'
    assert tasks.run("submit", submission(tasks, script))["ok"]
    assert (tasks.directory / "told").read_text() == "submit|--tag|a b|/our/settings|"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('echo "{\\"run_id\\": 7}"; echo no team >&2; exit 3', ["ended with 3", "no team", "run_id"]),
        ("echo all is well", ["ended with 0", "all is well"]),
        ('echo "{\\"run_id\\": null}"', ["ended with 0"]),
        ("echo '{\"run_id\": 7'", ["ended with 0"]),
        ("printf '\\377'; kill -9 $$", ["ended with -9"]),
    ],
)
def test_a_submission_that_fails(tasks: Tasks, script: str, words: list[str]):
    told = tasks.run("submit", submission(tasks, script))
    assert (told["ok"], told["again"]) == (False, "later")
    assert told["error"] == "The job could not be submitted to JAWS."
    assert all(word in told["admin_error"] for word in words)


def test_a_submission_that_does_not_end(tasks: Tasks):
    told = tasks.run("submit", submission(tasks, "exec sleep 60", timeout=0.3))
    assert (told["ok"], told["again"]) == (False, "later")
    assert "TimeoutExpired" in told["admin_error"]


def test_a_submission_without_a_command(tasks: Tasks):
    told = tasks.run("submit", submission(tasks, "", command=["/no/such/jaws"]))
    assert (told["ok"], told["again"]) == (False, "later")
    assert "/no/such/jaws" in told["admin_error"]


def test_a_submission_that_was_begun_is_never_begun_again(tasks: Tasks):
    plan = submission(tasks, 'echo "{\\"run_id\\": 7}"')
    tasks.run("submit", plan)
    (tasks.task() / "result.json").unlink()  # as if the first had died on the way
    process = tasks.begin("submit", plan)
    _, stderr = process.communicate()
    assert process.returncode == 3
    assert b"is there already" in stderr
    assert not (tasks.task() / "result.json").exists()
    assert calls(tasks) == 1


@pytest.mark.parametrize("why", ["not_after", "stop"])
def test_a_submission_that_is_not_wanted_any_more_is_not_made(tasks: Tasks, why: str):
    plan = submission(
        tasks, 'echo "{\\"run_id\\": 7}"', **({"not_after": time.time() - 1} if why == "not_after" else {})
    )
    if why == "stop":
        (tasks.directory / "plan-1.json.stop").touch()
    told = tasks.run("submit", plan)
    assert (told["ok"], told["again"]) == (False, "later")
    assert calls(tasks) == 0


def test_who_comes_late_says_nothing_of_a_submission_that_goes_on(tasks: Tasks):
    """Else it would be taken for one that came to nothing."""
    (tasks.task()).mkdir(parents=True)
    (tasks.task() / "begun").touch()
    (tasks.directory / "plan-1.json.stop").touch()
    process = tasks.begin("submit", submission(tasks, "exit 0", not_after=time.time() - 1))
    assert process.wait(30) == 3
    assert not (tasks.task() / "result.json").exists()
    assert not list(tasks.directory.rglob("cts.wdl"))


def test_two_submissions_at_once_are_one(tasks: Tasks):
    begun, go = tasks.directory / "begun", tasks.directory / "go"
    os.mkfifo(begun)
    os.mkfifo(go)
    plan = submission(tasks, f'echo >"{begun}"; read go <"{go}"; echo "{{\\"run_id\\": 7}}"')
    reader = os.open(begun, os.O_RDWR)
    try:
        first = tasks.begin("submit", plan)
        assert select.select([reader], [], [], 30)[0]
    finally:
        os.close(reader)
    second = tasks.begin("submit", plan)
    assert second.wait(30) == 3
    go.write_text("on\n")
    assert first.wait(30) == 0
    assert tasks.result() == {"ok": True, "run_id": "7"}
    assert calls(tasks) == 1


def test_a_submission_without_room_for_its_files_is_not_made(tasks: Tasks):
    (tasks.directory / "jobs").write_text("in the way")
    told = tasks.run("submit", submission(tasks, "exit 0"))
    assert (told["ok"], told["again"]) == (False, "later")
    assert calls(tasks) == 0


# remove


def trees(*pairs: tuple[Path | str, str]) -> Plan:
    return {"trees": [{"root": str(root), "name": name} for root, name in pairs], "expired": []}


def test_a_tree_right_below_its_root_is_removed(tasks: Tasks):
    root = tasks.directory / "root"
    (root / "job/a").mkdir(parents=True)
    (root / "job/a/f").touch()
    (root / "job/link").symlink_to(tasks.directory)
    (root / "other").mkdir()
    assert tasks.run("remove", trees((root, "job"), (root, "no such"), (root / "no", "x"))) == {
        "ok": True,
        "removed": 1,
    }
    assert [p.name for p in root.iterdir()] == ["other"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "../root2", "a/../../root2", "job/", "link", "file"])
def test_nothing_else_is_removed(tasks: Tasks, name: str):
    root, other = tasks.directory / "root", tasks.directory / "root2"
    for directory in (root / "a/b", root / "job", other / "x"):
        directory.mkdir(parents=True)
    (root / "link").symlink_to(other)
    (root / "file").touch()
    before = sorted(tasks.directory.glob("root*/**/*"))
    told = tasks.run("remove", trees((root, name)))
    assert (told["ok"], told["again"], told["error"]) == (False, None, "The files cannot be removed.")
    assert sorted(tasks.directory.glob("root*/**/*")) == before


def test_a_root_must_be_absolute_and_no_link(tasks: Tasks):
    root = tasks.directory / "root"
    (root / "job").mkdir(parents=True)
    (tasks.directory / "link").symlink_to(root)
    for n, wrong in enumerate([tasks.directory / "link", f"{tasks.directory}/link/", os.path.relpath(root), ""]):
        told = tasks.run("remove", trees((wrong, "job")), str(n))
        assert (told["ok"], told["again"]) == (False, None), wrong
    assert (root / "job").is_dir()


def test_what_was_not_used_for_long_is_removed(tasks: Tasks):
    root, outside = tasks.directory / "cache", tasks.directory / "outside"
    for directory in (root / "ab", outside):
        directory.mkdir(parents=True)
    old = time.time() - 1000
    for name in ("ab/old", "ab/used", "../outside/old"):
        (root / name).touch()
        os.utime(root / name, (old, old if name != "ab/used" else time.time()))
    (root / "link").symlink_to(outside)
    for name in ("old-empty", "empty"):
        (root / name).mkdir()
    os.utime(root / "old-empty", (old, old))
    os.utime(root, (old, old))
    plan = {"trees": [], "expired": [{"root": str(root), "age": 500.0}, {"root": str(root / "no"), "age": 1.0}]}
    assert tasks.run("remove", plan) == {"ok": True, "removed": 1}
    assert sorted(p.name for p in root.iterdir()) == ["ab", "empty", "link"]
    assert sorted(p.name for p in (root / "ab").iterdir()) == ["used"]
    assert (outside / "old").exists()
