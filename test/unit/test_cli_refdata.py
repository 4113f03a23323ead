"""`cts refdata`, against a small HTTP server that stands in for the service."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cdmtaskservice.cli.main import app
from cdmtaskservice.client.admin_models import AdminReferenceData
from cdmtaskservice.client.blocking_admin import Admin
from cdmtaskservice.client.errors import ServiceUnreachable

runner = CliRunner()


class Server:
    """answers: (status, JSON or raw bytes) for the requests to come, the last one for all others."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[SimpleNamespace] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                server.asked.append(
                    SimpleNamespace(what=f"{self.command} {self.path}", token=self.headers.get("Authorization"))
                )
                status, told = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
                body = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in ("CTS_URL", "CTS_TOKEN", "CTS_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CTS_PROFILE_FILE", str(tmp_path / "profile.json"))
    monkeypatch.setattr("cdmtaskservice.cli.service.RETRIES", 0)
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()


def cts(server: Server, *arguments: str) -> Result:
    return runner.invoke(app, ["refdata", *arguments, "--url", server.url])


TIME = "2030-01-01T00:00:00Z"


def status(site: str, state: str, **more: Any) -> dict[str, Any]:
    return {"cluster": site, "state": state, "transition_times": [], "cleaned": False, **more}


def refdata(*statuses: dict[str, Any], **more: Any) -> dict[str, Any]:
    known = {"crc64nvme": "S8AXmd7A3f8=", "unpack": True, "registered_by": "a", "registered_on": TIME}
    return {"id": "r1", "file": "b/db.zip", "statuses": list(statuses), **known, **more}


PROGRESS = {
    "phase": "unpacking",
    "percent": 42.25,
    "bytes_done": 1,
    "bytes_total": 2,
    "bytes_per_second": 12_345_678.0,
    "files_done": 1234,
    "bytes_unpacked": 5,
    "time": "2030-01-01T00:00:00Z",
}
ALL = {
    "data": [
        refdata(
            status("kbase", "download_submitted", progress=PROGRESS, waiting="nobody came"),
            status("nersc", "complete", files=1_000_000),
            status("other", "error", error="no", admin_error="disk full"),
        ),
        refdata(status("kbase", "complete", removed_on=TIME), status("nersc", "complete"), id="r2", retired_on=TIME),
        refdata(id="r3"),
    ]
}
ROWS = [
    ["r1", "b/db.zip", "kbase", "download_submitted", "unpacking 42.2 %", "12.3 MB/s", "1,234", "nobody came"],
    ["r1", "b/db.zip", "nersc", "complete", "", "", "1,000,000", ""],
    ["r1", "b/db.zip", "other", "error", "", "", "", "no"],
    ["r2", "b/db.zip", "kbase", "removed", "", "", "", ""],
    ["r2", "b/db.zip", "nersc", "being removed", "", "", "", ""],
    ["r3", "b/db.zip", "", "", "", "", "", ""],
]


def rows(done: Result) -> Sequence[Sequence[str]]:
    assert done.exit_code == 0, done.output
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_a_row_for_each_site(server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" secret\n")
    server.answers = [(200, ALL)]
    assert rows(cts(server, "list", "--token-file", str(tmp_path / "token"))) == ROWS
    assert [(a.what, a.token) for a in server.asked] == [("GET /admin/refdata", "Bearer secret")]
    server.answers = [(200, ALL["data"][0])]
    shown = cts(server, "show", "r1")
    assert rows(shown) == ROWS[:3]
    assert shown.stderr == "other: disk full\n"
    assert (server.asked[-1].what, server.asked[-1].token) == ("GET /admin/refdata/r1", None)


def test_json_is_what_the_service_says(server: Server) -> None:
    server.answers = [(200, ALL)]
    assert json.loads(cts(server, "list", "--json").stdout) == ALL
    server.answers = [(200, ALL["data"][0])]
    assert json.loads(cts(server, "show", "r1", "--json").stdout) == ALL["data"][0]
    assert json.loads(cts(server, "register", "b/k", "--json").stdout) == ALL["data"][0]


