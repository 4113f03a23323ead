"""Downloads: where files may lie, what is checked, and what is left when something goes wrong."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.client import ChecksumMismatch, DownloadError, FileExists, JobNotOver, OutputFile
from cdmtaskservice.client.downloading import plan
from cdmtaskservice.client.effects import pause
from cdmtaskservice.s3.checksum import crc64nvme
from test.stand_ins.client_desk import JOB, STORE, TOKEN, Desk, Facade, client_of, job, reply, stream

DETAILS = "GET /jobs/job-1"
FILES = "GET /jobs/job-1/files"
SIGNED = "X-Amz-Signature=s3cret"


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(params=["sync", "async"])
def cts(request: pytest.FixtureRequest, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Facade]:
    yield from client_of(request.param, desk, monkeypatch)


def listed(name: str, data: bytes, url: str | None = None, root: str = "bucket/ann/out/") -> dict[str, Any]:
    """An output as the service lists it."""
    return {"file": f"{root}{name}", "crc64nvme": crc64nvme(data), "url": url or f"{STORE}/{name}?{SIGNED}"}


def has(desk: Desk, **files: bytes) -> None:
    """The job has these outputs, `__` for slashes."""
    named = {name.replace("__", "/"): data for name, data in files.items()}
    desk.always(DETAILS, reply(job()))
    desk.on(FILES, reply({"files": [listed(n, d) for n, d in named.items()], "total": len(named)}))
    for name, data in named.items():
        desk.always(
            f"GET store/{name}", lambda _, data=data: stream(*[data[i : i + 7] for i in range(0, len(data), 7)])
        )


def there(directory: Path) -> dict[str, bytes]:
    """All files below a directory, hidden ones too."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_files_lie_as_below_the_output_directory(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, **{"a.txt": b"alpha", "0__deep__b": b"beta" * 1000, "empty": b""})
    found = cts.download(JOB, tmp_path / "new" / "here")
    assert there(tmp_path / "new/here") == {"a.txt": b"alpha", "0/deep/b": b"beta" * 1000, "empty": b""}
    assert found == [tmp_path / "new/here" / n for n in ("a.txt", "0/deep/b", "empty")]


def test_the_token_does_not_go_to_the_store(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"alpha")
    cts.download(JOB, str(tmp_path))
    [asked] = desk.requests("GET store/a")
    assert "authorization" not in asked.headers
    assert TOKEN not in str(asked.headers.raw)
    assert "cookie" not in asked.headers
    assert asked.headers["accept-encoding"] == "identity"


