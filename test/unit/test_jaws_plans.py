"""What remote code is asked to do, where everything lies, and the credentials for it."""

import datetime
import json
import subprocess
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cdmtaskservice.domain.errors import IllegalParameterError
from cdmtaskservice.domain.placement import place_inputs
from cdmtaskservice.domain.records import ImageRecord, InputFiles, JobRecord, Transition
from cdmtaskservice.domain.s3_paths import check_s3_path
from cdmtaskservice.domain.states import JobState
from cdmtaskservice.sites.base import SiteInfo, SiteUnreachableError
from cdmtaskservice.sites.jaws import plans, wdl
from cdmtaskservice.sites.jaws.config import JawsConfig, JawsSiteConfig, NerscConfig
from cdmtaskservice.sites.jaws.credentials import SfapiCredentials, WatchedFile, parse_credentials

from .jaws_scripts import IN, NAMES, OUT, SHA, bash, below, command, shower, strings

NOW = datetime.datetime(2025, 1, 2, tzinfo=datetime.UTC)


def config(root: str = "/ours") -> JawsSiteConfig:
    return JawsSiteConfig(
        SiteInfo("nersc", "jaws", 1, 8, 8 * 10**9, 3600.0),
        "nersc-site",
        NerscConfig("https://sfapi", "https://token", "cts", Path("/etc/cts/sfapi"), f"{root}/code"),
        JawsConfig(
            "https://jaws",
            "cts",
            Path("/etc/cts/jaws-token"),
            "team",
            "/opt/jaws",
            f"{root}/dtn/staging",
            f"{root}/staging",
            f"{root}/dtn/outputs",
            f"{root}/outputs",
            "/scratch/cts",
        ),
        "https://cts/callback",
        5 << 20,
    )


def job(params: Mapping[str, Any], containers: int = 1, entrypoint: Sequence[str] = ("/bin/tool",)) -> JobRecord:
    return JobRecord(
        id="6f7c-1",
        user="ann",
        site="nersc",
        input={"params": params, "cpus": 2, "memory": 10**9, "output_dir": "bucket/out/"},
        image=ImageRecord("docker.io/tools/x", SHA, entrypoint, "bob", NOW),
        input_file_count=1,
        containers=containers,
        runtime=60.0,
        state=JobState.JOB_SUBMITTING,
        transitions=[Transition(JobState.CREATED, NOW, "t")],
    )


def inputs(places: Sequence[str], data_ids: Sequence[str] | None = None) -> InputFiles:
    """Files whose contents are all different: so many bytes as their number."""
    crcs = ["AAAAAAAAAAA="] * len(places)
    return InputFiles([f"bucket/{p}" for p in places], crcs, list(range(len(places))), places, data_ids)


def submit(
    site: JawsSiteConfig, asked: JobRecord, attempt: int, files: InputFiles, settings_file: str = "/s"
) -> plans.Plan:
    return plans.submit(site, asked, attempt, files, settings_file, 1e9)


def run_plan(plan: plans.Plan, root: Path, container: int) -> tuple[subprocess.CompletedProcess[bytes], Path]:
    """Run a container of a plan as JAWS would, with what lies below `root`. Returns also its directory."""
    files = {f["name"]: f["content"] for f in plan["files"]}
    there = Path(plan["directory"])
    there.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (there / name).write_text(content, encoding="utf-8", newline="")
    told = json.loads(files["inputs.json"])
    directory = root / f"container-{container}"
    directory.mkdir()
    text = command(files["cts.wdl"], told["cts.files"][container], told["cts.scripts"][container])
    return bash(directory, text), directory


HEADERS = st.text(st.just("\t") | st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)


@settings(max_examples=40)
@given(st.lists(NAMES, min_size=1, max_size=6), HEADERS, st.booleans())
def test_files_and_manifests_arrive_byte_for_byte(names: list[str], header: str, as_manifest: bool):
    try:
        places = place_inputs([check_s3_path(f"bucket/{n}") for n in names], ["bucket"])
    except IllegalParameterError:
        assume(False)
    if as_manifest:
        parameter = {"type": "manifest_file", "manifest_file_format": "files", "manifest_file_header": header}
    else:
        parameter = {"type": "input_files", "input_files_format": "space_separated_list"}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        site = config(temporary)
        for size in range(len(places)):
            file = Path(site.places.cached(plans.cached_name("AAAAAAAAAAA=", size)))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bytes(size))
        asked = job({"args": ["--in", parameter]}, entrypoint=[shower(root)])
        done, directory = run_plan(submit(site, asked, 1, inputs(places)), root, 0)
        assert (done.returncode, done.stderr) == (0, b"")
        found = below(directory / IN)
        paths = [f"/input_files/{p}" for p in places]
        if as_manifest:
            assert found.pop(".cts/manifest-0.txt").decode() == "".join(f"{line}\n" for line in [header, *paths])
            paths = ["/input_files/.cts/manifest-0.txt"]
        assert found == {place: bytes(n) for n, place in enumerate(places)}
        assert strings(root / "arguments")[2:] == [b"--in", *(p.encode() for p in paths)]


