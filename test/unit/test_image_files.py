"""What the image is made of, as its Dockerfile says; building it is tried in test/system."""

from __future__ import annotations

import http.server
import json
import re
import threading
import tomllib
from collections.abc import Iterator

import pytest

from cdmtaskservice.cli import alive
from cdmtaskservice.embedded.part import free_ports
from test.unit.dockerfiles import REPO, copied, in_context, read

ARGUMENTS, STAGES = read(REPO / "Dockerfile")
FINAL = STAGES[-1]
BUILD = next(stage for stage in STAGES if stage.name == "build")


def test_what_comes_from_registries_can_be_replaced() -> None:
    assert set(ARGUMENTS) == {"BASE", "CRANE_IMAGE"}
    assert all(re.search(r":\S+$", default) for default in ARGUMENTS.values())
    known = {stage.name for stage in STAGES}
    assert {stage.base for stage in STAGES} <= known | {"${BASE}", "${CRANE_IMAGE}"}


def test_packages_are_those_of_the_lock_file_and_no_others() -> None:
    syncs = [rest for rest in BUILD.all("RUN") if "uv sync" in rest]
    assert len(syncs) == 2
    for sync in syncs:
        words = sync.partition("uv sync")[2].split()
        assert {"--locked", "--no-default-groups"} <= set(words)
        assert words[words.index("--extra") + 1] == "server"
        assert words.count("--extra") == 1
        assert "--all-extras" not in words
    assert "--no-editable" in syncs[-1]
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "server" in extras


def test_nobody_special_runs_it() -> None:
    [user] = FINAL.all("USER")
    assert re.fullmatch(r"(?!0+:)[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert FINAL.steps.index(("USER", user)) > max(i for i, (word, _) in enumerate(FINAL.steps) if word == "RUN")
    made = " ".join(FINAL.all("RUN"))
    assert f"--uid {user.partition(':')[0]}" in made


def test_it_starts_and_ends_as_it_should() -> None:
    assert [json.loads(rest) for rest in FINAL.all("ENTRYPOINT")] == [["cts"]]
    assert [json.loads(rest) for rest in FINAL.all("CMD")] == [["serve", "--config", "/etc/cts/config.toml.jinja"]]
    assert FINAL.all("STOPSIGNAL") == ["SIGTERM"]
    [check] = FINAL.all("HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2]) == ["python3", "-m", alive.__name__]


def test_only_what_is_meant_comes_into_it() -> None:
    assert copied(FINAL) == ["config.toml.jinja"]
    sources = {re.search(r"--from=(\S+)", rest)[1] for rest in FINAL.all("COPY") if "--from" in rest}  # type: ignore[index]
    assert sources == {"crane", "build"}
    everything = [word for stage in STAGES for word, _ in stage.steps]
    assert "ADD" not in everything
    for stage in STAGES:
        for path in copied(stage):
            assert in_context(path), path
            assert (REPO / path).exists(), path
    for path in (".git", ".venv", ".env", "test", "docs", "uv.toml"):
        assert not in_context(path)


def test_it_says_what_it_is() -> None:
    labels = " ".join(FINAL.all("LABEL"))
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert "CTS_GIT_HASH=unknown" in FINAL.all("ARG")
    assert "CTS_GIT_HASH=${CTS_GIT_HASH}" in " ".join(FINAL.all("ENV"))


def test_no_machine_of_ours_stands_in_it() -> None:
    text = (REPO / "Dockerfile").read_text()
    assert not re.search(r"pypi\.org|proxy|--index|/tmp/w|SSL_CERT", text, re.IGNORECASE)


# The health check


@pytest.fixture
def served() -> Iterator[tuple[str, list[int]]]:
    """A server's address, and the status that it answers with, which may be changed."""
    status = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0] if self.path == "/health/live" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield str(server.server_port), status
        server.shutdown()


@pytest.mark.parametrize("variable", ["KBCTS_SERVICE_PORT", "KBCTS_SERVICE__PORT"])
def test_the_health_check_asks_the_service_of_its_environment(variable: str, served: tuple[str, list[int]]) -> None:
    port, status = served
    assert alive.main([], {variable: port}) == 0
    status[0] = 503
    assert alive.main([], {variable: port}) == 1


def test_the_health_check_of_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    [port] = free_ports(1)
    assert alive.main([f"http://127.0.0.1:{port}/health/live"], {}) == 1
    assert alive.main(["no url"], {}) == 1
    assert alive.url_of({}) == "http://127.0.0.1:5000/health/live"


def test_the_health_check_goes_by_no_proxy(served: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert alive.main([], {"KBCTS_SERVICE_PORT": served[0]}) == 0
