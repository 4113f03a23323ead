"""The settings: models, template, loading, and the page of documentation that the template is."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from cdmtaskservice.settings import (
    HTCondorSite,
    JawsSite,
    LocalSite,
    Problem,
    Settings,
    SettingsError,
    load,
    load_settings,
    mask_secrets,
    read_settings_file,
)

TEMPLATE = Path(__file__).parents[2] / "config.toml.jinja"
SECRET = "hunter2-hunter2-hunter2-hunter2-hunter2"

REQUIRED = {
    "KBCTS_SERVICE_SIGNING_SECRET": SECRET,
    "KBCTS_AUTH_KBASE_URL": "https://auth.example/services/auth",
    "KBCTS_MONGO_URI": "mongodb://cts:pw@mongo.example:27017",
    "KBCTS_KAFKA_BOOTSTRAP_SERVERS": "k1.example:9092, k2.example:9092",
    "KBCTS_S3_ENDPOINT": "https://s3.example:9000/",
    "KBCTS_S3_ACCESS_KEY": "AKEXAMPLE",
    "KBCTS_S3_SECRET_KEY": SECRET,
    "KBCTS_S3_ALLOWED_PATHS": "cts/io/{user}/",
    "KBCTS_S3_LOG_PATH": "cts/logs",
    "KBCTS_LOCAL_WORK_DIR": "/var/lib/cts/work",
    "KBCTS_LOCAL_TOKEN_FILE": "/etc/cts/executor.token",
}
POOL = {
    "KBCTS_HTCONDOR_CPUS_PER_NODE": "64",
    "KBCTS_HTCONDOR_MEMORY_PER_NODE": "500GB",
    "KBCTS_HTCONDOR_TOKEN_FILE": "/etc/cts/worker.token",
}
JAWS = {
    "KBCTS_NERSC_USER": "cts",
    "KBCTS_NERSC_CREDENTIALS_FILE": "/etc/cts/nersc.pem",
    "KBCTS_NERSC_CODE_DIR": "/global/cfs/cts",
    "KBCTS_JAWS_USER": "cts",
    "KBCTS_JAWS_TOKEN_FILE": "/etc/cts/jaws.token",
    "KBCTS_JAWS_TEAM": "kbase",
    "KBCTS_JAWS_STAGING_DIR": "/global/jaws",
    "KBCTS_JAWS_SUBMIT_STAGING_DIR": "/pscratch/jaws",
    "KBCTS_JAWS_OUTPUTS_DIR": "/global/jaws-outputs",
    "KBCTS_JAWS_SUBMIT_OUTPUTS_DIR": "/pscratch/jaws-outputs",
    "KBCTS_JAWS_SCRATCH_DIR": "/pscratch/cts",
}
SITES: tuple[type[BaseModel], ...] = (LocalSite, HTCondorSite, JawsSite, JawsSite)
"""The kinds of site, in the order of their tables in the template."""


def problems_of(file: Path, environ: dict[str, str], root: type[BaseSettings] = Settings) -> dict[str, Problem]:
    with pytest.raises(SettingsError) as caught:
        load(root, file, environ)
    problems = caught.value.problems
    assert all(str(p) in str(caught.value) for p in problems)
    assert len({p.setting for p in problems}) == len(problems), problems
    return {p.setting: p for p in problems}


def with_env(**overrides: str) -> dict[str, str]:
    return REQUIRED | overrides


# --- the template and the models say the same ---


def model_settings(model: type[BaseModel], at: str) -> Iterator[tuple[str, str]]:
    """Dotted name and description of every setting in a model that is no section."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from model_settings(field.annotation, f"{at}{name}.")
        elif at or name != "sites":
            assert field.description, f"{at}{name} has no docstring"
            yield f"{at}{name}", " ".join(field.description.split())


def documented_settings(template: Path = TEMPLATE) -> Iterator[tuple[str, str]]:
    """Dotted name of every setting in the template, and the comment right above it. Sites are told apart by number."""
    section = ""
    sites = 0
    comment: list[str] = []
    for line in template.read_text().splitlines():
        if heading := re.fullmatch(r"\[+([a-z0-9_.]+)\]+", line):
            section, comment = heading[1], []
            if section == "sites":
                section, sites = f"sites{sites}", sites + 1
        elif line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif setting := re.match(r"([a-z0-9_]+) = ", line):
            yield f"{section}.{setting[1]}", " ".join(comment)
            comment = []
        elif not line:
            comment = []


