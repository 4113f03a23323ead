from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cdmtaskservice.domain.jobs import InputFile, JobInput, JobInputPreview, cpu_hours

CRC = "S8AXmd7A3f8="
DATA_IDS = {"type": "manifest_file", "manifest_file_format": "data_ids"}
LEAST: dict[str, Any] = {
    "cluster": "kbase",
    "image": "ghcr.io/kbase/tool:1",
    "params": {},
    "output_dir": "bucket/out",
    "input_files": ["bucket/a", "bucket/b", "bucket/c"],
}


def job(**fields: Any) -> JobInput:
    return JobInput.model_validate(LEAST | fields)


def reply(job_: JobInputPreview) -> Any:
    return job_.model_dump(mode="json", exclude_none=True)


def refused(match: str, **fields: Any) -> tuple[str | int, ...]:
    """Where a job with these fields is refused with a message that matches."""
    with pytest.raises(ValidationError, match=match) as caught:
        job(**fields)
    return caught.value.errors()[0]["loc"]


def test_the_least_job_has_the_defaults_filled_in_and_no_new_fields() -> None:
    assert reply(job()) == {
        "cluster": "kbase",
        "image": "ghcr.io/kbase/tool:1",
        "params": {
            "input_mount_point": "/input_files",
            "output_mount_point": "/output_files",
            "declobber": False,
        },
        "num_containers": 1,
        "cpus": 1,
        "memory": 10_000_000,
        "runtime": "PT1M",
        "output_dir": "bucket/out/",
        "input_files": [{"file": "bucket/a"}, {"file": "bucket/b"}, {"file": "bucket/c"}],
    }


def test_a_full_job_in_its_reply_form() -> None:
    parameter = {"type": "input_files", "input_files_format": "repeat_parameter", "flag": "--in="}
    number = {"type": "container_number", "container_num_prefix": "job-"}
    asked = {
        "cluster": "perlmutter-jaws",
        "image": "ghcr.io/kbase/tool@sha256:" + "0" * 64,
        "params": {
            "input_mount_point": "/in/",
            "output_mount_point": "/out",
            "refdata_mount_point": "/ref//db",
            "declobber": True,
            "args": ["predict", "-t", parameter],
            "environment": {"NUM": number, "MODE": "fast"},
        },
        "num_containers": 2,
        "cpus": 4,
        "memory": "2GB",
        "runtime": 10800,
        "input_roots": ["", " bucket/a/"],
        "output_dir": " bucket/out/",
        "input_files": [
            {"file": " bucket/a/1", "data_id": "x y", "crc64nvme": CRC},
            {"file": "bucket/b", "data_id": "z", "crc64nvme": None},
        ],
        "gpus": 1,
        "name": "nightly run",
        "tags": ["a", "b"],
    }
    shown = reply(JobInput.model_validate(asked))
    assert shown == {
        **asked,
        "params": {**asked["params"], "input_mount_point": "/in", "refdata_mount_point": "/ref/db"},  # type: ignore[dict-item]
        "memory": 2_000_000_000,
        "runtime": "PT3H",
        "input_roots": ["", "bucket/a/"],
        "output_dir": "bucket/out/",
        "input_files": [
            {"file": "bucket/a/1", "data_id": "x y", "crc64nvme": CRC},
            {"file": "bucket/b", "data_id": "z"},
        ],
    }
    assert reply(JobInput.model_validate_json(json.dumps(shown))) == shown


def test_unknown_fields_are_refused_everywhere() -> None:
    assert refused("Extra inputs", bogus=1) == ("bogus",)
    assert refused("Extra inputs", params={"bogus": 1}) == ("params", "bogus")
    assert refused("Extra inputs", input_files=[{"file": "bucket/a", "etag": "x"}]) == ("input_files", 0, "etag")


