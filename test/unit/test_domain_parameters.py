from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cdmtaskservice.domain.jobs import Parameter, Parameters, ParameterType, ParameterWithFlag

COMMA = {"type": "input_files", "input_files_format": "comma_separated_list"}
SPACE = {"type": "input_files", "input_files_format": "space_separated_list"}
REPEAT = {"type": "input_files", "input_files_format": "repeat_parameter"}
MANIFEST = {"type": "manifest_file", "manifest_file_format": "files"}
NUMBER = {"type": "container_number"}


def refused(body: dict[str, Any], match: str) -> tuple[str | int, ...]:
    """Where `body` is refused with a message that matches."""
    with pytest.raises(ValidationError, match=match) as caught:
        Parameters.model_validate(body)
    return caught.value.errors()[0]["loc"]


def test_defaults() -> None:
    assert Parameters().model_dump(mode="json", exclude_none=True) == {
        "input_mount_point": "/input_files",
        "output_mount_point": "/output_files",
        "declobber": False,
    }


def test_unknown_fields_are_refused() -> None:
    assert refused({"mount": "/x"}, "Extra inputs") == ("mount",)
    assert refused({"args": [NUMBER | {"x": 1}]}, "Extra inputs") == ("args", 0, "parameter", "x")


@pytest.mark.parametrize("field", ["input_mount_point", "output_mount_point", "refdata_mount_point"])
@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("/data", "/data"),
        ("/data/", "/data"),
        ("//a//b/./c/.", "/a/b/c"),
        ("/a-b_c.d/...", "/a-b_c.d/..."),
        ("/" + "a" * 1023, "/" + "a" * 1023),
    ],
)
def test_mount_points_are_stored_resolved(field: str, path: str, stored: str) -> None:
    assert getattr(Parameters.model_validate({field: path}), field) == stored


@pytest.mark.parametrize("field", ["input_mount_point", "output_mount_point", "refdata_mount_point"])
@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "absolute"),
        ("data", "absolute"),
        ("./data", "absolute"),
        ("/", "root"),
        ("//./", "root"),
        ("/a/../b", r"'\.\.'"),
        ("/..", r"'\.\.'"),
        ("/a b", "may have only"),
        ("/a:b", "may have only"),
        ("/a\n", "may have only"),
        ("/é", "may have only"),
        ("/a\ud800", "may have only"),
        ("/" + "a" * 1024, "longer than"),
    ],
)
def test_mount_points_that_are_refused(field: str, path: str, fault: str) -> None:
    assert refused({field: path}, fault) == (field,)


def test_two_mounts_cannot_be_at_one_place() -> None:
    refused({"output_mount_point": "/input_files/"}, "input_mount_point and output_mount_point are both '/input_files'")
    refused({"refdata_mount_point": "/output_files"}, "output_mount_point and refdata_mount_point")
    refused({"input_mount_point": "/w", "output_mount_point": "/w/out"}, "below input_mount_point")
    refused({"refdata_mount_point": "/input_files/ref"}, "below input_mount_point")
    refused(
        {"refdata_mount_point": "/w", "input_mount_point": "/w/in"}, "input_mount_point .* below refdata_mount_point"
    )
    refused({"refdata_mount_point": "/w", "output_mount_point": "/w/o"}, "output_mount_point .* below refdata_mount_po")
    Parameters.model_validate({"refdata_mount_point": "/w", "input_mount_point": "/w2", "output_mount_point": "/w3"})
    Parameters.model_validate({"refdata_mount_point": "/output_files/ref"})
    Parameters.model_validate({"input_mount_point": "/w/in", "output_mount_point": "/w"})
    Parameters.model_validate({"input_mount_point": "/w", "output_mount_point": "/w2"})


@pytest.mark.parametrize(
    "argument",
    [
        "a",
        "4",
        ".",
        "/",
        "../x",
        "a/b-c_d.e",
        "é",
        "a" * 1024,
        "-i",
        "--in",
        "--in=",
        "-1",
        "--a.b-c_d",
        "-" + "a" * 255,
    ],
)
def test_literals_and_flags_are_arguments(argument: str) -> None:
    assert Parameters.model_validate({"args": [argument]}).args == (argument,)


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "-",
        "--",
        "---a",
        "-=",
        "-é",
        "--in=x",
        "--in==",
        "a b",
        "a=b",
        "a,b",
        "a\n",
        "-i\n",
        "$x",
        "'a'",
        "a;b",
        "*",
    ],
)
def test_what_is_neither_literal_nor_flag_is_refused(argument: str) -> None:
    assert refused({"args": ["ok", argument]}, "neither a literal .* nor a flag") == ("args", 1, "text")


@pytest.mark.parametrize(
    "argument",
    ["a" * 1025, "-" + "a" * 256, "\ud800", "--" + "a" * 254 + "="],
)
def test_arguments_that_are_too_long_or_cannot_be_sent_are_refused(argument: str) -> None:
    assert refused({"args": ["ok", argument]}, "neither a literal .* nor a flag") == ("args", 1, "text")


@pytest.mark.parametrize("argument", [None, 4, 1.5, True, []])
def test_arguments_of_other_kinds_are_refused_in_words(argument: object) -> None:
    assert refused({"args": [argument]}, "must be a text .* or a parameter object") == ("args", 0)
    assert refused({"environment": {"A": argument}}, "must be a text .* or a parameter object") == ("environment", "A")