def test_files_are_as_private_as_the_user_wants(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"alpha")
    before = os.umask(0o027)
    try:
        cts.download(JOB, tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_wrong_bytes_leave_nothing(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"alpha")
    desk.on("GET store/a", stream(b"alphb"))
    with pytest.raises(ChecksumMismatch) as caught:
        cts.download(JOB, tmp_path)
    assert (caught.value.file, caught.value.expected) == ("bucket/ann/out/a", crc64nvme(b"alpha"))
    assert caught.value.found == crc64nvme(b"alphb")
    assert there(tmp_path) == {}


def test_wrong_bytes_leave_the_file_that_was_there(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"alpha")
    (tmp_path / "a").write_bytes(b"old")
    desk.on("GET store/a", stream(b"alphb"))
    with pytest.raises(ChecksumMismatch):
        cts.download(JOB, tmp_path, overwrite=True)
    assert there(tmp_path) == {"a": b"old"}


def test_files_that_match_are_not_fetched_again(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"alpha", b=b"beta")
    (tmp_path / "a").write_bytes(b"alpha")
    before = (tmp_path / "a").stat()
    assert len(cts.download(JOB, tmp_path)) == 2
    assert desk.requests("GET store/a") == []
    assert (tmp_path / "a").stat().st_ino == before.st_ino
    assert there(tmp_path) == {"a": b"alpha", "b": b"beta"}


def test_other_files_are_not_overwritten_and_nothing_is_fetched(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"alpha", b=b"beta")
    (tmp_path / "b").write_bytes(b"mine")
    with pytest.raises(FileExists, match="overwrite=True") as caught:
        cts.download(JOB, tmp_path)
    assert caught.value.path == tmp_path / "b"
    assert isinstance(caught.value, FileExistsError)
    assert there(tmp_path) == {"b": b"mine"}
    assert desk.requests("GET store/a") == []


def test_other_files_are_overwritten_where_that_is_wanted(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"alpha")
    (tmp_path / "a").write_bytes(b"mine")
    cts.download(JOB, tmp_path, overwrite=True)
    assert there(tmp_path) == {"a": b"alpha"}


def test_a_file_that_appears_meanwhile_is_not_overwritten(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"alpha")
    desk.on("GET store/a", stream(b"al", lambda: (tmp_path / "a").write_bytes(b"mine"), b"pha"))
    with pytest.raises(FileExists):
        cts.download(JOB, tmp_path)
    assert there(tmp_path) == {"a": b"mine"}


def test_a_directory_in_the_way(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"alpha")
    (tmp_path / "a").mkdir()
    with pytest.raises(FileExists):
        cts.download(JOB, tmp_path, overwrite=True)


def test_a_broken_transfer_goes_on_where_it_was(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"0123456789")
    part = stream(b"456", httpx.ReadTimeout(""), etag='"1"')
    part.status_code = 206
    last = stream(b"789", etag='"1"')
    last.status_code = 206
    desk.on("GET store/a", stream(b"0123", httpx.ReadError("x"), etag='"1"'), httpx.ConnectError("x"), part, last)
    cts.download(JOB, tmp_path)
    assert there(tmp_path) == {"a": b"0123456789"}
    assert [r.headers.get("range") for r in desk.requests("GET store/a")] == [None, "bytes=4-", "bytes=4-", "bytes=7-"]


@pytest.mark.parametrize("how", ["whole", "another version", "no such range"])
def test_a_transfer_begins_anew_where_it_cannot_go_on(cts: Facade, desk: Desk, tmp_path: Path, how: str):
    has(desk, a=b"0123456789")
    part = stream(b"xyz", etag='"2"')
    part.status_code = 206
    again = {"whole": [], "another version": [part], "no such range": [httpx.Response(416)]}[how]
    desk.on("GET store/a", stream(b"01x3", httpx.ReadError("x"), etag='"1"'), *again)
    cts.download(JOB, tmp_path)
    assert there(tmp_path) == {"a": b"0123456789"}
    ranges = [r.headers.get("range") for r in desk.requests("GET store/a")]
    assert ranges == [None, "bytes=4-", *[None for _ in again]]


@pytest.mark.parametrize("refused", [403, 400, 401])
def test_urls_that_have_expired_are_asked_for_anew(cts: Facade, desk: Desk, tmp_path: Path, refused: int):
    has(desk, a=b"alpha", b=b"beta")
    desk.on("GET store/a", httpx.Response(refused, text="Request has expired"))
    fresh = [listed("a", b"alpha", f"{STORE}/fresh?{SIGNED}"), listed("b", b"beta")]
    desk.on(FILES, reply({"files": fresh, "total": 2}))
    desk.on("GET store/fresh", stream(b"alpha"))
    cts.download(JOB, tmp_path)
    assert there(tmp_path) == {"a": b"alpha", "b": b"beta"}
    assert [r.url.params["offset"] for r in desk.requests(FILES)] == ["0", "0"]


def test_a_store_that_refuses_fresh_urls(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"alpha")
    desk.always("GET store/a", httpx.Response(403))
    desk.always(FILES, reply({"files": [listed("a", b"alpha")], "total": 1}))
    with pytest.raises(DownloadError, match="HTTP 403"):
        cts.download(JOB, tmp_path)
    assert len(desk.requests("GET store/a")) == 4
    assert there(tmp_path) == {}


def test_a_store_that_is_away_for_a_while(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk, a=b"alpha")
    desk.on(
        "GET store/a", httpx.Response(503, headers={"retry-after": "3"}), httpx.Response(500), httpx.ConnectError("x")
    )
    cts.download(JOB, tmp_path)
    assert there(tmp_path) == {"a": b"alpha"}
    assert desk.slept == [3, 1, 2]


@pytest.mark.parametrize(
    ("answer", "words", "tries"),
    [
        (httpx.Response(404), "not in S3 any more", 1),
        (httpx.Response(302, headers={"location": "http://elsewhere.test"}), "HTTP 302", 1),
        (httpx.Response(503), "HTTP 503", 6),
        (httpx.ConnectError("refused"), "refused", 6),
    ],
)
def test_a_store_that_does_not_give_the_file(
    cts: Facade, desk: Desk, tmp_path: Path, answer: Any, words: str, tries: int
):
    has(desk, a=b"alpha")
    desk.always("GET store/a", answer)
    with pytest.raises(DownloadError, match=words) as caught:
        cts.download(JOB, tmp_path)
    assert "s3cret" not in str(caught.value)
    assert len(desk.requests("GET store/a")) == tries
    assert there(tmp_path) == {}


def test_what_has_come_counts_as_progress(cts: Facade, desk: Desk, tmp_path: Path):
    """More breaks than tries, each after some bytes."""
    data = bytes(range(20))
    has(desk, a=data)

    def one(request: httpx.Request) -> httpx.Response:
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        answer = stream(data[start : start + 1], *([] if start == 19 else [httpx.ReadError("x")]), etag='"1"')
        answer.status_code = 206 if start else 200
        return answer

    desk.always("GET store/a", one)
    cts.download(JOB, tmp_path)
    assert there(tmp_path) == {"a": data}


def test_outputs_of_a_job_that_is_not_over(cts: Facade, desk: Desk, tmp_path: Path):
    desk.on(DETAILS, reply(job("job_submitted")))
    with pytest.raises(JobNotOver, match="job_submitted"):
        cts.download(JOB, tmp_path)


def test_a_job_without_outputs(cts: Facade, desk: Desk, tmp_path: Path):
    has(desk)
    assert cts.download(JOB, tmp_path / "new") == []
    assert not (tmp_path / "new").exists()


def test_eight_at_once(cts: Facade, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wanted: list[int] = []
    driver = cts._client._driver
    spread = driver._spread

    def noted(flows: Any, at_once: int) -> Any:
        wanted.append(at_once)
        return spread(flows, at_once)

    monkeypatch.setattr(driver, "_spread", noted)
    names = {f"f{i}": b"x" for i in range(40)}
    has(desk, **names)
    cts.download(JOB, tmp_path)
    assert len(there(tmp_path)) == 40
    assert wanted == [8, 8]


class Crowd:
    """Counts how many are in it at once, and lets them go when as many as may be are there."""

    def __init__(self, most: int) -> None:
        self.inside = self.most = 0
        self._lock = threading.Lock()
        self._all = threading.Barrier(most, timeout=30)

    def enter(self) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def leave(self) -> None:
        with self._lock:
            self.inside -= 1

    def meet(self, *_: object) -> None:
        """For threads."""
        self.enter()
        self._all.wait()
        self.leave()

    async def pass_by(self, _: float) -> None:
        """For tasks."""
        self.enter()
        for _step in range(10):
            await asyncio.sleep(0)
        self.leave()


def test_drivers_keep_to_how_many_may_be_at_once(cts: Facade):
    crowd = Crowd(3)
    driver = cts._client._driver
    driver._sleep = crowd.pass_by if cts._loop else crowd.meet
    done = driver._spread((pause(1) for _ in range(12)), 3)
    if cts._loop:
        cts._loop.run_until_complete(done)
    assert (crowd.most, crowd.inside) == (3, 0)


def test_one_failure_ends_all_and_keeps_what_is_whole(cts: Facade, desk: Desk, tmp_path: Path):
    names = {f"f{i:03}": b"x" for i in range(500)}
    has(desk, **names)
    desk.on("GET store/f050", httpx.Response(404))
    with pytest.raises(DownloadError, match="f050"):
        cts.download(JOB, tmp_path)
    found = there(tmp_path)
    # When it was begun, at most seven of those before it were not done; and those far behind it never are begun.
    assert 43 <= len(found) < 499
    assert set(found) < set(names)
    assert set(found.values()) == {b"x"}


HOSTILE = [
    "../a",
    "..",
    ".",
    "a/../../b",
    "a/./b",
    "a//b",
    "/etc/passwd",
    "a/",
    "",
    "a\0b",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(cts: Facade, desk: Desk, tmp_path: Path, name: str):
    desk.on(DETAILS, reply(job()))
    desk.on(FILES, reply({"files": [listed("fine", b"x"), listed(name, b"x")], "total": 2}))
    with pytest.raises(DownloadError):
        cts.download(JOB, tmp_path / "d")
    assert there(tmp_path) == {}


@pytest.mark.parametrize(
    "file", ["bucket/ann/other/a", "bucket/ann/out", "bucket/ann/outside/a", "/a", "elsewhere/ann/out/a"]
)
def test_files_elsewhere_are_refused(file: str, tmp_path: Path):
    with pytest.raises(DownloadError, match="not below"):
        plan(tmp_path, "bucket/ann/out/", [OutputFile(file=file, crc64nvme="x")])


def test_files_in_each_others_way_are_refused(tmp_path: Path):
    def files(*names: str) -> list[OutputFile]:
        return [OutputFile(file=f"b/{name}", crc64nvme="x") for name in names]

    with pytest.raises(DownloadError, match="needs a directory"):
        plan(tmp_path, "b/", files("a/b/c", "a"))
    with pytest.raises(DownloadError, match="would lie where"):
        plan(tmp_path, "b/", files("a", "a"))
    assert len(plan(tmp_path, "b", files("a/b", "a/c", "ab"))) == 3


@given(st.text(max_size=30))
def test_no_name_leads_out_of_the_directory(name: str):
    directory = Path("/some/where")
    try:
        [target] = plan(directory, "bucket/out/", [OutputFile(file=f"bucket/out/{name}", crc64nvme="x")])
    except DownloadError:
        return
    assert Path(os.path.normpath(target.path)).is_relative_to(directory)
    assert os.path.normpath(target.path) != str(directory)
    assert target.path == directory / name