@pytest.mark.parametrize("field", sorted(LEAST))
def test_required_fields(field: str) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        JobInput.model_validate({k: v for k, v in LEAST.items() if k != field})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", "x"),
        ("image", "x" * 1000),
        ("num_containers", 1),
        ("num_containers", 3),
        ("cpus", 1),
        ("cpus", 100_000),
        ("memory", 1_000_000),
        ("gpus", 8),
        ("name", "n" * 100),
        ("tags", tuple(f"{i:050}" for i in range(20))),
        ("input_roots", ()),
        pytest.param("input_roots", ("",) * 10_000, id="input_roots-most"),
        ("runtime", datetime.timedelta(seconds=1)),
    ],
)
def test_values_at_their_limits(field: str, value: object) -> None:
    assert getattr(job(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cluster", ""),
        ("cluster", "k\x00"),
        ("cluster", "\ud800"),
        ("image", ""),
        ("image", "x" * 1001),
        ("image", "x\ny"),
        ("num_containers", 0),
        ("num_containers", 1001),
        ("num_containers", 1.5),
        ("num_containers", None),
        ("cpus", 0),
        ("cpus", 2**31),
        pytest.param("cpus", 10**5000, id="cpus-huge"),
        ("memory", "0.5MB"),
        ("runtime", 0.5),
        ("runtime", "P5M"),
        ("output_dir", "bucket"),
        ("output_dir", "bucket/"),
        ("input_roots", "bucket"),
        ("input_roots", ["/bucket"]),
        ("input_roots", [None]),
        pytest.param("input_roots", [""] * 10_001, id="input_roots-too-many"),
        ("gpus", -1),
        ("name", ""),
        ("name", "n" * 101),
        ("name", "a\nb"),
        ("tags", ["t"] * 21),
        ("tags", ["t" * 51]),
        ("tags", [""]),
        ("tags", ["a\x00"]),
        ("tags", "t"),
    ],
)
def test_values_beyond_their_limits_name_their_field(field: str, value: object) -> None:
    assert refused("validation error", **{field: value})[0] == field


def test_the_new_fields_appear_only_where_they_were_set() -> None:
    assert not {"gpus", "name", "tags"} & set(reply(job(gpus=0, name=None, tags=[])))
    assert reply(job(gpus=2))["gpus"] == 2
    assert (job().gpus, job().name, job().tags) == (0, None, ())


def test_no_more_containers_than_files() -> None:
    assert refused("num_containers is 4, more than the 3 input files", num_containers=4) == ("input_files",)


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ([], "there are 0 input files: from 1 to 10000"),
        ([f"bucket/{i}" for i in range(10_001)], "there are 10001 input files"),
        ("bucket/a", "must be a list"),
        ({"file": "bucket/a"}, "must be a list"),
        (None, "must be a list"),
        (["bucket/a", "bucket/b", {"file": "bucket/c"}], "number 0. is a string, entry number 2 is none"),
        ([{"file": "bucket/a"}, "bucket/b"], "number 0. is no string, entry number 1 is one"),
        (["bucket/a", "bucket/b", "bucket/a"], "'bucket/a' is listed twice, as number 0 and number 2"),
        (["bucket/a", " bucket/a"], "listed twice"),
        ([{"file": "bucket/a"}, {"file": "bucket/a", "data_id": "x"}], "listed twice"),
        (
            [{"file": "bucket/a", "data_id": "x"}, {"file": "bucket/b"}],
            "1 of 2 input files have a data_id.*'bucket/b'",
        ),
    ],
)
def test_lists_of_input_files_that_are_refused(files: object, fault: str) -> None:
    assert refused(fault, input_files=files) == ("input_files",)