def test_args_must_be_a_list() -> None:
    assert refused({"args": "--in"}, "must be a list, not '--in'") == ("args",)


@pytest.mark.parametrize("name", ["A", "_", "_A1", "A" * 256])
def test_environment_names(name: str) -> None:
    assert Parameters.model_validate({"environment": {name: "x"}}).environment == {name: "x"}


@pytest.mark.parametrize("name", ["", "a", "1A", "A-B", "A=", "A\n", "É", "A" * 257, "A "])
def test_environment_names_that_are_refused(name: str) -> None:
    refused({"environment": {name: "x"}}, "environment variable")


@pytest.mark.parametrize("value", ["", "-i", "--in=", "a b", "a\n", "a" * 1025])
def test_environment_values_are_literals(value: str) -> None:
    assert refused({"environment": {"A": value}}, "is not a literal")[:2] == ("environment", "A")


@pytest.mark.parametrize("flag", ["", "i", "-", "--in=x", "-i ", "-" + "a" * 256])
def test_flags_of_parameters_are_flags(flag: str) -> None:
    assert refused({"args": [NUMBER | {"flag": flag}]}, "is not a flag") == ("args", 0, "parameter", "flag")


def test_flags_have_no_place_in_the_environment() -> None:
    loc = refused({"environment": {"A": NUMBER | {"flag": "-i"}}}, "Extra inputs")
    assert loc == ("environment", "A", "parameter", "flag")


@pytest.mark.parametrize(
    ("parameter", "needed"),
    [({"type": "input_files"}, "input_files_format"), ({"type": "manifest_file"}, "manifest_file_format")],
)
def test_types_need_their_format(parameter: dict[str, Any], needed: str) -> None:
    refused({"args": [parameter]}, f"needs {needed}")
    refused({"environment": {"A": parameter | {needed: None}}}, f"needs {needed}")


def test_fields_of_another_type_are_checked_and_left_out() -> None:
    parameter = ParameterWithFlag.model_validate(
        NUMBER | {"input_files_format": "repeat_parameter", "manifest_file_header": "x", "container_num_prefix": "p"}
    )
    assert parameter.model_dump(mode="json", exclude_none=True) == NUMBER | {"container_num_prefix": "p"}
    assert parameter.model_fields_set == {"type", "container_num_prefix"}
    files = Parameter.model_validate(COMMA | {"manifest_file_format": "files", "container_num_suffix": "s"})
    assert files.model_dump(mode="json", exclude_none=True) == COMMA
    with pytest.raises(ValidationError, match="input_files_format"):
        Parameter.model_validate(NUMBER | {"input_files_format": "bogus"})


def test_repeat_parameter_needs_a_flag() -> None:
    assert refused({"args": [REPEAT]}, "repeat_parameter needs a flag")[:2] == ("args", 0)
    Parameters.model_validate({"args": [REPEAT | {"flag": "-i"}]})
    refused({"environment": {"A": REPEAT}}, "repeat_parameter needs a flag")


def test_a_space_separated_list_is_illegal_in_the_environment() -> None:
    refused({"environment": {"A": SPACE}}, "space_separated_list is not possible in the environment")
    Parameters.model_validate({"args": [SPACE]})


@pytest.mark.parametrize(
    "body",
    [
        {"args": [COMMA, MANIFEST]},
        {"args": [COMMA, COMMA]},
        {"environment": {"A": COMMA, "B": MANIFEST}},
        {"args": [MANIFEST], "environment": {"A": COMMA}},
    ],
)
def test_one_file_parameter_a_job(body: dict[str, Any]) -> None:
    refused(body, "2 parameters of type input_files or manifest_file: at most one")


def test_container_numbers_may_be_many() -> None:
    parameters = Parameters.model_validate({"args": [NUMBER, NUMBER, MANIFEST], "environment": {"N": NUMBER}})
    assert parameters.file_parameter is not None
    assert parameters.file_parameter.type is ParameterType.MANIFEST_FILE
    assert Parameters.model_validate({"args": [NUMBER]}).file_parameter is None


@pytest.mark.parametrize("header", ["#\tfile\tid", "é ☃", "x" * 1000])
def test_manifest_headers(header: str) -> None:
    assert Parameter.model_validate(MANIFEST | {"manifest_file_header": header}).manifest_file_header == header


@pytest.mark.parametrize("header", ["a\nb", "a\r", "\x00", "\x7f", "\x85", "\ud800", "x" * 1001])
def test_manifest_headers_that_are_refused(header: str) -> None:
    with pytest.raises(ValidationError, match="header"):
        Parameter.model_validate(MANIFEST | {"manifest_file_header": header})


@pytest.mark.parametrize("field", ["container_num_prefix", "container_num_suffix"])
def test_around_the_container_number_goes_any_text_without_control_characters(field: str) -> None:
    assert getattr(Parameter.model_validate(NUMBER | {field: "-a b'é"}), field) == "-a b'é"
    for text in ("a\nb", "\x00", "\ud800", "x" * 1025):
        with pytest.raises(ValidationError, match=field):
            Parameter.model_validate(NUMBER | {field: text})


def test_parameters_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Parameters().declobber = True  # type: ignore[misc]