def test_a_container_gets_its_own_share_and_manifest():
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        site = config(temporary)
        for size in range(3):
            file = Path(site.places.cached(plans.cached_name("AAAAAAAAAAA=", size)))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bytes(size))
        params = {
            "args": [{"type": "manifest_file", "manifest_file_format": "data_ids"}],
            "environment": {"N": {"type": "container_number", "container_num_prefix": "n-"}},
        }
        asked = job(params, 2, [shower(root)])
        plan = submit(site, asked, 1, inputs(["a", "b/c", "d"], ["i", "ü", "k"]))
        for number, (share, ids) in enumerate([({"a": b"", "b/c": b"\0"}, "i\nü\n"), ({"d": b"\0\0"}, "k\n")]):
            done, directory = run_plan(plan, root, number)
            assert (done.returncode, done.stderr) == (0, b"")
            assert below(directory / IN) == {**share, f".cts/manifest-{number}.txt": ids.encode()}
            assert f"N=n-{number}".encode() in strings(root / "environment")


# Plans


def test_a_plan_to_stage_names_each_file_by_what_it_is():
    files = InputFiles(["b/x", "b/y"], ["AAAAAAAAAAA=", "/wAAAAAAAAE="], [0, 7], ["x", "y"])
    plan = plans.stage(config(), files, ["http://s3/x?sig", "http://s3/y?sig"])
    assert plan["cache"] == "/ours/dtn/staging/inputs/nersc-site/scratch/cts/cache"
    assert plan["inputs"] == [
        {"file": "b/x", "name": f"00/{'0' * 16}-0", "url": "http://s3/x?sig", "size": 0, "crc64nvme": "AAAAAAAAAAA="},
        {
            "file": "b/y",
            "name": "ff/ff00000000000001-7",
            "url": "http://s3/y?sig",
            "size": 7,
            "crc64nvme": "/wAAAAAAAAE=",
        },
    ]
    with pytest.raises(ValueError, match="zip"):
        plans.stage(config(), files, ["http://s3/x?sig"])


def test_what_is_staged_is_what_a_run_is_given():
    files = inputs(["a", "b"])
    site = config()
    staged = [i["name"] for i in plans.stage(site, files, ["u", "u"])["inputs"]]
    told = json.loads(content(submit(site, job({}), 3, files), "inputs.json"))
    assert told["cts.files"] == [[f"/ours/staging/inputs/nersc-site/scratch/cts/cache/{name}" for name in staged]]


def content(plan: plans.Plan, name: str) -> str:
    [text] = [f["content"] for f in plan["files"] if f["name"] == name]
    return str(text)


def test_a_run_is_submitted_from_a_directory_of_its_attempt():
    plan = submit(config(), job({}), 3, inputs(["a"]), "/code/jaws.conf")
    there = "/ours/staging/inputs/nersc-site/scratch/cts/jobs/6f7c-1/3"
    assert plan["directory"] == there
    assert plan["command"] == [
        *("/opt/jaws", "submit", "--tag", "cts-6f7c-1-3", f"{there}/cts.wdl", f"{there}/inputs.json", "nersc-site")
    ]
    assert plan["environment"] == {"JAWS_USER_CONFIG": "/code/jaws.conf"}
    assert plan["not_after"] == 1e9
    assert [f["name"] for f in plan["files"]] == ["cts.wdl", "inputs.json"]
    assert content(plan, "cts.wdl") == wdl.workflow(
        wdl.RunSpec(f"docker.io/tools/x@{SHA}", 2, 10**9, 60.0, 3600.0, "/input_files", "/output_files")
    )


@pytest.mark.parametrize(
    ("params", "default", "mount_point"),
    [({}, "/images", "/images"), ({"refdata_mount_point": "/mine"}, "/images", "/mine"), ({}, None, None)],
)
def test_a_run_finds_its_reference_data(params: Mapping[str, Any], default: str | None, mount_point: str | None):
    asked = job(params)
    image = replace(asked.image, refdata_id="id-1", default_refdata_mount_point=default)
    text = content(submit(config(), replace(asked, image=image), 1, inputs(["a"])), "cts.wdl")
    if mount_point is None:
        assert "dynamic_refdata" not in text
    else:
        assert f'dynamic_refdata: "cts/id-1:{mount_point}"' in text
    assert "dynamic_refdata" not in content(submit(config(), asked, 1, inputs(["a"])), "cts.wdl")


def test_the_tag_of_a_job_begins_those_of_its_attempts_and_no_others():
    assert plans.tag("6f7c-1", 2) == "cts-6f7c-1-2"
    assert plans.tag("6f7c-1", 12).startswith(plans.tag("6f7c-1"))
    assert not plans.tag("6f7c-12", 1).startswith(plans.tag("6f7c-1"))