@pytest.mark.parametrize(
    ("entry", "loc", "fault"),
    [
        ("Bucket/a", ("file",), "bucket 'Bucket'"),
        ({}, ("file",), "Field required"),
        ({"file": "bucket/.."}, ("file",), r"'\.\.' segment"),
        ({"file": "bucket/a", "data_id": ""}, ("data_id",), "at least 1"),
        ({"file": "bucket/a", "data_id": "x" * 256}, ("data_id",), "at most 255"),
        ({"file": "bucket/a", "data_id": "x\ny"}, ("data_id",), r"control character \(U\+000A\) at position 1"),
        ({"file": "bucket/a", "data_id": "\ud800"}, ("data_id",), "validation error"),
        ({"file": "bucket/a", "crc64nvme": ""}, ("crc64nvme",), "no CRC64NVME"),
        ({"file": "bucket/a", "crc64nvme": CRC[:-1]}, ("crc64nvme",), "no CRC64NVME"),
        ({"file": "bucket/a", "crc64nvme": CRC + "="}, ("crc64nvme",), "no CRC64NVME"),
        ({"file": "bucket/a", "crc64nvme": "S8AXmd7A3f8-"}, ("crc64nvme",), "no CRC64NVME"),
        ({"file": "bucket/a", "crc64nvme": "S8AXmd7A3f==\n"[:12]}, ("crc64nvme",), "no CRC64NVME"),
        (5, (), "validation error"),
        (None, (), "validation error"),
    ],
)
def test_input_files_that_are_refused_by_their_number(entry: object, loc: tuple[str, ...], fault: str) -> None:
    fine: object = "bucket/z" if isinstance(entry, str) else {"file": "bucket/z"}
    assert refused(fault, input_files=[fine, entry]) == ("input_files", 1, *loc)


def test_data_ids_at_their_limit() -> None:
    files = [{"file": "bucket/a", "data_id": "é" * 255, "crc64nvme": CRC}]
    assert job(input_files=files).input_files == (InputFile(file="bucket/a", data_id="é" * 255, crc64nvme=CRC),)


def test_a_manifest_of_data_ids_needs_data_ids() -> None:
    params = {"args": [DATA_IDS]}
    assert refused("data_ids needs a data_id on every input file", params=params) == ("input_files",)
    assert refused("data_ids needs", params={"environment": {"A": DATA_IDS}}) == ("input_files",)
    job(params=params, input_files=[{"file": "bucket/a", "data_id": "x"}])


def test_ten_thousand_files_can_be_asked_for() -> None:
    files = [f"bucket/{i}" for i in range(10_000)]
    assert job(input_files=files, num_containers=1000).files == files


def test_a_preview_is_the_job_without_its_files() -> None:
    full = job(num_containers=2, name="x")
    shown = reply(full)
    del shown["input_files"]
    assert reply(full.preview()) == shown
    assert JobInputPreview.model_validate(shown) == full.preview()


def test_cpu_hours_are_cpus_times_containers_times_runtime() -> None:
    assert cpu_hours(job(cpus=4, num_containers=3, runtime="PT90M")) == 18.0
    assert cpu_hours(job()) == pytest.approx(1 / 60)
    assert cpu_hours(job(cpus=2**31 - 1, num_containers=3, runtime="P999999999D")) > 0


def test_jobs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        job().cpus = 2  # type: ignore[misc]


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_the_schema_documents_both_forms_of_input_files(mode: Any) -> None:
    schema = JobInput.model_json_schema(mode=mode)
    json.dumps(schema)
    assert schema["required"] == ["cluster", "image", "params", "output_dir", "input_files"]
    files = schema["properties"]["input_files"]
    forms = files["anyOf"] if mode == "validation" else [files]
    assert [f["items"].get("type", "object") for f in forms] == ["string", "object"][-len(forms) :]