def test_who_is_no_administrator_sees_what_everybody_sees(server: Server) -> None:
    refused = {"error": {"message": "no", "appcode": 20000}}
    server.answers = [(403, refused), (200, ALL), (403, refused), (200, ALL["data"][0])]
    assert rows(cts(server, "list")) == ROWS
    assert rows(cts(server, "show", "r1")) == ROWS[:3]
    assert [a.what for a in server.asked] == [
        "GET /admin/refdata",
        "GET /refdata",
        "GET /admin/refdata/r1",
        "GET /refdata/id/r1",
    ]


def test_commands_without_an_answer_have_an_empty_document(server: Server) -> None:
    server.answers = [(204, None)]
    for arguments in (["recover", "r1", "kbase"], ["clean", "r1", "kbase"], ["retire", "r1"]):
        assert cts(server, *arguments, "--json").stdout == "{}\n"


def test_the_service_is_found_by_the_environment(server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    server.answers = [(200, {"data": []})]
    environ = {"CTS_URL": f"{server.url}/", "CTS_TOKEN_FILE": str(tmp_path / "token")}
    done = runner.invoke(app, ["refdata", "list"], env=environ)
    assert (done.exit_code, done.output) == (0, "")
    assert server.asked[0].token == "Bearer secret"


def test_a_service_below_a_path(server: Server) -> None:
    server.answers = [(200, {"data": []})]
    assert runner.invoke(app, ["refdata", "list", "--url", f"{server.url}/services/cts"]).exit_code == 0
    assert server.asked[0].what == "GET /services/cts/admin/refdata"


def test_a_registration_prints_the_id_alone(server: Server) -> None:
    server.answers = [(200, refdata())]
    assert cts(server, "register", "b/a b/ü?#.zip").stdout == "r1\n"
    cts(server, "register", "b/k", "--unpack", "--crc64nvme", "S8AXmd7A3+8=")
    assert [a.what for a in server.asked] == [
        "POST /admin/refdata/b/a%20b/%C3%BC%3F%23.zip?unpack=false",
        "POST /admin/refdata/b/k?crc64nvme=S8AXmd7A3%2B8%3D&unpack=true",
    ]


def test_a_file_whose_name_has_a_percent_sign_is_itself(server: Server) -> None:
    server.answers = [(200, refdata())]
    cts(server, "register", "b/100%25.zip")
    assert server.asked[0].what == "POST /admin/refdata/b/100%2525.zip?unpack=false"


@pytest.mark.parametrize(
    ("arguments", "asked", "said"),
    [
        (
            ["recover", "r1", "kbase"],
            "PUT /admin/refdata/r1/kbase/recover?force=false",
            "r1 will be staged at kbase anew",
        ),
        (["recover", "r1", "kbase", "--force"], "PUT /admin/refdata/r1/kbase/recover?force=true", "at kbase anew"),
        (["clean", "r1", "kbase"], "DELETE /admin/refdata/r1/kbase/clean?force=false", "left at kbase"),
        (["clean", "r1", "kbase", "--force"], "DELETE /admin/refdata/r1/kbase/clean?force=true", "left at kbase"),
        (["retire", "r1"], "DELETE /admin/refdata/r1", "r1 is retired"),
    ],
)
def test_what_is_asked_for_is_done(arguments: list[str], asked: str, said: str, server: Server) -> None:
    server.answers = [(204, None)]
    done = cts(server, *arguments)
    assert (done.exit_code, done.stdout) == (0, "")
    assert said in done.stderr
    assert [a.what for a in server.asked] == [asked]


REFUSED = {"error": {"message": "r1 is not there", "request_id": "0123"}}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, REFUSED), ["r1 is not there", "HTTP 404", "request 0123"]),
        ((500, {"error": {}}), ["HTTP 500", "no ID"]),
        ((400, []), ["[]", "HTTP 400"]),
    ],
)
@pytest.mark.parametrize("arguments", [["list"], ["show", "r1"], ["watch", "r1"], ["retire", "r1"]], ids=str)
def test_a_refusal_is_1_with_the_services_words(
    arguments: list[str], answer: tuple[int, Any], said: list[str], server: Server
) -> None:
    server.answers = [answer]
    done = cts(server, *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert all(words in done.stderr for words in said), done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize("arguments", [["list"], ["register", "b/k"], ["watch", "r1"]], ids=str)
def test_a_service_that_does_not_answer_is_3(arguments: list[str], server: Server) -> None:
    done = runner.invoke(app, ["refdata", *arguments, "--url", "http://127.0.0.1:9"])
    assert (done.exit_code, done.stdout) == (3, "")
    assert "does not answer" in done.stderr
    assert "(http://127.0.0.1:9)" in done.stderr


def test_what_cannot_be_asked_is_1(server: Server, tmp_path: Path) -> None:
    done = cts(server, "list", "--token-file", str(tmp_path / "none"))
    assert done.exit_code == 1
    assert "cannot be read: " in done.stderr
    assert server.asked == []
    done = runner.invoke(app, ["refdata", "list", "--url", "http://a:b:c"])
    assert done.exit_code == 1
    assert "URL" in done.stderr


@pytest.mark.parametrize(("last", "code"), [("complete", 0), ("error", 1)])
def test_watching_tells_what_is_new_until_it_is_over_everywhere(last: str, code: int, server: Server) -> None:
    def answers(*second: dict[str, Any]) -> list[tuple[int, Any]]:
        first = status("a", "complete")
        return [(200, refdata(first, one)) for one in second]

    server.answers = answers(
        status("b", "created"),
        status("b", "created"),
        status("b", "download_submitted", progress=PROGRESS),
        status("b", last, error="why" if code else None),
    )
    done = cts(server, "watch", "r1", "--interval", "0.1")
    assert done.exit_code == code, done.output
    assert done.stdout.splitlines() == [
        "a  complete",
        "b  created",
        "b  download_submitted  unpacking 42.2 %  12.3 MB/s  1,234",
        "b  error  why" if code else "b  complete",
    ]
    assert len(server.asked) == 4


def test_watching_what_is_staged_nowhere_ends(server: Server) -> None:
    server.answers = [(200, refdata())]
    done = cts(server, "watch", "r1")
    assert done.exit_code == 1
    assert "No site has r1" in done.stderr
    assert "cts refdata recover" in done.stderr


def test_watching_waits_while_the_service_does_not_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = [(200, refdata(status("a", "created"))), (200, refdata(status("a", "complete")))]
    ask, calls = Admin.refdata_one, []

    def away_meanwhile(self: Admin, refdata_id: str) -> AdminReferenceData:
        calls.append(refdata_id)
        if len(calls) in {2, 3}:
            raise ServiceUnreachable("away")
        return ask(self, refdata_id)

    monkeypatch.setattr(Admin, "refdata_one", away_meanwhile)
    done = cts(server, "watch", "r1", "--interval", "0.1")
    assert (done.exit_code, done.stdout.splitlines()) == (0, ["a  created", "a  complete"])
    assert len(calls) == 4


def test_watching_ends_where_the_service_says_no_meanwhile(server: Server) -> None:
    server.answers = [(200, refdata(status("a", "created"))), (404, REFUSED)]
    done = cts(server, "watch", "r1", "--interval", "0.1")
    assert (done.exit_code, done.stdout.splitlines()) == (1, ["a  created"])
    assert "r1 is not there" in done.stderr


@pytest.mark.parametrize("arguments", [["show"], ["clean", "r1"], ["list"], ["serve"]], ids=str)
def test_wrong_usage_is_2(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTS_URL", raising=False)
    assert runner.invoke(app, ["refdata", *arguments]).exit_code == 2


def test_serving_with_bad_settings_says_so_and_is_1(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[refdata_service]\nat_once = 0\n")
    done = runner.invoke(app, ["refdata", "serve", "--config", str(tmp_path / "c.toml")])
    assert done.exit_code == 1
    assert "refdata_service.at_once" in done.stderr
    assert "refdata_service.token_file" in done.stderr