def all_model_settings() -> dict[str, str]:
    settings = dict(model_settings(Settings, ""))
    for number, kind in enumerate(SITES):
        settings |= model_settings(kind, f"sites{number}.")
    return settings


def test_every_setting_stands_in_the_template_once_and_the_other_way_round() -> None:
    documented = [name for name, _ in documented_settings()]
    assert sorted(documented) == sorted(all_model_settings())


def test_the_template_repeats_the_models_descriptions() -> None:
    described = all_model_settings()
    for name, comment in documented_settings():
        assert comment.removesuffix(" Required.") == described[name], name


def test_the_template_marks_what_is_required() -> None:
    marked = {name for name, comment in documented_settings() if comment.endswith("Required.")}

    def required(model: type[BaseModel], at: str) -> Iterator[str]:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from required(field.annotation, f"{at}{name}.")
            elif field.is_required() and name != "sites":
                yield at + name

    sites = (name for number, kind in enumerate(SITES) for name in required(kind, f"sites{number}."))
    assert marked == {*required(Settings, ""), *sites}


def test_the_template_loads_with_only_the_required_variables_and_gives_the_models_defaults() -> None:
    settings = load_settings(TEMPLATE, REQUIRED | POOL)

    def check(model: BaseModel, at: str) -> None:
        for name, field in type(model).model_fields.items():
            value = getattr(model, name)
            if isinstance(value, BaseModel):
                check(value, f"{at}{name}.")
            elif not field.is_required() and f"{at}{name}" != "auth.kbase_url":
                assert value == field.get_default(call_default_factory=True, validated_data={}), at + name

    check(settings, "")
    for site, kind in zip(settings.sites, SITES[:2], strict=True):
        assert isinstance(site, kind)
        check(site, "sites.")
    assert [site.name for site in settings.sites] == ["local", "kbase"]
    assert [site.name for site in load_settings(TEMPLATE, REQUIRED).sites] == ["local"]
    local = {"KBCTS_LOCAL_WORK_DIR", "KBCTS_LOCAL_TOKEN_FILE"}
    pool_alone = load_settings(TEMPLATE, {k: v for k, v in (REQUIRED | POOL).items() if k not in local})
    assert [site.name for site in pool_alone.sites] == ["kbase"]


def test_the_template_loads_with_jaws() -> None:
    settings = load_settings(TEMPLATE, REQUIRED | POOL | JAWS)
    assert [type(site) for site in settings.sites] == list(SITES)
    assert [s.jaws_site for s in settings.sites if isinstance(s, JawsSite)] == ["kbase", "jgi"]
    local = {"KBCTS_LOCAL_WORK_DIR", "KBCTS_LOCAL_TOKEN_FILE"}
    alone = load_settings(TEMPLATE, {k: v for k, v in (REQUIRED | JAWS).items() if k not in local})
    assert [site.name for site in alone.sites] == ["perlmutter-jaws", "lawrencium-jaws"]


@pytest.mark.parametrize("name", [n for n in JAWS if n != "KBCTS_JAWS_TOKEN_FILE"])
def test_what_jaws_sites_need_is_named(name: str) -> None:
    problems = problems_of(TEMPLATE, {k: v for k, v in (REQUIRED | JAWS).items() if k != name})
    (problem,) = problems.values()
    assert name.removeprefix("KBCTS_").lower().replace("_", ".", 1) in problem.wrong


@pytest.mark.parametrize("name", [n for n in REQUIRED if n != "KBCTS_AUTH_KBASE_URL"])
def test_each_required_variable_is_required(name: str) -> None:
    problems = problems_of(TEMPLATE, {k: v for k, v in REQUIRED.items() if k != name})
    (problem,) = problems.values()
    assert name in problem.wrong
    assert "is not set" in problem.wrong
    assert re.search(r"line \d+", problem.wrong)


