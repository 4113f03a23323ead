"""The page of the Python client: its examples run, and it has every method and every error."""

import contextlib
import inspect
import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from cdmtaskservice import client
from cdmtaskservice.client import aio_driver, blocking, blocking_admin, blocking_driver, errors
from cdmtaskservice.s3.checksum import crc64nvme
from test.stand_ins.client_desk import TIME, job, status
from test.unit.test_client_calls import ADMIN_CALLS, CALLS, DRY, REFDATA
from test.unit.test_docs import Block, blocks, table

PAGE = (Path(__file__).parents[2] / "docs/client.md").read_text(encoding="utf-8")
EXAMPLES = [b for b in blocks(PAGE) if b.words[0] == "python"]


class House:
    """A service with one job, for whatever the page asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        files = [{"file": "bucket/ann/out/a", "crc64nvme": crc64nvme(b"x"), "url": "http://store.test/a", "size": 1}]
        self._known = [
            ("GET /jobs/no-such-job/status", {"error": {"appcode": 40040, "message": "none", "request_id": "r"}}),
            ("GET /jobs/[^/]+/status", status()),
            ("GET /jobs/[^/]+/events", None),
            ("GET /jobs/[^/]+/log/.*", b"line\n"),
            ("GET /jobs/[^/]+/files", {"files": files, "total": 1}),
            ("GET /jobs/[^/]+/containers", CALLS["containers"][1]),
            ("GET /jobs/[^/]+/exit_codes", {"exit_codes": [0]}),
            ("GET /jobs/[^/]+", job()),
            ("GET /jobs", {"jobs": [job(), job()]}),
            ("POST /jobs", {"job_id": "job-1"}),
            ("PUT /jobs/[^/]+/cancel", None),
            ("GET /images/.*", CALLS["image"][1]),
            ("GET /refdata/id/.*", REFDATA),
            ("GET /refdata/path/.*", {"data": [REFDATA]}),
            ("GET /", {"service_name": "CDM Task Service", "version": "1"}),
            ("GET /(whoami|images|refdata|sites)", None),
            ("GET /a", b"x"),
        ]
        self._admin = {
            re.sub(
                r"job-1|r1|\b3$", "[^/]+", re.sub(r"registry\.test/tool(:1)?|bucket/ref/db\.tgz", ".+", what)
            ): answer
            for what, answer, _ in ADMIN_CALLS.values()
        }

    def handle(self, request: httpx.Request) -> httpx.Response:
        what = f"{request.method} {request.url.path}"
        self.asked.append(what)
        if request.method == "POST" and request.url.params.get("dry_run"):
            return httpx.Response(200, json=DRY)
        if what.endswith("/events"):
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=_EVENTS.encode())
        for name in ("whoami", "images", "refdata", "sites"):
            if what == f"GET /{name}":
                return httpx.Response(200, json=CALLS[name][1])
        for pattern, answer in (*self._known, *self._admin.items()):
            if re.fullmatch(pattern, what):
                return self._reply(answer)
        raise AssertionError(f"the page asks for {what}")

    @staticmethod
    def _reply(answer: Any) -> httpx.Response:
        if answer is None:
            return httpx.Response(204)
        if isinstance(answer, bytes):
            return httpx.Response(200, content=answer)
        return httpx.Response(404 if "error" in answer else 200, json=answer)


_EVENTS = "".join(
    f"event: {name}\n{extra}data: {json.dumps(data)}\n\n"
    for name, extra, data in (
        ("state", "id: 0\n", {"state": "created", "time": TIME}),
        ("containers", "", {"counts": {"created": 1}}),
        ("waiting", "", {"waiting": "no room"}),
        ("waiting", "", {"waiting": None}),
        ("state", "id: 1\n", {"state": "complete", "time": TIME}),
        ("end", "", {"state": "complete"}),
    )
)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> House:
    """What the page's clients talk to."""
    found = House()
    for driver in (blocking_driver.Driver, aio_driver.AsyncDriver):
        made: Any = driver.__init__

        def instead(self: Any, wire: Any, transport: Any, made: Any = made) -> None:
            made(self, wire, transport or httpx.MockTransport(found.handle))

        monkeypatch.setattr(driver, "__init__", instead)
    monkeypatch.setenv("CTS_URL", "http://cts.test")
    monkeypatch.setenv("CTS_TOKEN", "t")
    monkeypatch.setenv("CTS_PROFILE_FILE", str(tmp_path / "profile.json"))
    monkeypatch.chdir(tmp_path)
    return found


def test_all_examples_run_one_after_the_other(house: House, tmp_path: Path):
    names: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for block in EXAMPLES:
            if "async" not in block.words:
                exec(compile(block.text, "docs/client.md", "exec"), names)
    names["cts"].close()
    for words in (
        "complete",
        "run1/a",
        "Profile(url='https://cts.example.org')",
        "results/a",
        "40040 none r",
        "the end",
    ):
        assert words in said.getvalue()
    assert (tmp_path / "results/a").read_bytes() == b"x"
    assert "the-token" not in said.getvalue()


def test_the_example_with_asyncio(house: House):
    """In a thread, for the tests' own loop stands in the way of another one."""
    import threading

    [block] = [b for b in EXAMPLES if "async" in b.words]
    said: list[str] = []
    names = {"print": lambda *words: said.append(str(words))}
    thread = threading.Thread(target=exec, args=(compile(block.text, "docs/client.md", "exec"), names))
    thread.start()
    thread.join()
    assert said == ["(['complete', 'complete'],)"]


def test_every_method_is_shown():
    code = "".join(b.text for b in EXAMPLES)
    for kind, name in ((blocking.Client, "cts"), (blocking_admin.Admin, "admin")):
        methods = {n for n, m in vars(kind).items() if inspect.isfunction(m) and not n.startswith("_")}
        assert {m for m in methods if f"{name}.{m}(" not in code} <= {"close"}
    assert "cts.close()" in PAGE


def test_the_first_job_takes_about_ten_lines():
    [first] = [b for b in EXAMPLES if "first" in b.words]
    assert len(first.text.splitlines()) <= 12


def _row(kind: type[errors.ServiceError]) -> list[str]:
    codes, statuses = (vars(kind).get(n, frozenset()) for n in ("codes", "statuses"))
    name = kind.__name__ + (", a NotFound" if kind.__base__ is errors.NotFound else "")
    return [name, ", ".join(map(str, sorted(codes))), ", ".join(map(str, sorted(statuses)))]


def test_every_refusal_is_in_its_table():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.ServiceError)]
    told = [[cell.replace("`", "") for cell in row] for row in table(PAGE, "client refusals")]
    assert sorted(told) == sorted(_row(k) for k in kinds if k is not errors.ServiceError)


def test_every_other_error_is_in_its_table():
    kinds = {
        k.__name__
        for k in vars(errors).values()
        if isinstance(k, type) and issubclass(k, errors.CTSError) and not issubclass(k, errors.ServiceError)
    }
    assert {row[0] for row in table(PAGE, "client errors")} == kinds - {"CTSError"}


def test_all_errors_can_be_imported_from_the_package():
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.CTSError):
            assert getattr(client, kind.__name__) is kind


def test_what_the_settings_are_called():
    source = inspect.getsource(inspect.getmodule(client.load_profile))  # type: ignore[arg-type]
    named = set(re.findall(r"CTS_[A-Z_]+", PAGE))
    assert named == set(re.findall(r"CTS_[A-Z_]+", source))


def test_blocks_of_this_page_are_found():
    assert len(EXAMPLES) > 15
    assert isinstance(EXAMPLES[0], Block)
