"""The settings of reference data: those of the service beside it, with their template, and those of sites."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel

from cdmtaskservice.settings import (
    HTCondorSite,
    JawsSite,
    LocalSite,
    RefdataServiceFile,
    RefdataServiceSettings,
    load,
    load_settings,
)
from cdmtaskservice.settings.refdata_service import RefdataStoreSettings
from cdmtaskservice.settings.template import to_toml
from cdmtaskservice.wiring.refdata import staging_config
from test.unit.test_settings import (
    JAWS,
    POOL,
    REQUIRED,
    TEMPLATE,
    documented_settings,
    model_settings,
    problems_of,
    with_env,
)
from test.unit.test_settings_sites import site_file

SERVICES_TEMPLATE = TEMPLATE.parent / "refdata-service.toml.jinja"
SERVICES_REQUIRED = {
    "KBCTS_REFDATA_SERVICE_URL": "https://cts.example/",
    "KBCTS_REFDATA_TOKEN_FILE": "/etc/cts/refdata.token",
    "KBCTS_REFDATA_DIR": "/data/ref",
}


# --- the template and the models say the same ---


def all_model_settings() -> dict[str, str]:
    settings = dict(model_settings(RefdataServiceFile, ""))
    del settings["refdata_service.stores"]
    return settings | dict(model_settings(RefdataStoreSettings, "refdata_service.stores."))


def test_every_setting_stands_in_the_template_once_with_the_models_description() -> None:
    documented = list(documented_settings(SERVICES_TEMPLATE))
    assert len({name for name, _ in documented}) == len(documented)
    assert {name: comment.removesuffix(" Required.") for name, comment in documented} == all_model_settings()


def test_the_template_marks_what_is_required() -> None:
    marked = {name for name, comment in documented_settings(SERVICES_TEMPLATE) if comment.endswith("Required.")}
    models: dict[str, type[BaseModel]] = {
        "refdata_service.": RefdataServiceSettings,
        "refdata_service.stores.": RefdataStoreSettings,
    }
    required = {at + n for at, m in models.items() for n, field in m.model_fields.items() if field.is_required()}
    assert marked == required - {"refdata_service.stores"}


def test_the_template_loads_with_only_the_required_variables_and_gives_the_defaults() -> None:
    settings = load(RefdataServiceFile, SERVICES_TEMPLATE, SERVICES_REQUIRED)
    service = settings.refdata_service
    assert (service.service_url, service.token_file) == ("https://cts.example", Path("/etc/cts/refdata.token"))
    assert service.stores == (RefdataStoreSettings(site="kbase", directory=Path("/data/ref")),)
    for name, field in RefdataServiceSettings.model_fields.items():
        if not field.is_required():
            assert getattr(service, name) == field.get_default(), name
    assert settings.logging.level == "INFO"


@pytest.mark.parametrize("name", SERVICES_REQUIRED)
def test_each_required_variable_is_required(name: str) -> None:
    environ = {k: v for k, v in SERVICES_REQUIRED.items() if k != name}
    (problem,) = problems_of(SERVICES_TEMPLATE, environ, RefdataServiceFile).values()
    assert name in problem.wrong


@pytest.mark.parametrize(
    ("variable", "value", "setting"),
    [
        ("KBCTS_REFDATA_SERVICE_URL", "cts.example", "refdata_service.service_url"),
        ("KBCTS_REFDATA_TOKEN_FILE", "token", "refdata_service.token_file"),
        ("KBCTS_REFDATA_DIR", "data", "refdata_service.stores[0].directory"),
        ("KBCTS_REFDATA_SITE", "a b", "refdata_service.stores[0].site"),
        ("KBCTS_LOGGING_LEVEL", "LOUD", "logging.level"),
    ],
)
def test_a_wrong_value_is_named_by_its_setting(variable: str, value: str, setting: str) -> None:
    problems = problems_of(SERVICES_TEMPLATE, SERVICES_REQUIRED | {variable: value}, RefdataServiceFile)
    assert set(problems) == {setting}
    assert value in (problems[setting].value or "")


def test_the_environment_wins_and_knows_only_these_settings() -> None:
    environ = SERVICES_REQUIRED | {
        "KBCTS_REFDATA_SERVICE__AT_ONCE": "7",
        "KBCTS_REFDATA_SERVICE__POLL_INTERVAL": "PT9S",
    }
    service = load(RefdataServiceFile, SERVICES_TEMPLATE, environ).refdata_service
    assert (service.at_once, service.poll_interval) == (7, timedelta(seconds=9))
    other = {"KBCTS_MONGO__URI": "x", "KBCTS_REFDATA_SERVICE__AT": "1"}
    problems = problems_of(SERVICES_TEMPLATE, SERVICES_REQUIRED | other, RefdataServiceFile)
    assert {name: problem.wrong for name, problem in problems.items()} == {
        "KBCTS_MONGO__URI": "there is no section mongo",
        "refdata_service.at (from KBCTS_REFDATA_SERVICE__AT)": "is no setting",
    }


def test_several_stores_are_of_different_sites(tmp_path: Path) -> None:
    def file(*sites: str) -> Path:
        stores = [{"site": site, "directory": f"/data/{n}"} for n, site in enumerate(sites)]
        service = {"service_url": "http://cts", "token_file": "/t", "stores": stores}
        (tmp_path / "c.toml").write_text(to_toml({"refdata_service": service}))
        return tmp_path / "c.toml"

    loaded = load(RefdataServiceFile, file("a", "b"), {}).refdata_service
    assert [(s.site, str(s.directory)) for s in loaded.stores] == [("a", "/data/0"), ("b", "/data/1")]
    problem = problems_of(file("a", "b", "a"), {}, RefdataServiceFile)["refdata_service.stores"]
    assert "a stands there more than once" in problem.wrong
    assert "refdata_service.stores" in problems_of(file(), {}, RefdataServiceFile)


# --- sites ---


def test_sites_have_no_reference_data_unless_they_are_told_where() -> None:
    settings = load_settings(TEMPLATE, REQUIRED | POOL | JAWS)
    local, pool, *jaws = settings.sites
    assert isinstance(local, LocalSite)
    assert isinstance(pool, HTCondorSite)
    assert (local.refdata_dir, local.refdata_by) == (None, "service")
    assert (pool.refdata_dir, pool.refdata_by) == (None, "refdata_service")
    assert settings.jaws.refdata_dir is None
    assert [s.copy_refdata for s in jaws if isinstance(s, JawsSite)] == [False, True]


def test_where_sites_have_it_and_who_brings_it() -> None:
    told = {
        "KBCTS_LOCAL_REFDATA_DIR": "/data/local",
        "KBCTS_LOCAL_REFDATA_BY": "refdata_service",
        "KBCTS_HTCONDOR_REFDATA_DIR": "/data/pool",
        "KBCTS_HTCONDOR_REFDATA_BY": "service",
        "KBCTS_JAWS_REFDATA_DIR": "/dtn/refdata",
    }
    settings = load_settings(TEMPLATE, REQUIRED | POOL | JAWS | told)
    local, pool, *_ = settings.sites
    assert isinstance(local, LocalSite)
    assert isinstance(pool, HTCondorSite)
    assert (local.refdata_dir, local.refdata_by) == (Path("/data/local"), "refdata_service")
    assert (str(pool.refdata_dir), pool.refdata_by) == ("/data/pool", "service")
    assert settings.jaws.refdata_dir == "/dtn/refdata"


@pytest.mark.parametrize(
    ("change", "todo"),
    [({"refdata_dir": "data"}, "refdata_dir"), ({"refdata_by": "somebody"}, "refdata_by")],
)
def test_wrong_settings_of_a_local_site(change: dict[str, object], todo: str, tmp_path: Path) -> None:
    assert set(problems_of(site_file(tmp_path, change), {})) == {f"sites[0].{todo}"}


def test_only_jaws_sites_are_copied_to(tmp_path: Path) -> None:
    assert set(problems_of(site_file(tmp_path, {"copy_refdata": True}), {})) == {"sites[0].copy_refdata"}


@pytest.mark.parametrize("name", ["KBCTS_JAWS_REFDATA_DIR", "KBCTS_HTCONDOR_REFDATA_DIR"])
def test_directories_at_workers_are_absolute(name: str) -> None:
    (problem,) = problems_of(TEMPLATE, REQUIRED | POOL | JAWS | {name: "data"}).values()
    assert problem.value == '"data"'


def test_what_stagings_are_bound_to_comes_from_the_settings() -> None:
    settings = load_settings(
        TEMPLATE,
        with_env(
            KBCTS_REFDATA__CONNECTIONS="3",
            KBCTS_REFDATA__PIECE_SIZE="2MiB",
            KBCTS_REFDATA__PATIENCE="PT1M",
            KBCTS_REFDATA__MAX_TRIES="4",
            KBCTS_REFDATA__MAX_FILES="5",
            KBCTS_REFDATA__MAX_UNPACKED="6GB",
            KBCTS_REFDATA__SILENCE="17",
            KBCTS_RECONCILER__LOOK_DELAY="8",
            KBCTS_S3__PRESIGN_EXPIRY="PT2H",
        ),
    )
    config = staging_config(settings)
    limits = config.limits
    assert (limits.connections, limits.piece_size, limits.patience) == (3, 2 * 1024**2, 60.0)
    assert (limits.max_files, limits.max_bytes) == (5, 6 * 10**9)
    assert (config.most_failures, config.silence, config.look_delay, config.presign_expiry) == (4, 17.0, 8.0, 7200)


def test_a_service_is_not_silent_between_two_reports() -> None:
    problems = problems_of(TEMPLATE, with_env(KBCTS_REFDATA__SILENCE="20", KBCTS_REFDATA__REPORT_INTERVAL="11"))
    (problem,) = problems.values()
    assert "half of refdata.silence, that is 10 seconds" in problem.wrong
    load_settings(TEMPLATE, with_env(KBCTS_REFDATA__SILENCE="20", KBCTS_REFDATA__REPORT_INTERVAL="10"))
