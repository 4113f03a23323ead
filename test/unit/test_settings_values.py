"""The settings' values: which are taken, and what is said of those that are not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cdmtaskservice.settings import SettingsError, load_settings, read_settings_file
from cdmtaskservice.settings.template import to_toml
from test.unit.test_settings import REQUIRED, SECRET, TEMPLATE, problems_of, with_env


@pytest.mark.parametrize(
    ("given_value", "seconds"),
    [
        ("0.5", 0.5),
        ("90", 90),
        ("PT1M30S", 90),
        ("P1D", 86400),
        ("P1W", 604800),
        ("PT0.25H", 900),
        (" 30 ", 30),
    ],
)
def test_durations(given_value: str, seconds: float) -> None:
    settings = load_settings(TEMPLATE, with_env(KBCTS_AUTH__TIMEOUT=given_value))
    assert settings.auth.timeout == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "given_value",
    ["", "-1", "nan", "inf", "1e300", "P", "PT", "P1M", "P1Y", "PT-5S", "1d", "12:00", "0", "PT1S extra"],
)
def test_no_durations(given_value: str) -> None:
    problems = problems_of(TEMPLATE, with_env(KBCTS_AUTH__TIMEOUT=given_value))
    assert set(problems) == {"auth.timeout (from KBCTS_AUTH__TIMEOUT)"}


@hypothesis_settings(deadline=None, max_examples=40)
@given(st.text())
def test_a_duration_of_any_text_is_taken_or_a_problem(text: str) -> None:
    try:
        load_settings(TEMPLATE, with_env(KBCTS_AUTH__TIMEOUT=text))
    except SettingsError as exc:
        (problem,) = exc.problems
        event(problem.setting)


WRONG_VALUES = [
    ("KBCTS_SERVICE__PORT", "0"),
    ("KBCTS_SERVICE__ROOT_PATH", "services/cts"),
    ("KBCTS_SERVICE__ROOT_PATH", "/services/cts/"),
    ("KBCTS_SERVICE__EXTERNAL_URL", "cts.example"),
    ("KBCTS_SERVICE__EXTERNAL_URL", "https://u:p@cts.example"),
    ("KBCTS_SERVICE__EXTERNAL_URL", "https://cts.example/?a"),
    ("KBCTS_SERVICE__EXTERNAL_URL", "https://cts.example:99999"),
    ("KBCTS_SERVICE__EXTERNAL_URL", "ftp://cts.example"),
    ("KBCTS_SERVICE__MAX_CPU_HOURS", "inf"),
    ("KBCTS_SERVICE__WORKER_SIGNING_SECRETS", "[]"),
    ("KBCTS_SERVICE__WORKER_SIGNING_SECRETS", f'["{SECRET}", "{SECRET}"]'),
    ("KBCTS_AUTH__KIND", "ldap"),
    ("KBCTS_AUTH__ROLES__STAFF", ""),
    ("KBCTS_MONGO__DATABASE", "a.b"),
    ("KBCTS_MONGO__URI", "http://mongo"),
    ("KBCTS_KAFKA__TOPIC", "a_b"),
    ("KBCTS_KAFKA__TOPIC", "a" * 250),
    ("KBCTS_KAFKA__BOOTSTRAP_SERVERS", ""),
    ("KBCTS_KAFKA__SASL_PASSWORD", "used-nowhere"),
    ("KBCTS_S3__PART_SIZE", str(5 * 1024**2 - 1)),
    ("KBCTS_S3__PART_SIZE", "many"),
    ("KBCTS_S3__ALLOWED_PATHS", ""),
    ("KBCTS_S3__LOG_PATH", "cts/io/logs/"),
    ("KBCTS_S3__LOG_PATH", "cts/"),
    ("KBCTS_S3__LOG_PATH", "cts/{user}/logs"),
    ("KBCTS_S3__PRESIGN_EXPIRY", "P8D"),
    ("KBCTS_JOBS__HEARTBEAT_TIMEOUT", "29"),
    ("KBCTS_JOBS__UPLOAD_BATCH", "0"),
    ("KBCTS_LOGGING__LEVEL", "LOUD"),
]


@pytest.mark.parametrize(("variable", "value"), WRONG_VALUES)
def test_a_wrong_value_is_one_problem_that_names_setting_and_variable(variable: str, value: str) -> None:
    problems = problems_of(TEMPLATE, with_env(**{variable: value}))
    dotted = variable.removeprefix("KBCTS_").lower().replace("__", ".")
    assert set(problems) == {f"{dotted} (from {variable})"}
    (problem,) = problems.values()
    assert problem.todo
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/cts/",
        "Bucket/a/",
        "ct/",
        "cts//a/",
        "cts/../a",
        "cts/{user}/{user}",
        "cts/{usr}",
        "{user}/a",
        "cts/a;b",
        "-a-/",
    ],
)
def test_wrong_allowed_paths(path: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    data = dict(read_settings_file(TEMPLATE, REQUIRED).data)
    s3 = data["s3"]
    assert isinstance(s3, dict)
    file.write_text(to_toml(data | {"s3": s3 | {"allowed_paths": [path]}}))
    assert set(problems_of(file, {})) == {"s3.allowed_paths[0]"}


@pytest.mark.parametrize("server", ["kafka", "kafka:0", "kafka:99999", ":9092", "http://kafka:9092", "a b:1"])
def test_wrong_servers(server: str) -> None:
    problems = problems_of(TEMPLATE, with_env(KBCTS_KAFKA_BOOTSTRAP_SERVERS=server))
    assert set(problems) == {"kafka.bootstrap_servers[0]"}


def test_what_one_setting_asks_of_another() -> None:
    assert "auth.kbase_url" in problems_of(TEMPLATE, with_env(KBCTS_AUTH_KBASE_URL=""))
    assert "auth.local_file" in problems_of(TEMPLATE, with_env(KBCTS_AUTH_KIND="local"))
    local = load_settings(TEMPLATE, with_env(KBCTS_AUTH_KIND="local", KBCTS_AUTH_LOCAL_FILE="/etc/cts/users.json"))
    assert local.auth.local_file == Path("/etc/cts/users.json")
    assert "service.external_url" in problems_of(TEMPLATE, with_env(KBCTS_SERVICE_HOST="0.0.0.0"))
    sasl = problems_of(TEMPLATE, with_env(KBCTS_KAFKA_SECURITY_PROTOCOL="SASL_SSL"))
    assert set(sasl) == {"kafka.sasl_user", "kafka.sasl_password"}
    assert load_settings(TEMPLATE, with_env(KBCTS_SERVICE_HOST="::1")).service.url == "http://[::1]:5000"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://app.example.org", ("https://app.example.org",)),
        ("https://App.Example.org:443, http://localhost:8080", ("https://app.example.org", "http://localhost:8080")),
        ("http://[::1]:3000", ("http://[::1]:3000",)),
    ],
)
def test_origins_are_kept_as_browsers_write_them(given: str, kept: tuple[str, ...]) -> None:
    settings = load_settings(TEMPLATE, with_env(KBCTS_SERVICE_CORS_ORIGINS=given))
    assert settings.service.cors_origins == kept


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.org",
        "https://app.example.org/",
        "https://app.example.org/path",
        "https://app.example.org?a",
        "https://a@app.example.org",
        "https://*.example.org",
        "ftp://app.example.org",
        "null",
        "https://",
        "https://app.example.org:99999",
    ],
)
def test_wrong_origins(origin: str) -> None:
    problems = problems_of(TEMPLATE, with_env(KBCTS_SERVICE_CORS_ORIGINS=origin))
    assert set(problems) == {"service.cors_origins[0]"}


def test_all_origins_and_some_are_a_mistake() -> None:
    problems = problems_of(TEMPLATE, with_env(KBCTS_SERVICE_CORS_ORIGINS="*,https://app.example.org"))
    assert set(problems) == {"service.cors_origins"}