# What clients may send, generated.

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=10)
KEY = st.text(st.sampled_from('ab.-_ é,"$'), min_size=1, max_size=6).filter(lambda k: k not in {".", ".."})
FILE = st.lists(KEY, min_size=1, max_size=3).map(lambda ks: "bucket/" + "/".join(ks))
LITERAL = st.from_regex(r"[\w./][\w./-]{0,5}", fullmatch=True)
FLAG = st.from_regex(r"--?[a-zA-Z0-9][\w.-]{0,5}=?", fullmatch=True)
MOUNT = st.lists(st.from_regex(r"[a-z0-9_-]{1,3}", fullmatch=True), min_size=1, max_size=3)
NUMBER = st.fixed_dictionaries(
    {"type": st.just("container_number")},
    optional={"container_num_prefix": TEXT | st.none(), "container_num_suffix": TEXT, "flag": FLAG},
)
FILES_ARGUMENT = st.fixed_dictionaries(
    {
        "type": st.just("input_files"),
        "input_files_format": st.sampled_from(["comma_separated_list", "space_separated_list", "repeat_parameter"]),
        "flag": FLAG,
    }
)
ARGS = st.tuples(
    st.lists(LITERAL | FLAG | NUMBER, max_size=4), st.lists(FILES_ARGUMENT | st.just(DATA_IDS), max_size=1)
).map(lambda parts: [*parts[0], *parts[1]])
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "input_mount_point": MOUNT.map(lambda m: "/in//" + "/".join(m)),
        "output_mount_point": MOUNT.map(lambda m: "/out/" + "/./".join(m)),
        "refdata_mount_point": st.none() | MOUNT.map(lambda m: "/ref/" + "/".join(m) + "/"),
        "declobber": st.booleans(),
        "args": st.none() | ARGS,
        "environment": st.none() | st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,4}", fullmatch=True), LITERAL),
    },
)
INPUT_FILES = st.lists(FILE, min_size=1, max_size=5, unique=True).flatmap(
    lambda files: st.just([{"file": f, "data_id": f"id {i}", "crc64nvme": CRC} for i, f in enumerate(files)])
)
REQUEST = st.fixed_dictionaries(
    {
        "cluster": TEXT,
        "image": TEXT,
        "params": PARAMS,
        "output_dir": FILE,
        "input_files": INPUT_FILES,
    },
    optional={
        "num_containers": st.just(1),
        "cpus": st.integers(1, 1000),
        "memory": st.integers(10**6, 2**63 - 1) | st.integers(1, 900).map("{}GB".format),
        "runtime": st.integers(1, 10**9) | st.floats(1, 10**9) | st.integers(1, 10**5).map("PT{}M".format),
        "input_roots": st.none() | st.lists(st.just("") | FILE | st.just("bucket/"), max_size=3),
        "gpus": st.integers(0, 9),
        "name": TEXT,
        "tags": st.lists(TEXT, max_size=20),
    },
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, categories=None), max_size=8)
    | st.sampled_from(["input_files", "bucket/a", "-i", "repeat_parameter", 10**400, "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=5) | st.sampled_from(["type", "file", "args", "flag", "\ud800"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(REQUEST)
def test_what_is_stored_reads_back_as_the_same_job(request_: dict[str, Any]) -> None:
    first = JobInput.model_validate(request_)
    stored = reply(first)
    assert JobInput.model_validate(stored) == first
    assert JobInput.model_validate_json(json.dumps(stored)) == first
    assert reply(JobInput.model_validate(stored)) == stored
    assert None not in stored.values()


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=300)
@given(REQUEST, st.data())
def test_a_request_with_junk_anywhere_is_legal_or_a_validation_error(request_: Any, data: st.DataObject) -> None:
    body = json.loads(json.dumps(request_))
    part = body
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if isinstance(part[key], dict | list) and data.draw(st.booleans()):
            part = part[key]
            continue
        part[key] = data.draw(JUNK)
        break
    try:
        accepted = JobInput.model_validate(body)
    except ValidationError as e:
        e.errors()
        return
    assert JobInput.model_validate(reply(accepted)) == accepted
    json.dumps(reply(accepted), ensure_ascii=False).encode()  # can be stored and sent


@given(JUNK)
def test_junk_is_a_validation_error_and_nothing_else(junk: Any) -> None:
    with pytest.raises(ValidationError):
        JobInput.model_validate(junk)
