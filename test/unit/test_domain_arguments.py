from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.domain import arguments
from cdmtaskservice.domain.arguments import Manifest, PlacedFile, check_renderable, render
from cdmtaskservice.domain.errors import IllegalParameterError
from cdmtaskservice.domain.jobs import Parameters
from cdmtaskservice.domain.placement import split_files

FILES = [PlacedFile("a.fa", "id 1"), PlacedFile("sub dir/b'\".fa", "id-2"), PlacedFile("$(c) é.fa", "idé3")]
PATHS = ["/input_files/a.fa", "/input_files/sub dir/b'\".fa", "/input_files/$(c) é.fa"]


def with_args(*args: Any) -> Parameters:
    return Parameters.model_validate({"args": list(args)})


def files_as(format_: str, flag: str | None = None) -> dict[str, Any]:
    return {"type": "input_files", "input_files_format": format_, "flag": flag}


def manifest_of(format_: str, **more: Any) -> dict[str, Any]:
    return {"type": "manifest_file", "manifest_file_format": format_, **more}


@pytest.mark.parametrize(
    ("format_", "flag", "expected"),
    [
        ("comma_separated_list", None, [",".join(PATHS)]),
        ("comma_separated_list", "-i", ["-i", ",".join(PATHS)]),
        ("comma_separated_list", "--in=", ["--in=" + ",".join(PATHS)]),
        ("space_separated_list", None, PATHS),
        ("space_separated_list", "-i", ["-i", *PATHS]),
        ("space_separated_list", "--in=", ["--in=" + PATHS[0], *PATHS[1:]]),
        ("repeat_parameter", "-i", ["-i", PATHS[0], "-i", PATHS[1], "-i", PATHS[2]]),
        ("repeat_parameter", "--in=", ["--in=" + p for p in PATHS]),
    ],
)
def test_input_files_in_every_format(format_: str, flag: str | None, expected: list[str]) -> None:
    parameters = with_args("run", files_as(format_, flag), "-v")
    assert render(parameters, 0, FILES).args == ("run", *expected, "-v")
    assert render(parameters, 0, FILES).manifest is None


def test_joining_a_space_separated_list_is_what_a_shell_makes_of_it() -> None:
    files = [PlacedFile("a"), PlacedFile("b")]
    rendered = render(with_args(files_as("space_separated_list", "--in=")), 0, files)
    assert list(rendered.args) == shlex.split("--in=/input_files/a /input_files/b")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (None, ["/in/.cts/manifest-7.txt"]),
        ("-m", ["-m", "/in/.cts/manifest-7.txt"]),
        ("--m=", ["--m=/in/.cts/manifest-7.txt"]),
    ],
)
def test_a_manifest_is_passed_by_its_path(flag: str | None, expected: list[str]) -> None:
    parameters = Parameters.model_validate({"input_mount_point": "/in/", "args": [manifest_of("files", flag=flag)]})
    rendered = render(parameters, 7, [PlacedFile("a"), PlacedFile("b c")])
    assert list(rendered.args) == expected
    assert rendered.manifest == Manifest(".cts/manifest-7.txt", "/in/a\n/in/b c\n")


@pytest.mark.parametrize(
    ("parameter", "content"),
    [
        (manifest_of("files"), "".join(f"{p}\n" for p in PATHS)),
        (manifest_of("files", manifest_file_header="file\tx"), "file\tx\n" + "".join(f"{p}\n" for p in PATHS)),
        (manifest_of("files", manifest_file_header=""), "".join(f"{p}\n" for p in PATHS)),
        (manifest_of("data_ids"), "id 1\nid-2\nidé3\n"),
        (manifest_of("data_ids", manifest_file_header="# ids"), "# ids\nid 1\nid-2\nidé3\n"),
    ],
)
def test_manifests_list_paths_or_data_ids_below_their_header(parameter: dict[str, Any], content: str) -> None:
    manifest = render(with_args(parameter), 0, FILES).manifest
    assert manifest is not None
    assert manifest.content == content


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ["12"]),
        ({"flag": "-n"}, ["-n", "12"]),
        ({"flag": "--n="}, ["--n=12"]),
        ({"container_num_prefix": "job "}, ["job 12"]),
        ({"container_num_suffix": "-x"}, ["12-x"]),
        ({"container_num_prefix": "a", "container_num_suffix": "b", "flag": "--n="}, ["--n=a12b"]),
    ],
)
def test_the_container_number(more: dict[str, str], expected: list[str]) -> None:
    assert list(render(with_args({"type": "container_number", **more}), 12, FILES).args) == expected


def test_the_environment_takes_literals_and_parameters() -> None:
    parameters = Parameters.model_validate(
        {
            "environment": {
                "MODE": "fast",
                "NUM": {"type": "container_number", "container_num_prefix": "n"},
                "FILES": {"type": "input_files", "input_files_format": "comma_separated_list"},
            }
        }
    )
    rendered = render(parameters, 3, FILES)
    assert rendered.environment == {"MODE": "fast", "NUM": "n3", "FILES": ",".join(PATHS)}
    assert rendered.args == ()


def test_a_manifest_can_be_named_in_the_environment() -> None:
    parameters = Parameters.model_validate({"environment": {"LIST": manifest_of("files")}})
    rendered = render(parameters, 0, FILES[:1])
    assert rendered.environment == {"LIST": "/input_files/.cts/manifest-0.txt"}
    assert rendered.manifest == Manifest(".cts/manifest-0.txt", "/input_files/a.fa\n")


