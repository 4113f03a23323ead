"""What the benchmarks are made of, without anything to measure."""

import datetime
import json
import os

import pytest
from bson import encode
from rich.console import Console

from benchmarks import reference
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.figures import Effort, Figure, Section, files_of, percentile
from benchmarks.load import hammer
from benchmarks.processes import CpuWatch, cpu_seconds, memory_mib
from benchmarks.proxy import command_of
from benchmarks.report import as_json, machine, show, shown


def test_gain_is_how_many_times_better_in_either_direction():
    assert Figure("a", "", 5.0, "ms", "less", 50.0).gain == 10
    assert Figure("a", "", 50.0, "/s", "more", 5.0).gain == 10
    assert Figure("a", "", 50.0, "/s", "more").gain is None
    assert Figure("a", "", 0.0, "ms", "less", 5.0).gain is None


@pytest.mark.parametrize(("share", "sample"), [(0.5, 2), (0.95, 4), (0.75, 3), (1.0, 4), (0.01, 1)])
def test_percentile_is_the_nearest_sample_above(share: float, sample: int):
    assert percentile([4, 1, 3, 2], share) == sample


async def test_hammer_does_everything_once_with_so_many_at_once():
    done: list[int] = []
    load = await hammer([lambda n=n: _note(done, n) for n in range(20)], 3)
    assert sorted(done) == list(range(20))
    assert len(load.latencies) == 20
    assert load.rate > 0


async def _note(done: list[int], number: int) -> None:
    done.append(number)


def test_processes_are_read():
    assert cpu_seconds(os.getpid()) > 0
    assert cpu_seconds(2**22 + 1) == 0
    rss, pss = memory_mib(os.getpid())
    assert rss >= pss > 1
    assert set(CpuWatch({"me": os.getpid(), "gone": None}).cpus()) == {"me", "others"}


def test_commands_are_told_by_their_name():
    assert command_of(_message(2013, {"findAndModify": "jobs", "$db": "x"})) == "findAndModify"
    assert command_of(_message(2013, {"hello": 1})) == "hello"
    assert command_of(_message(2004, {"hello": 1})) is None


def _message(kind: int, command: dict[str, object]) -> bytes:
    body = b"\0\0\0\0" + b"\0" + encode(command)
    header = (16 + len(body)).to_bytes(4, "little") + b"\0" * 8 + kind.to_bytes(4, "little")
    return header + body


def test_results_are_shown_and_written_without_names_of_hosts_or_places():
    figures = [Figure("submit.rate", "submissions", 62.0, "/s", "more", 31.0, note="noted")]
    section = Section("submits", "Submitting", figures, 1.0, 0.5, {"service": 0.9})
    console = Console(record=True, width=160)
    show([section], console)
    text = console.export_text()
    for part in ("submissions", "62.0 /s", "31.0 /s", "2.0×", "noted", "service 0.90", "lower", "Machine:"):
        assert part in text
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    written = json.loads(json.dumps(as_json([section], quick=True, now=now)))
    assert written["date"] == "2026-01-02T03:04:05Z"
    assert written["sections"][0]["figures"][0] == {
        "key": "submit.rate",
        "what": "submissions",
        "value": 62.0,
        "unit": "/s",
        "better": "more",
        "reference": 31.0,
        "note": "noted",
        "gain": 2.0,
    }
    assert not {"host", "hostname", "user", "path"} & set(machine())


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.123, "ms", "0.12 ms"), (12.34, "/s", "12.3 /s"), (24_100, "ms", "24.1 s"), (9, "", "9.00")],
)
def test_values_are_shown_as_exactly_as_they_can_be_read(value: float, unit: str, text: str):
    assert shown(value, unit) == text


def test_quick_is_less():
    assert Effort(quick=True).times(10, 2) == 2
    assert Effort().most_files in reference.SUBMIT_MS
    assert Effort(quick=True).most_files < Effort().most_files
    assert [files_of(n) for n in (1, 1000)] == ["one file", "1,000 files"]


def test_unknown_benchmarks_are_refused_with_the_names_of_those_there_are(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["--only", "nothing"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert all(name in told for name in BENCHMARKS)
