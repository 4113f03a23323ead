"""What a run at JAWS has left, collected and sent by tasks of remote code in processes of their own."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from .remote_tasks import Store, Tasks, crc, serving


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    with Tasks(tmp_path) as made:
        yield made


@pytest.fixture
def store() -> Iterator[Store]:
    with serving(Store()) as running:
        yield running


# collect


class Left:
    """What a run of some containers left, as JAWS leaves it."""

    def __init__(self, directory: Path, containers: int = 1) -> None:
        self.directory = directory / "outputs/run"
        self.directory.mkdir(parents=True)
        self.plan: dict[str, Any] = {
            "output_dir": str(self.directory),
            "paths": [["/jaws/outputs", str(directory / "outputs")]],
            "workflow": "cts",
            "task": "container",
            "outputs_dir": "__output__",
            "containers": containers,
            "failed": False,
            "roots": [str(directory / "outputs")],
            "part_size": 1 << 20,
            "connections": 2,
            "mark": "CTS: ",
        }
        self.told: dict[str, Any] = {"cts.outputs": [], "cts.stdouts": [], "cts.stderrs": []}
        for n in range(containers):
            here = f"call-container/shard-{n}/execution"
            self.write(f"{here}/stdout", f"out {n}\n".encode())
            self.write(f"{here}/stderr", b"")
            self.told["cts.outputs"].append([])
            self.told["cts.stdouts"].append(f"./{here}/stdout")
            self.told["cts.stderrs"].append(f"./{here}/stderr")

    def write(self, path: str, data: bytes) -> Path:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def output(self, name: str, data: bytes, container: int = 0, before: str = "./") -> str:
        """Leave an output. before: stands before its path in outputs.json. Returns its path."""
        path = f"call-container/shard-{container}/execution/__output__/{name}"
        self.write(path, data)
        self.told["cts.outputs"][container].append(f"{before}{path}")
        return path

    def collected(self, tasks: Tasks) -> dict[str, Any]:
        (self.directory / "outputs.json").write_text(json.dumps(self.told, indent=4))
        return tasks.run("collect", self.plan)

    def failed(self, tasks: Tasks, errors: Mapping[str, Any]) -> dict[str, Any]:
        self.plan["failed"] = True
        (self.directory / "errors.json").write_text(json.dumps(errors, indent=4))
        return tasks.run("collect", self.plan)


def test_outputs_and_logs_are_collected(tasks: Tasks):
    left = Left(tasks.directory, 2)
    paths = [
        left.output("a b/ü", b"one"),
        left.output("__output__/x", b"", before=""),
        left.output("y", b"three", before=f"{left.directory}/"),
        left.output("z", b"four", 1, before="/jaws/outputs/run/"),
    ]
    told = left.collected(tasks)
    assert told["ok"]
    names, datas = ["a b/ü", "__output__/x", "y", "z"], [b"one", b"", b"three", b"four"]
    outputs = [
        {"root": str(left.directory), "path": p, "name": n, "size": len(d), "crc64nvme": crc(d), "parts": None}
        for p, n, d in zip(paths, names, datas, strict=True)
    ]
    first, second = told["containers"]
    assert first["outputs"] == outputs[:3]
    assert second["outputs"] == outputs[3:]
    assert (first["exit_code"], first["failure"], first["error"]) == (0, None, None)
    assert [(log["name"], log["size"], log["crc64nvme"]) for log in second["logs"]] == [
        ("stdout", 6, crc(b"out 1\n")),
        ("stderr", 0, crc(b"")),
    ]


def test_large_outputs_are_in_parts(tasks: Tasks):
    left = Left(tasks.directory)
    data = os.urandom((2 << 20) + 5)
    left.output("large", data)
    left.output("just", data[: 1 << 20])
    large, just = left.collected(tasks)["containers"][0]["outputs"]
    pieces = [data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20)]
    assert large["parts"] == [{"size": len(p), "crc64nvme": crc(p)} for p in pieces]
    assert large["crc64nvme"] == crc(data)
    assert just["parts"] is None


def test_a_run_may_leave_no_outputs(tasks: Tasks):
    told = Left(tasks.directory).collected(tasks)
    assert told["containers"][0]["outputs"] == []
    assert len(told["containers"][0]["logs"]) == 2


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("text", [None, "", '{"cts.outputs": ['])
def test_results_that_are_not_there_yet_are_looked_for_later(tasks: Tasks, failed: bool, text: str | None):
    left = Left(tasks.directory)
    left.plan["failed"] = failed
    if text is not None:
        (left.directory / ("errors.json" if failed else "outputs.json")).write_text(text)
    told = tasks.run("collect", left.plan)
    assert (told["ok"], told["again"], told["error"]) == (False, "absent", "JAWS has left no results.")


@pytest.mark.parametrize("root", ["no such", "empty"])
def test_results_on_a_file_system_that_is_away_are_looked_for_all_the_longer(tasks: Tasks, root: str):
    (tasks.directory / "empty").mkdir()
    left = Left(tasks.directory)
    left.plan["roots"] = [str(tasks.directory / root)]
    told = tasks.run("collect", left.plan)
    assert (told["ok"], told["again"], told["error"]) == (False, "later", "The site's file system failed.")


def test_an_output_may_be_about_to_come(tasks: Tasks):
    left = Left(tasks.directory)
    (left.directory / left.output("x", b"one")).unlink()
    told = left.collected(tasks)
    assert (told["ok"], told["again"]) == (False, "absent")
    assert "__output__/x cannot be found" in told["error"]


def test_a_container_may_leave_only_so_many_outputs(tasks: Tasks):
    left = Left(tasks.directory, 2)
    left.told["cts.outputs"][1] = ["./x"] * 10_001
    told = left.collected(tasks)
    assert (told["ok"], told["again"]) == (False, None)
    assert "Container 1 has left 10001 output files" in told["error"]


HERE = "call-container/shard-0/execution"


@pytest.mark.parametrize(
    "path",
    [
        "../other/__output__/x",
        f"./{HERE}/__output__/../../../../other/x",
        "/etc/passwd",
        "/jaws/outputs/other/__output__/x",
        "/jaws/outputs/run/../other/__output__/x",
        "/jaws/outputs/running/__output__/x",
        "",
        ".",
        7,
        None,
        ["x"],
    ],
)
def test_a_file_outside_of_the_runs_results_is_not_taken(tasks: Tasks, path: object):
    left = Left(tasks.directory)
    for name in ("other", "running"):
        left.write(f"../{name}/__output__/x", b"of another run")
        left.write(f"../{name}/x", b"of another run")
    left.told["cts.outputs"][0].append(path)
    told = left.collected(tasks)
    assert (told["ok"], told["again"]) == (False, None)
    assert told["error"].startswith("JAWS ")


def test_a_file_that_is_no_output_is_not_taken_as_one(tasks: Tasks):
    left = Left(tasks.directory)
    left.told["cts.outputs"][0].append(f"./{HERE}/stdout")
    told = left.collected(tasks)
    assert (told["ok"], told["again"], told["error"]) == (False, None, "JAWS told of a file that is no output.")


@pytest.mark.parametrize("link", ["file", "directory"])
def test_no_link_is_followed(tasks: Tasks, link: str):
    left = Left(tasks.directory)
    left.output("d/x", b"one")
    path = left.directory / HERE / "__output__/d"
    elsewhere = tasks.directory / "elsewhere"
    path.rename(elsewhere)
    if link == "directory":
        path.symlink_to(elsewhere)
    else:
        path.mkdir()
        (path / "x").symlink_to(elsewhere / "x")
    told = left.collected(tasks)
    assert (told["ok"], told["again"]) == (False, None)
    assert "link" in told["error"]


@pytest.mark.parametrize("change", ["missing", "short", "null", "null entry", "null log", "no object"])
def test_outputs_that_are_not_told_as_they_should(tasks: Tasks, change: str):
    left = Left(tasks.directory, 2)
    if change == "missing":
        del left.told["cts.stderrs"]
    elif change == "short":
        left.told["cts.outputs"].pop()
    elif change == "null":
        left.told["cts.outputs"] = None
    elif change == "null entry":
        left.told["cts.outputs"][1] = None
    elif change == "null log":
        left.told["cts.stdouts"][1] = None
    else:
        left.told = []  # type: ignore[assignment]
    told = left.collected(tasks)
    assert (told["ok"], told["again"]) == (False, None)
    assert told["error"] == "JAWS did not tell of the job's outputs as it should."


def call(shard: int, code: int | None, message: str = "it failed", **more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"shardIndex": shard, "attempt": 1, "executionStatus": "Failed"}
    if code is not None:
        told["returnCode"] = code
    return {**told, **more, "failures": [{"message": message, "causedBy": []}]}


def errors(*calls: Mapping[str, Any]) -> dict[str, Any]:
    return {"calls": {"cts.container": list(calls)}}


def text(log: Mapping[str, Any]) -> str:
    return Path(log["root"], log["path"]).read_bytes().decode()


def test_what_failed_containers_left_is_collected(tasks: Tasks):
    told = Left(tasks.directory, 3).failed(
        tasks,
        errors(
            call(0, 3, stdoutContents="out é\r\n", stderrContents="err\nCTS: not the last\n"),
            call(2, None, "The job was not accepted"),
        ),
    )
    assert told["ok"]
    first, second, third = told["containers"]
    assert (first["exit_code"], first["failure"], first["outputs"]) == (3, "it failed", [])
    assert first["error"] == "not the last"
    assert [(log["name"], text(log)) for log in first["logs"]] == [
        ("stdout", "out é\r\n"),
        ("stderr", "err\nCTS: not the last\n"),
    ]
    assert [log["size"] for log in first["logs"]] == [8, 22]
    assert second == {"exit_code": None, "failure": None, "error": None, "outputs": [], "logs": []}
    assert (third["exit_code"], third["failure"], third["logs"]) == (None, "The job was not accepted", [])
    assert third["error"] is None


@pytest.mark.parametrize(
    ("stderr", "words", "end"),
    [
        ("\nCTS: it ran too long\n", "it ran too long", ""),
        ("CTS: first\nmore\n\nCTS: last\n", "last", ""),
        ("words CTS: no\n", None, ' Its logs say why. The last line of stderr: "words CTS: no"'),
        ("", None, " Its logs say why."),
        (None, None, ""),
        ("CTS: the file a\u2028b\x85c is none\n", "the file a\u2028b\x85c is none", ""),
    ],
)
def test_owners_are_told_the_scripts_own_words_or_how_the_program_ended(
    tasks: Tasks, stderr: str | None, words: str | None, end: str
):
    [told] = Left(tasks.directory).failed(tasks, errors(call(0, 125, stderrContents=stderr)))["containers"]
    assert told["error"] == (words or "The container exited with exit code 125." + end)


def test_the_causes_of_a_failure_are_told(tasks: Tasks):
    causes = [{"message": "inner", "causedBy": [{"message": "innermost", "causedBy": []}]}, "no object", {}]
    failed = {**call(0, 1), "failures": [{"message": "outer", "causedBy": causes}, {"message": "x" * 10000}]}
    [told] = Left(tasks.directory).failed(tasks, errors(failed))["containers"]
    assert told["failure"].startswith("outer / inner / innermost / xxx")
    assert len(told["failure"]) == 4000


def test_a_failure_of_the_run_as_a_whole_is_told(tasks: Tasks):
    failed = {"calls": {}, "failures": [{"message": "the workflow is wrong", "causedBy": []}]}
    told = Left(tasks.directory, 2).failed(tasks, failed)
    assert ["the workflow is wrong" in str(c["failure"]) for c in told["containers"]] == [True, True]


def test_the_last_attempt_of_a_call_counts(tasks: Tasks):
    two = [call(0, 1, stderrContents="first"), {**call(0, 2, stderrContents="second"), "attempt": 2}]
    [told] = Left(tasks.directory).failed(tasks, errors(*two))["containers"]
    assert told["exit_code"] == 2
    assert [text(log) for log in told["logs"]] == ["second"]


def test_words_that_are_not_unicode_are_told_nevertheless(tasks: Tasks):
    failed = call(0, 1, "c\udcffd", stderrContents="a\nCTS: \udcffb")
    told = Left(tasks.directory).failed(tasks, errors(failed))
    assert text(told["containers"][0]["logs"][0]).startswith("a\nCTS: ")
    assert json.dumps(told, ensure_ascii=False).encode()


@pytest.mark.parametrize("shard", [-1, 1, None, "0"])
def test_a_call_of_no_container_is_left_out(tasks: Tasks, shard: Any):
    [told] = Left(tasks.directory).failed(tasks, errors(call(shard, 1)))["containers"]
    assert told["exit_code"] is None


# send


def sending(tasks: Tasks, store: Store, files: Mapping[str, bytes], part_size: int = 1 << 20) -> dict[str, Any]:
    """The plan to send files: what `collect` told, with uploads as the service presigns them."""
    left = Left(tasks.directory)
    left.plan["part_size"] = part_size
    for name, data in files.items():
        left.output(name, data)
    found = left.collected(tasks)["containers"][0]["outputs"]
    for file in found:
        url = f"{store.url}/b/{file['name']}"
        headers = {"x-amz-checksum-crc64nvme": file["crc64nvme"], "X-Other": "1"}
        if file["parts"] is None:
            file["upload"] = {"url": f"{url}?X-Amz-Signature=secret", "headers": headers}
        else:
            parts = [
                {"url": f"{url}/{n}?X-Amz-Signature=secret", "headers": {"x-amz-checksum-crc64nvme": p["crc64nvme"]}}
                for n, p in enumerate(file["parts"])
            ]
            file["upload"] = {"upload_id": "u1", "parts": parts}
    return {
        "files": found,
        "roots": [str(tasks.directory / "outputs")],
        "part_size": part_size,
        "connections": 4,
        "patience": 0.5,
    }


def test_files_that_are_away_with_their_file_system_are_sent_later(tasks: Tasks, store: Store):
    plan = sending(tasks, store, {"x": b"one"})
    os.rename(tasks.directory / "outputs", tasks.directory / "away")
    (tasks.directory / "outputs").mkdir()
    told = tasks.run("send", plan, "away")
    assert (told["ok"], told["again"]) == (False, "later")
    os.rename(tasks.directory / "outputs", tasks.directory / "empty")
    os.rename(tasks.directory / "away", tasks.directory / "outputs")
    plan["files"][0]["path"] = "gone"
    told = tasks.run("send", plan, "gone")
    assert (told["ok"], told["again"]) == (False, "absent")


def test_files_are_sent_as_they_were_found(tasks: Tasks, store: Store):
    data = os.urandom(2500)
    files = {"x": b"one", "empty": b"", "large": data, "y": b"two"}
    plan = sending(tasks, store, files, 1000)
    told = tasks.run("send", plan, "send")
    pieces = [data[:1000], data[1000:2000], data[2000:]]
    etags = [f'"{hashlib.md5(p).hexdigest()}"' for p in pieces]
    assert told == {"ok": True, "parts": [None, None, etags, None]}
    sent = {"/b/x": b"one", "/b/empty": b"", "/b/y": b"two", **{f"/b/large/{n}": p for n, p in enumerate(pieces)}}
    assert store.files == sent
    for path, body in sent.items():
        assert store.headers[path]["x-amz-checksum-crc64nvme"] == crc(body)
        assert store.headers[path]["Content-Length"] == str(len(body))
    assert store.headers["/b/x"]["X-Other"] == "1"


def test_nothing_may_be_sent(tasks: Tasks):
    plan = {"files": [], "part_size": 1, "connections": 4, "patience": 1}
    assert tasks.run("send", plan) == {"ok": True, "parts": []}


@pytest.mark.parametrize(
    ("status", "again"), [(403, "renewed"), (503, "later"), (404, None), (400, None)], ids=["403", "503", "404", "400"]
)
def test_what_s3_does_not_take(tasks: Tasks, store: Store, status: int, again: str | None):
    plan = {**sending(tasks, store, {"x": b"one"}), "patience": 0.5 if status == 503 else 30}
    store.answer = lambda path: status
    told = tasks.run("send", plan, "send")
    assert (told["ok"], told["again"]) == (False, again)
    assert "/x" in told["error"]
    assert "secret" not in json.dumps(told)


def test_a_file_that_has_changed_is_not_sent(tasks: Tasks, store: Store):
    plan = sending(tasks, store, {"x": b"one"})
    file = Path(plan["files"][0]["root"], plan["files"][0]["path"])
    file.write_bytes(b"longer")
    told = tasks.run("send", plan, "send")
    assert (told["ok"], told["again"]) == (False, None)
    assert "changed after the container was over" in told["error"]
    file.unlink()
    file.symlink_to("/etc/passwd")
    assert not tasks.run("send", plan, "again")["ok"]
    assert store.asked == []