def test_required_and_default_values_are_as_the_contract_says() -> None:
    settings = load_settings(TEMPLATE, REQUIRED)
    assert settings.auth.roles.admin == ("CTS_ADMIN",)
    assert settings.auth.roles.staff == "KBASE_STAFF"
    assert settings.auth.roles.nersc == "HAS_NERSC_ACCOUNT"
    assert settings.auth.roles.executor == "CTS_EXTERNAL_EXECUTOR"
    assert settings.auth.roles.refserv == "CTS_REFDATA_SERVICE"
    assert settings.kafka.bootstrap_servers == ("k1.example:9092", "k2.example:9092")
    assert settings.s3.endpoint == settings.s3.presign_endpoint == "https://s3.example:9000"
    assert settings.s3.log_path == "cts/logs/"
    assert settings.service.url == "http://127.0.0.1:5000"
    assert settings.sites[0].cpus_at_once == settings.sites[0].cpus_per_node
    assert settings.sites[0].python == Path(sys.executable)


# --- secrets ---


def test_printing_settings_shows_no_secret() -> None:
    env = with_env(
        KBCTS_SERVICE_OLD_SIGNING_SECRET="old-" + SECRET,
        KBCTS_KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KBCTS_KAFKA_SASL_USER="cts",
        KBCTS_KAFKA_SASL_PASSWORD=SECRET,
        KBCTS_MONGO_URI=f"mongodb://u:{SECRET}@h",
    )
    settings = load_settings(TEMPLATE, env)
    for shown in (str(settings), repr(settings), settings.model_dump_json()):
        assert "hunter2" not in shown
    assert [s.get_secret_value() for s in settings.service.worker_signing_secrets] == [SECRET, "old-" + SECRET]
    assert settings.kafka.sasl_password is not None
    assert settings.kafka.sasl_password.get_secret_value() == SECRET


def test_problems_show_values_but_no_secrets(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        f"""
        [service]
        port = 99999
        worker_signing_secrets = ["hunter2"]
        [mongo]
        uri = "hunter2"
        [mango]
        uri = "hunter2"
        [s3]
        secret_key = 12345678
        secert_key = "hunter2"
        endpoint = "http://u:{SECRET}@s3"
        [kafka]
        sasl_password = ["hunter2"]
        """
    )
    problems = problems_of(file, {"KBCTS_MONGO__UIR": "hunter2"})
    assert problems["service.port"].value == "99999"
    text = "\n".join(map(str, problems.values()))
    assert "hunter2" not in text
    assert "12345678" not in text
    assert {
        "service.port",
        "service.worker_signing_secrets[0]",
        "mongo.uri",
        "mongo.uir (from KBCTS_MONGO__UIR)",
        "mango",
        "s3.secret_key",
        "s3.secert_key",
        "s3.endpoint",
        "s3.access_key",
        "s3.allowed_paths",
        "s3.log_path",
        "kafka.bootstrap_servers",
        "kafka.sasl_password",
        "auth",
        "sites",
    } <= set(problems)
    assert "secret_key?" in problems["s3.secert_key"].todo
    assert "mongo?" in problems["mango"].todo
    assert "32 characters" in problems["service.worker_signing_secrets[0]"].wrong


def test_masking_for_show_hides_secrets_and_what_nobody_knows() -> None:
    data = {
        "service": {"port": 1, "worker_signing_secrets": ["hunter2"]},
        "s3": {"secret_key": "hunter2", "secert_key": "hunter2", "region": "r"},
        "sites": [{"kind": "local", "name": "n", "tokn": "hunter2"}],
        "what": {"is": {"this": "hunter2"}},
    }
    masked = mask_secrets(data)
    assert "hunter2" not in str(masked)
    assert masked["s3"] == {"secret_key": "********", "secert_key": "********", "region": "r"}
    assert masked["sites"] == [{"kind": "local", "name": "n", "tokn": "********"}]


# --- all problems at once ---


def test_missing_variables_and_wrong_values_are_told_together() -> None:
    env = {k: v for k, v in REQUIRED.items() if k not in {"KBCTS_MONGO_URI", "KBCTS_LOCAL_WORK_DIR"}}
    problems = problems_of(TEMPLATE, env | {"KBCTS_SERVICE_PORT": "many", "KBCTS_LOCAL_TOKEN_FILE": "relative"})
    assert set(problems) == {"mongo.uri", "sites[0].work_dir", "service.port", "sites[0].token_file"}
    assert problems["service.port"].value == '"many"'


