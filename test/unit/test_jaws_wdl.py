"""What a run is at JAWS: its WDL, and the script of its containers."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import WDL
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdmtaskservice.sites.jaws import wdl

from .jaws_scripts import IN, NAMES, OUT, SHA, SPEC, TEXTS, bash, below, command, loaded, shower, strings

VARIABLES = st.one_of(
    st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True), st.sampled_from(["UID", "IFS", "BASH_ENV", "HOME", "_"])
).filter(lambda name: name not in ("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH"))


def ran(
    directory: Path,
    *program: str,
    runtime: float | None = None,
    environment: Mapping[str, str] | None = None,
    files: Sequence[tuple[str, str]] = (),
    surroundings: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program as a container does. runtime: its limit, after which it has half a second of grace."""
    text = command(
        wdl.workflow(SPEC), [p for _, p in files], wdl.script(wdl.ContainerScript(files, program, environment or {}))
    )
    if runtime is not None:
        assert text.count("sleep 60") == text.count("sleep 10") == 1
        text = text.replace("sleep 60", f"sleep {runtime}").replace("sleep 10", "sleep 0.5")
    return bash(directory, text, surroundings)


def sh(directory: Path, script: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return ran(directory, "/bin/sh", "-c", script, **more)


def marked(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    lines = done.stderr.decode().split("\n")
    return [line.removeprefix(wdl.MARK) for line in lines if line.startswith(wdl.MARK)]


# What arrives


@settings(max_examples=40)
@given(st.lists(TEXTS, max_size=12), st.dictionaries(VARIABLES, TEXTS, max_size=6))
@example(
    ["", "-", "--", "'", "a'b", "$'\\x41'", "~", "~/x", "a=b", "{a,b}", "!!", "é1", "\\", "\n"], {"A": "é0f", "B": ""}
)
def test_arguments_and_environment_arrive_byte_for_byte(arguments: list[str], environment: dict[str, str]):
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        done = ran(directory, shower(directory), *arguments, environment=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert strings(directory / "arguments")[2:] == [a.encode() for a in arguments]
        seen = strings(directory / "environment")
        for name, value in environment.items():
            if name != "_":  # every shell sets it
                assert f"{name}={value}".encode() in seen


@given(st.lists(TEXTS, min_size=1), st.lists(NAMES))
def test_a_script_is_a_line_of_printable_ascii(program: list[str], places: list[str]):
    line = wdl.script(wdl.ContainerScript([(p, "/x") for p in places], program, {"A": program[0]}))
    assert line.isascii()
    assert line.isprintable()


def test_an_input_is_a_hard_link_where_that_can_be(tmp_path: Path):
    cached = tmp_path / "cached"
    cached.write_bytes(b"x")
    done = sh(tmp_path, "true", files=[("a b/c", str(cached))])
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / IN / "a b/c").samefile(cached)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no second file system")
def test_an_input_of_another_file_system_is_copied(tmp_path: Path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if os.stat(other).st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is no second file system")
        (Path(other) / "f").write_bytes(b"x")
        done = sh(tmp_path, "true", files=[("a b/c", f"{other}/f")])
    assert (done.returncode, done.stderr) == (0, b"")
    assert below(tmp_path / IN) == {"a b/c": b"x"}


def test_without_an_input_the_program_is_not_begun(tmp_path: Path):
    done = sh(tmp_path, "touch begun", files=[("a", str(tmp_path / "no such"))])
    assert not (tmp_path / "begun").exists()
    assert done.returncode == 125
    assert marked(done) == ["the input file a could not be put into its place"]


@pytest.mark.parametrize("missing", ["mkdir", "ln", "cp", "sleep", "find", "head"])
def test_an_image_without_what_the_script_needs(tmp_path: Path, missing: str):
    (tmp_path / "bin").mkdir()
    for tool in {"mkdir", "ln", "cp", "sleep", "find", "head", "env", "bash"} - {missing}:
        (tmp_path / "bin" / tool).symlink_to(f"/usr/bin/{tool}")
    done = sh(tmp_path, "touch begun", surroundings={"PATH": str(tmp_path / "bin")})
    assert not (tmp_path / "begun").exists()
    assert done.returncode == 125
    assert marked(done) == [f"the image has no {missing}, which running it at this site takes"]


# The script's own rules


def test_a_program_that_runs_for_too_long_is_ended(tmp_path: Path):
    done = sh(tmp_path, "trap 'echo told >&2; kill $!; exit 0' TERM; sleep 30 & wait", runtime=0.5)
    assert done.returncode == 124
    assert done.stderr.startswith(b"told\n")
    assert marked(done) == ["it ran longer than its limit of 60 seconds and was ended"]


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path):
    done = sh(tmp_path, "trap '' TERM; echo $$; exec sleep 30", runtime=1)
    assert done.returncode == 124
    assert len(marked(done)) == 1
    assert not Path(f"/proc/{int(done.stdout)}").exists()
    assert done.stderr.count(b"\n") == 2  # no words of bash's own


def test_what_a_program_has_started_ends_with_it(tmp_path: Path):
    # Where a container has no process namespace of its own, JAWS would wait for it.
    done = sh(tmp_path, "sleep 30 >/dev/null 2>&1 & echo $!; wait", runtime=0.5)
    child = int(done.stdout)
    try:
        assert done.returncode == 124
        assert _ended(child)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, 9)


def test_nothing_of_the_scripts_own_is_left(tmp_path: Path):
    # As soon as a program has ended, the watch over its time is to end, however little it has come to.
    text = command(wdl.workflow(SPEC), [], "; ".join(["run true"] * 60))
    assert bash(tmp_path, text).returncode == 0
    assert [process for process in here(tmp_path) if not _ended(process)] == []


def here(directory: Path) -> list[int]:
    """The processes that are in a directory."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and (process / "cwd").readlink() == directory:
                found.append(int(process.name))
    return found


def _ended(pid: int, within: float = 10.0) -> bool:
    """Whether a process has ended. It may have been killed, and not yet have had a processor to die on."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], within)[0])
    finally:
        os.close(process)


def test_no_limit_is_shorter_than_what_was_asked_for():
    assert "sleep 61" in wdl.workflow(replace(SPEC, runtime=60.4))


def test_jaws_itself_waits_for_longer():
    spec = replace(SPEC, runtime=61.0, start_time=3600.0)
    assert _runtime(wdl.workflow(spec))["runtime_minutes"] == "62"


@pytest.mark.parametrize("code", [1, 3, 124, 125, 126, 255])
def test_a_programs_exit_code_is_kept(tmp_path: Path, code: int):
    done = sh(tmp_path, f"echo out; echo err >&2; echo x >{OUT}/x; exit {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, b"out\n", b"err\n")


@pytest.mark.parametrize(("signal", "code"), [("KILL", 137), ("SEGV", 139), ("TERM", 143), ("ABRT", 134)])
def test_a_program_killed_by_a_signal_is_128_and_its_number(tmp_path: Path, signal: str, code: int):
    done = sh(tmp_path, f"ulimit -c 0; kill -{signal} $$")
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_signals_are_as_they_would_be_elsewhere(tmp_path: Path):
    done = sh(tmp_path, "grep SigIgn /proc/$$/status")
    mask = 1 << signal.SIGINT - 1 | 1 << signal.SIGQUIT - 1
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigIgn"))
    # A shell starts its background jobs with these ignored, and these tests may be one.
    assert int(done.stdout.split()[1], 16) & mask & ~int(own.split()[1], 16) == 0


def test_a_program_that_cannot_be_found_is_127(tmp_path: Path):
    assert ran(tmp_path, "/no/such/program").returncode == 127


@pytest.mark.parametrize("name", ["say", "place", "run", "echo"])
def test_a_programs_name_is_no_word_of_the_script(tmp_path: Path, name: str):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / name
    program.write_text("#!/bin/sh\nprintf mine\n")
    program.chmod(0o755)
    done = ran(tmp_path, name, "x", surroundings={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
    assert (done.returncode, done.stdout) == (0, b"mine")


def test_stdin_is_empty(tmp_path: Path):
    done = sh(tmp_path, "cat")
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize("name", ["PATH", "UID", "IFS", "BASH_ENV", "LC_ALL", "TMPDIR", "FILES"])
def test_a_variable_of_the_jobs_is_the_programs_alone(tmp_path: Path, name: str):
    done = sh(tmp_path, f"echo x >{OUT}/x; /bin/cat /proc/$$/environ", environment={name: "no such thing"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert f"{name}=no such thing".encode() in done.stdout.split(b"\0")
    assert listed(tmp_path) == [f"{OUT}/x"]


def test_the_images_own_environment_is_the_programs(tmp_path: Path):
    surroundings = {"LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "files": "1", "code": "2", "program": "3"}
    done = sh(tmp_path, "exec /usr/bin/env", surroundings=surroundings)
    assert {f"{n}={v}".encode() for n, v in surroundings.items()} <= set(done.stdout.splitlines())


def listed(directory: Path) -> list[str]:
    text = (directory / ".cts_outputs").read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    return sorted(text.split("\n")[:-1])


def test_a_program_may_leave_nothing(tmp_path: Path):
    assert sh(tmp_path, "true").returncode == 0
    assert listed(tmp_path) == []


@settings(max_examples=30)
@given(st.lists(NAMES, min_size=1, max_size=8))
@example(["-n", "-", "--x/-y", " a ", "a b/c d", "\t", "*", "__output__/x", "é", "x\\"])
def test_outputs_are_listed_completely(names: list[str]):
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        made = directory / "made"
        made.mkdir()
        files = set()
        for name in names:
            try:
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(b"")
            except OSError:  # a directory is there, or a file where one must be
                continue
            files.add(name)
        done = ran(directory, "cp", "-r", "made/.", OUT)
        assert (done.returncode, done.stderr) == (0, b"")
        assert listed(directory) == sorted(f"{OUT}/{f}" for f in files)


@pytest.mark.parametrize("make", ["ln -s /etc/passwd", "mkfifo", "ln -s x"])
@pytest.mark.parametrize("name", ["odd", "d/-odd one", "d/ünï"])
def test_only_files_can_be_outputs(tmp_path: Path, make: str, name: str):
    done = sh(tmp_path, f'mkdir {OUT}/d; echo x >{OUT}/good; {make} "{OUT}/{name}"')
    assert done.returncode == 125
    assert marked(done) == [f"only regular files can be outputs, and in the output directory {name} is none"]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("name", ["a\nb", "\n", "a\rb", "b\r", "d\r/x", "d\nd/x", b"\xff\nx", b"\r\xff"])
def test_no_output_has_a_line_break_in_its_name(tmp_path: Path, name: str | bytes, locale: str):
    made = os.fsencode(tmp_path) + b"/made/" + os.fsencode(name)
    os.makedirs(os.path.dirname(made))
    with open(made, "w"):
        pass
    done = ran(tmp_path, "cp", "-r", "made/.", OUT, surroundings={"LANG": locale})
    assert done.returncode == 125
    assert marked(done) == ["the name of an output has a line break in it"]


def test_a_programs_own_failure_comes_before_its_outputs(tmp_path: Path):
    done = sh(tmp_path, f"mkfifo {OUT}/f; exit 3")
    assert (done.returncode, marked(done)) == (3, [])


def test_the_mark_begins_a_line_after_words_without_an_end(tmp_path: Path):
    done = sh(tmp_path, f"mkfifo {OUT}/f; printf last >&2")
    assert len(marked(done)) == 1


# The WDL

_STEPS = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True).filter(lambda s: s not in (".", ".."))
MOUNTS = st.lists(_STEPS, min_size=1, max_size=4).map(lambda steps: "/" + "/".join(steps))
IMAGES = st.from_regex(
    r"(docker\.io|ghcr\.io|localhost:5000)/[a-z0-9]{1,8}(/[a-z0-9._-]{0,8}[a-z0-9])?", fullmatch=True
)
SPECS = st.builds(
    wdl.RunSpec,
    image=IMAGES.map(lambda name: f"{name}@{SHA}"),
    cpus=st.integers(1, 256),
    memory=st.integers(1, 10**13),
    runtime=st.floats(1, 10**6),
    start_time=st.floats(0, 10**5),
    input_mount_point=MOUNTS,
    output_mount_point=MOUNTS,
    refdata=st.none() | st.tuples(_STEPS, MOUNTS),
)


def _runtime(text: str) -> dict[str, str]:
    """The keys of the task's runtime section."""
    return {key: str(value).strip('"') for key, value in loaded(text).tasks[0].runtime.items()}


@settings(max_examples=30)
@given(SPECS)
def test_a_workflow_is_a_valid_wdl_that_says_what_was_asked_for(spec: wdl.RunSpec):
    keys = _runtime(wdl.workflow(spec))
    assert keys.pop("docker") == spec.image.removeprefix("docker.io/")
    assert keys.pop("cpu") == str(spec.cpus)
    assert keys.pop("memory") == f"{spec.memory} B"
    assert int(keys.pop("runtime_minutes")) * 60 >= spec.runtime + spec.start_time
    assert keys.pop("dynamic_input") == f"{IN}:{spec.input_mount_point}"
    assert keys.pop("dynamic_output") == f"{OUT}:{spec.output_mount_point}"
    if spec.refdata:
        assert keys.pop("dynamic_refdata") == ":".join(spec.refdata)
    assert not keys


def test_a_workflow_is_what_its_inputs_are_for():
    document = loaded(wdl.workflow(SPEC))
    workflow = document.workflow
    assert document.wdl_version == "1.0"
    assert workflow is not None
    containers = [
        wdl.ContainerScript([("a", "/x/1"), ("b", "/x/2")], ["/p", '~{x} "é'], {}),
        wdl.ContainerScript([], ["/p"], {}),
    ]
    told = wdl.inputs(containers)
    assert told.isascii()
    values = WDL.values_from_json(
        json.loads(told), workflow.available_inputs, workflow.required_inputs, namespace=workflow.name
    )
    assert values.resolve("files").json == [["/x/1", "/x/2"], []]
    assert values.resolve("scripts").json == [wdl.script(c) for c in containers]
    assert {f"{workflow.name}.{o.name}" for o in workflow.outputs or ()} == {
        "cts.outputs",
        "cts.stdouts",
        "cts.stderrs",
    }


def test_miniwdl_has_nothing_to_say_of_it(tmp_path: Path):
    (tmp_path / "cts.wdl").write_text(wdl.workflow(replace(SPEC, refdata=("db", "/refdata"))))
    miniwdl = str(Path(sys.executable).parent / "miniwdl")
    others = "UnknownRuntimeKey,CommandShellCheck"  # JAWS's own keys; a program that may be there or not
    done = subprocess.run(
        [miniwdl, "check", "--strict", "--suppress", others, "cts.wdl"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("text", ['a"b', "a~{x}", "a${x}", "a\\b", "a\nb", "é", "a~"])
def test_what_would_be_read_as_wdl_is_refused(text: str):
    with pytest.raises(ValueError, match="cannot stand in a WDL"):
        wdl.workflow(replace(SPEC, output_mount_point=f"/{text}"))