@pytest.mark.parametrize("kind", ["files", "data_ids"])
def test_each_container_has_its_manifest(kind: str):
    parameter = {"type": "manifest_file", "manifest_file_format": kind, "manifest_file_header": "h\t'é"}
    plan = submit(config(), job({"args": [parameter]}, 2), 1, inputs(["a", "d/b", "c"], ["i", "j", "k"]))
    lines = {"files": ["/input_files/a\n/input_files/d/b\n", "/input_files/c\n"], "data_ids": ["i\nj\n", "k\n"]}
    assert [content(plan, f"manifest-{n}.txt") for n in (0, 1)] == [f"h\t'é\n{text}" for text in lines[kind]]
    told = json.loads(content(plan, "inputs.json"))
    assert [files[-1] for files in told["cts.files"]] == [f"{plan['directory']}/manifest-{n}.txt" for n in (0, 1)]
    assert "/input_files/.cts/manifest-1.txt" in told["cts.scripts"][1]


def test_declobber_makes_no_difference_to_a_container():
    one, other = (submit(config(), job({"declobber": d}), 1, inputs(["a"])) for d in (True, False))
    assert one == other


def test_nothing_of_a_users_stands_in_the_command_or_the_wdl():
    params = {"args": ["secretarg"], "environment": {"TOKEN": "secretvalue"}}
    plan = submit(config(), job(params), 1, inputs(["secretname"]))
    assert "secret" not in json.dumps([plan["command"], plan["environment"], content(plan, "cts.wdl")])
    assert content(plan, "inputs.json").count("secret") == 3


def test_a_plan_to_collect():
    plan = plans.collect(config(), job({}, 4), "/ours/dtn/outputs/r/1", failed=True)
    assert plan["output_dir"] == "/ours/dtn/outputs/r/1"
    assert plan["paths"] == [("/ours/outputs", "/ours/dtn/outputs")]
    assert (plan["workflow"], plan["task"], plan["outputs_dir"], plan["mark"]) == ("cts", "container", OUT, "CTS: ")
    assert (plan["containers"], plan["failed"], plan["part_size"]) == (4, True, 5 << 20)


# Places


def test_a_jobs_directories_are_its_own():
    places = config().places
    assert places.jobs == "/ours/dtn/staging/inputs/nersc-site/scratch/cts/jobs"
    assert places.cached("ab/x") == "/ours/staging/inputs/nersc-site/scratch/cts/cache/ab/x"
    assert places.task_dir("6f7c-1", "1-stage-1") == "/ours/code/tasks/6f7c-1/1-stage-1"


@pytest.mark.parametrize("end", ["", "/"])
def test_results_are_found_where_the_transfer_nodes_see_them(end: str):
    assert config().places.outputs_here(f"/ours/outputs/r/1{end}") == "/ours/dtn/outputs/r/1"


@pytest.mark.parametrize(
    "elsewhere",
    [
        "",
        "/ours/outputs",
        "/ours/outputs/",
        "/ours/outputs//",
        "/ours/outputs/.",
        "/ours/outputs2/r",
        "/ours/dtn/outputs/r",
        "/ours/outputs/../x",
        "/ours/outputs/r/..",
        "/ours/outputs/r/../../x",
        "ours/outputs/r",
        "/ours/./outputs/r",
    ],
)
def test_results_elsewhere_are_not_looked_at(elsewhere: str):
    assert config().places.outputs_here(elsewhere) is None


# Credentials

KEY = "-----BEGIN PRIVATE KEY-----\nMIIsecretsecret\n-----END PRIVATE KEY-----"
JWK = json.dumps({"kty": "RSA", "d": "secretsecret"})


@pytest.mark.parametrize("key", [KEY, JWK, json.dumps(json.loads(JWK), indent=1)])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\n\n"])
def test_credentials_are_an_id_and_a_key(key: str, ends: str):
    found = parse_credentials(f"abc123{ends}{key}{ends}", Path("/x"))
    assert found == SfapiCredentials("abc123", f"{key}\n")
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc123",
        "abc123\n \n",
        f"\n{KEY}",
        KEY,
        f"{KEY}\nabc123",
        JWK,
        f"{JWK}\nabc123",
    ],
)
def test_credentials_without_an_id_are_refused_without_a_word_of_them(text: str):
    with pytest.raises(SiteUnreachableError) as refused:
        parse_credentials(text, Path("/etc/cts/sfapi"))
    assert "/etc/cts/sfapi" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "abc123" not in str(refused.value)


def test_a_file_is_read_anew(tmp_path: Path):
    file = tmp_path / "token"
    watched = WatchedFile(file, "JAWS token")
    with pytest.raises(SiteUnreachableError, match=f"The JAWS token in {file} cannot be read"):
        watched.read_token()
    for text in ("one", "two"):
        file.write_text(f" {text}\n")
        assert watched.read_token() == text


@pytest.mark.parametrize(
    "data", [b"", b" \n", b"secret secret", b"secret\nsecret", b"secret\0", b"\xffsecret", "sécret".encode()]
)
def test_what_is_no_token_is_refused_without_a_word_of_it(tmp_path: Path, data: bytes):
    (tmp_path / "token").write_bytes(data)
    with pytest.raises(SiteUnreachableError) as refused:
        WatchedFile(tmp_path / "token", "JAWS token").read_token()
    assert "The JAWS token in" in str(refused.value)
    assert "cret" not in "".join(traceback.format_exception(refused.value))