# --- files ---


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("c.toml", b"[service\n", "is not TOML"),
        ("c.toml", b"a = '\xff'", "not UTF-8"),
        ("c.yaml", b"", "ends in neither"),
        ("c.jinja", b"{% if %}", "line 1"),
        ("c.jinja", b"a = {{ KBCTS_A | nofilter }}", "nofilter"),
        ("c.jinja", b"a = {{ 1 / 0 }}", "ZeroDivisionError"),
        ("c.toml", None, "no such file"),
        ("c.toml", b"a = " + b"[" * 20000, "is"),
    ],
)
def test_a_file_that_cannot_be_used(name: str, content: bytes | None, wrong: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    (problem,) = problems_of(file, {}).values()
    assert problem.setting == str(file)
    assert wrong in problem.wrong
    assert problem.todo


def test_a_plain_file_is_no_template(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('a = "{{ KBCTS_A }}"\n')
    assert read_settings_file(file, {"KBCTS_A": "x"}).data == {"a": "{{ KBCTS_A }}"}


def test_keys_for_pydantic_settings_itself_are_unknown(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('_env_file = "/etc/passwd"\n_case_sensitive = true\n')
    assert {"_env_file", "_case_sensitive"} <= set(problems_of(file, {}))


# --- the environment over the file ---


def test_the_environment_wins() -> None:
    settings = load_settings(
        TEMPLATE,
        with_env(
            KBCTS_SERVICE__PORT="81",
            KBCTS_S3__ALLOWED_PATHS='["one/a,b/", "two/{user}"]',
            KBCTS_AUTH__ROLES__ADMIN="A,B",
            KBCTS_AUTH__ROLES__STAFF="S",
            KBCTS_S3__SECRET_KEY='["{\\',
            KBCTS_S3__PART_SIZE="1GiB",
            KBCTS_JOBS__HEARTBEAT_TIMEOUT="PT1H30M",
        ),
    )
    assert settings.service.port == 81
    assert settings.s3.allowed_paths == ("one/a,b/", "two/{user}/")
    assert settings.auth.roles.admin == ("A", "B")
    assert settings.auth.roles.staff == "S"
    assert settings.auth.roles.nersc == "HAS_NERSC_ACCOUNT"
    assert settings.s3.secret_key.get_secret_value() == '["{\\'
    assert settings.s3.part_size == 1024**3
    assert settings.jobs.heartbeat_timeout == timedelta(minutes=90)


def test_the_process_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBCTS_SERVICE__PORT", "81")
    assert load_settings(TEMPLATE, REQUIRED).service.port == 5000


@pytest.mark.parametrize(
    ("variable", "todo"),
    [
        ("KBCTS_SERVISE__PORT", "service?"),
        ("KBCTS_SITES__NAME", "template"),
        ("KBCTS_NOTHING__LIKE__THIS", "there are"),
    ],
)
def test_an_override_of_nothing_is_a_problem(variable: str, todo: str) -> None:
    problem = problems_of(TEMPLATE, with_env(**{variable: "hunter2"}))[variable]
    assert todo in problem.todo
    assert "hunter2" not in str(problem)


def test_an_override_below_a_setting_is_a_problem() -> None:
    problems = problems_of(TEMPLATE, with_env(KBCTS_AUTH__ROLES__STAFF__X="y"))
    assert set(problems) == {"auth.roles.staff"}
    problems = problems_of(TEMPLATE, with_env(KBCTS_S3__REGION="a", KBCTS_S3__REGION__X="y"))
    assert set(problems) == {"KBCTS_S3__REGION__X"}


def test_a_whole_table_can_be_given_as_json() -> None:
    env = with_env(KBCTS_AUTH__ROLES='{"staff": "S"}', KBCTS_AUTH__ROLES__NERSC="N")
    roles = load_settings(TEMPLATE, env).auth.roles
    assert (roles.staff, roles.nersc, roles.executor) == ("S", "N", "CTS_EXTERNAL_EXECUTOR")


def test_a_value_in_place_of_a_table_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('mongo = "hunter2"\nsites = "hunter2"\n')
    problems = problems_of(file, {"KBCTS_AUTH__ROLES": "hunter2"})
    assert {"mongo", "sites", "auth.roles (from KBCTS_AUTH__ROLES)"} <= set(problems)
    assert "hunter2" not in "".join(map(str, problems.values()))


def test_settings_never_change() -> None:
    settings = load_settings(TEMPLATE, REQUIRED)
    with pytest.raises(ValueError, match="frozen"):
        settings.service.port = 1  # type: ignore[misc]
