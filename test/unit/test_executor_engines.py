"""The commands that start containers, and what engines say when they do not."""

import os
from dataclasses import replace

import pytest

from cdmtaskservice.executor.apptainer import Apptainer
from cdmtaskservice.executor.container import check_strings, start_failure
from cdmtaskservice.executor.engines import LEAST_MEMORY, Docker, Engine, Podman, _epoch
from cdmtaskservice.executor.failures import ContainerFailure
from cdmtaskservice.executor.images import ensure_image
from cdmtaskservice.executor.jsonlog import Log
from cdmtaskservice.executor.memory import Memory
from cdmtaskservice.executor.runtimes import ContainerSpec, Mount, Runtime, find_runtime, known_runtime
from cdmtaskservice.executor.stopping import Stop

IMAGE = f"host/path@sha256:{'a' * 64}"
SPEC = ContainerSpec(
    name="cts-j-0-1",
    image=IMAGE,
    args=["--in", "a b", "", "-"],
    environment={"A": "x=1, y\n'z'"},
    mounts=[Mount("/w:1/in", "/input_files", True), Mount("/w:1/out", "/output_files", False)],
    cpus=1.5,
    memory=100_000_000,
    pids=99,
    gpus=0,
    network=False,
    belt=360,
    cgroup_parent="/cts-j-0-1",
    pid_file="/w/executor.pid",
)


@pytest.mark.parametrize("engine", [Podman("/bin/podman", True), Docker("/bin/docker", True)], ids=["podman", "docker"])
def test_engines_hold_the_container_to_its_limits(engine: Engine) -> None:
    argv = list(engine.launch(SPEC).argv)
    at = argv.index("--")
    assert argv[at + 1 :] == [IMAGE, "--in", "a b", "", "-"]
    options = argv[:at]
    assert options[:2] == [engine.path, "run"]
    for option in (
        "--name=cts-j-0-1",
        "--pull=never",
        "--log-driver=none",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--cpus=1.5",
        "--memory=100000000",
        "--memory-swap=100000000",
        "--pids-limit=99",
        "--network=none",
        "--cgroup-parent=/cts-j-0-1",
        "--mount=type=bind,src=/w:1/in,dst=/input_files,readonly",
        "--mount=type=bind,src=/w:1/out,dst=/output_files",
        "--env=A=x=1, y\n'z'",
    ):
        assert option in options
    assert not any(o.startswith(("--rm", "--privileged", "-v", "--volume")) for o in options)


def test_network_only_where_the_order_says_so() -> None:
    argv = Podman("podman", False).launch(replace(SPEC, network=True, cgroup_parent=None)).argv
    assert not any("network" in a or "cgroup" in a for a in argv)


def test_podman_alone() -> None:
    argv = Podman("podman", True).launch(SPEC).argv
    assert {"--http-proxy=false", "--env-host=false", "--cgroups=no-conmon", "--timeout=360"} <= set(argv)


def test_memory_below_what_an_engine_needs() -> None:
    argv = Docker("docker", False).launch(replace(SPEC, memory=1_000_000)).argv
    assert f"--memory={LEAST_MEMORY}" in argv


@pytest.mark.parametrize(
    ("engine", "assigned", "expected"),
    [
        (Podman, None, ["--device=nvidia.com/gpu=0", "--device=nvidia.com/gpu=1"]),
        (Podman, "3,GPU-5", ["--device=nvidia.com/gpu=3", "--device=nvidia.com/gpu=GPU-5"]),
        (Docker, None, ["--gpus=2"]),
        (Docker, "3,5", ['--gpus="device=3,5"']),
        (Docker, "3", ["--gpus=2"]),
    ],
)
def test_gpus(engine: type[Engine], assigned: str | None, expected: list[str]) -> None:
    argv = engine("engine", False, assigned).launch(replace(SPEC, gpus=2)).argv
    assert [a for a in argv if "gpu" in a] == expected


def test_apptainer() -> None:
    spec = replace(SPEC, mounts=[Mount("/w/in", "/input_files", True), Mount("/w/out", "/output_files", False)])
    launch = Apptainer("/bin/apptainer", "/cache").launch(spec)
    argv = list(launch.argv)
    assert argv[-5:] == [f"/cache/{'a' * 64}.sif", "--in", "a b", "", "-"]
    expected = {"--compat", "--cleanenv", "--no-home", "--no-privs", "--drop-caps=all", "--net", "--network=none"}
    assert expected <= set(argv)
    assert {"--bind=/w/in:/input_files:ro", "--bind=/w/out:/output_files:rw", "--pids-limit=99"} <= set(argv)
    assert launch.environment["APPTAINERENV_A"] == "x=1, y\n'z'"
    with pytest.raises(ContainerFailure):
        Apptainer("apptainer", "/cache").launch(SPEC)  # a colon in a path