def test_without_parameters_there_is_nothing() -> None:
    rendered = render(Parameters(), 0, FILES)
    assert (rendered.args, dict(rendered.environment), rendered.manifest) == ((), {}, None)


@pytest.mark.parametrize("where", ["args", "environment"])
def test_a_comma_in_a_name_cannot_go_into_a_comma_separated_list(where: str) -> None:
    value = {"type": "input_files", "input_files_format": "comma_separated_list"}
    parameters = Parameters.model_validate({where: [value] if where == "args" else {"F": value}})
    check_renderable(parameters, FILES)
    with pytest.raises(IllegalParameterError, match=r"input_files: .*'d/x,y\.fa' has a comma"):
        check_renderable(parameters, [*FILES, PlacedFile("d/x,y.fa")])


@pytest.mark.parametrize(
    "argument",
    [files_as("space_separated_list"), files_as("repeat_parameter", "-i"), manifest_of("files"), "literal"],
)
def test_a_comma_is_harmless_in_every_other_format(argument: Any) -> None:
    check_renderable(with_args(argument), [PlacedFile("x,y.fa")], 1)


def test_a_manifest_of_data_ids_needs_them_all() -> None:
    parameters = with_args(manifest_of("data_ids"))
    check_renderable(parameters, FILES)
    with pytest.raises(IllegalParameterError, match=r"'bare\.fa' has no data_id"):
        check_renderable(parameters, [*FILES, PlacedFile("bare.fa")])


def test_an_argument_longer_than_linux_takes_is_refused_with_its_container() -> None:
    parameters = with_args(files_as("comma_separated_list", "--in="))
    fits = [PlacedFile("n" * (131_071 - len("--in=/input_files/")))]
    check_renderable(parameters, fits, 1)
    long = [PlacedFile("a"), PlacedFile(fits[0].path + "n")]
    with pytest.raises(
        IllegalParameterError, match=r"container 1 would get an argument.*131072 bytes.*131071.*manifest"
    ):
        check_renderable(parameters, long, 2)
    check_renderable(parameters, long)  # nothing is known of the split


def test_a_long_environment_variable_counts_with_its_name() -> None:
    value = {"type": "input_files", "input_files_format": "comma_separated_list"}
    parameters = Parameters.model_validate({"environment": {"FILES": value}})
    name = "n" * (131_071 - len("FILES=/input_files/"))
    check_renderable(parameters, [PlacedFile(name)], 1)
    with pytest.raises(IllegalParameterError, match="container 0"):
        check_renderable(parameters, [PlacedFile(name + "n")], 1)


def test_many_arguments_that_are_too_much_together_are_refused_unless_split() -> None:
    parameters = with_args(files_as("space_separated_list"))
    files = [PlacedFile(f"{i:04}" + "n" * 250) for i in range(10_000)]
    with pytest.raises(IllegalParameterError, match="more than the 2097152"):
        check_renderable(parameters, files, 1)
    check_renderable(parameters, files, 2)


NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/"), min_size=1, max_size=12),
    min_size=1,
    max_size=30,
    unique=True,
)


@given(NAMES, st.integers(1, 30), st.sampled_from(["space", "repeat", "repeat=", "manifest", "ids"]))
def test_every_file_reaches_exactly_one_container_byte_for_byte(names: list[str], containers: int, form: str) -> None:
    argument = {
        "space": files_as("space_separated_list"),
        "repeat": files_as("repeat_parameter", "-i"),
        "repeat=": files_as("repeat_parameter", "-i="),
        "manifest": manifest_of("files"),
        "ids": manifest_of("data_ids"),
    }[form]
    parameters = with_args(argument)
    files = [PlacedFile(f"d/{n}", n) for n in names]
    check_renderable(parameters, files, min(containers, len(names)))
    arrived: list[str] = []
    for number, share in enumerate(split_files(len(names), min(containers, len(names)))):
        rendered = render(parameters, number, files[share.start : share.stop])
        content = rendered.manifest.content if rendered.manifest else ""
        arrived += {
            "space": list(rendered.args),
            "repeat": list(rendered.args[1::2]),
            "repeat=": [a.removeprefix("-i=") for a in rendered.args],
        }.get(form, content.split("\n")[:-1])
    assert arrived == (names if form == "ids" else [f"/input_files/d/{n}" for n in names])


@given(NAMES)
def test_a_comma_separated_list_that_passes_the_check_splits_into_its_files(names: list[str]) -> None:
    parameters = with_args(files_as("comma_separated_list"))
    files = [PlacedFile(n) for n in names]
    try:
        check_renderable(parameters, files, 1)
    except IllegalParameterError:
        assert any("," in n for n in names)
        return
    assert render(parameters, 0, files).args[0].split(",") == [f"/input_files/{n}" for n in names]


def test_the_size_check_does_not_grow_with_containers_times_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []
    monkeypatch.setattr(arguments, "render", lambda p, n, f: rendered.append(len(p.args or ())) or render(p, n, f))
    parameters = with_args(*[{"type": "container_number"}] * 500, files_as("repeat_parameter", "-i"))
    check_renderable(parameters, [PlacedFile(str(i)) for i in range(1000)], 1000)
    assert sum(rendered) == 3 * 500 + 1000  # numbers of one, two and three digits, and everybody's files