def test_runtimes_that_are_not_there() -> None:
    with pytest.raises(ContainerFailure) as failure:
        find_runtime("podman", "/no/such/podman", None, Memory(None), Stop())
    assert "/no/such/podman" in str(failure.value.admin_error)
    with pytest.raises(ContainerFailure) as failure:
        find_runtime("auto", "/opt/engine", None, Memory(None), Stop())
    assert "name it with --runtime" in str(failure.value.admin_error)


@pytest.mark.parametrize("name", ["podman", "docker", "apptainer"])
def test_runtime_of_an_earlier_executor(name: str) -> None:
    runtime: Runtime = known_runtime(name, "/path")
    assert (runtime.name, runtime.path) == (name, "/path")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-01T00:00:00.5Z", 1704067200.5),
        ("2024-01-01T01:00:00.123456789+01:00", 1704067200.123456789),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
    ],
)
def test_times_of_engines(text: object, expected: float | None) -> None:
    assert _epoch(text) == expected


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (127, 'exec: "tool": executable file not found in $PATH: not found', "no such command: tool"),
        (127, 'exec: \\"/opt/tool\\": stat /opt/tool: no such file', "no such command: /opt/tool"),
        (126, 'exec: "/etc": permission denied', "/etc cannot be executed"),
        (126, "standard_init_linux.go: exec format error", "kind of machine"),
        (126, "unable to set memory limit to 1000000 (current usage: 2)", "memory limit is too small"),
        (125, "write /var/lib: no space left on device", "disk was full"),
        (126, "argument list too long", "larger than a program can be given"),
        (125, "statfs /x: no such file or directory", "container engine could not start"),
    ],
)
def test_container_that_did_not_start(code: int, said: str, words: str) -> None:
    failure = start_failure(code, said)
    assert words in failure.error
    assert said in str(failure.admin_error)


def test_strings_that_no_program_can_be_given() -> None:
    check_strings(replace(SPEC, args=["x" * 131_071]))
    with pytest.raises(ContainerFailure, match="Argument 1 has 131072 bytes"):
        check_strings(replace(SPEC, args=["a", "ü" * 65_536]))
    with pytest.raises(ContainerFailure, match="environment variable LONG"):
        check_strings(replace(SPEC, environment={"LONG": "x" * 131_071}))


class Registry(Podman):
    """Pulls that say `answers`, one after the other; empty is success."""

    def __init__(self, answers: list[str]) -> None:
        super().__init__("podman", False)
        self.answers = answers

    def has_image(self, image: str, stop: Stop) -> bool:
        return False

    def pull(self, image: str, stop: Stop) -> str:
        return self.answers.pop(0)


class Hurried(Stop):
    """Nothing sleeps."""

    def sleep(self, seconds: float) -> None:
        self.check()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("reading manifest: manifest unknown", "not in its registry any more"),
        ("unauthorized: authentication required", "does not let the worker pull"),
        ("denied: requested access to the resource is denied", "does not let the worker pull"),
        ("no image found in image index for architecture arm64", "no build for this worker"),
        ("write blob: no space left on device", "disk was full"),
    ],
)
def test_pull_that_can_never_work(said: str, words: str) -> None:
    with pytest.raises(ContainerFailure, match=words) as failure:
        ensure_image(Registry([said]), IMAGE, Memory(None), Hurried(), Log(os.open(os.devnull, os.O_WRONLY)))
    assert said in str(failure.value.admin_error)


def test_pull_after_an_outage() -> None:
    registry = Registry(["dial tcp: connection refused"] * 20 + [""])
    ensure_image(registry, IMAGE, Memory(None), Hurried(), Log(os.open(os.devnull, os.O_WRONLY)))
    assert registry.answers == []


def test_pull_that_fails_for_unknown_reasons_is_tried_three_times() -> None:
    registry = Registry(["strange"] * 5)
    with pytest.raises(ContainerFailure, match="could not be pulled"):
        ensure_image(registry, IMAGE, Memory(None), Hurried(), Log(os.open(os.devnull, os.O_WRONLY)))
    assert len(registry.answers) == 2
