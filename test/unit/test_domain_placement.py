from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmtaskservice.domain.errors import IllegalParameterError
from cdmtaskservice.domain.placement import place_inputs, split_files

SEGMENT = st.sampled_from(["a", "b", "ab", "a b", ".cts", "é", "x,y", "a!"])
KEY = st.lists(SEGMENT, min_size=1, max_size=4).map("/".join)
FILE = st.builds("{}/{}".format, st.sampled_from(["bucket", "other"]), KEY)
FILES = st.lists(FILE, min_size=1, max_size=8, unique=True)
ROOT = st.one_of(st.just(""), st.sampled_from(["bucket", "other/"]), FILE, FILE.map("{}/".format))
ROOTS = st.lists(ROOT, max_size=5)


def placed_simply(file: str, roots: list[str]) -> str:
    """The rule as the contract words it, without any regard for speed."""
    best = None
    for root in roots:
        prefix = root.rstrip("/") + "/" if root else ""
        if file.startswith(prefix) and (best is None or len(prefix) > len(best)):
            best = prefix
    return file.rsplit("/", 1)[-1] if best is None else file[len(best) :]


@pytest.mark.parametrize(
    ("roots", "place"),
    [
        ([], "f.fa"),
        (["bucket/other"], "f.fa"),
        (["bucket"], "a/b/f.fa"),
        (["bucket/"], "a/b/f.fa"),
        (["bucket/a"], "b/f.fa"),
        (["bucket/a/"], "b/f.fa"),
        (["bucket/a", "bucket/a/b"], "f.fa"),
        (["bucket/a/b", "bucket", "", "bucket/a"], "f.fa"),
        ([""], "bucket/a/b/f.fa"),
        (["", "bucket/a"], "b/f.fa"),
        (["bucket/a/b/f.fa"], "f.fa"),
        (["bucket/a", "bucket/a/b/f.fa"], "b/f.fa"),
        (["buck"], "f.fa"),
        (["bucket/a/b/f"], "f.fa"),
        (["bucket/", "bucket/a/b/f"], "a/b/f.fa"),
    ],
)
def test_the_longest_root_that_is_not_the_file_itself_wins(roots: list[str], place: str) -> None:
    assert place_inputs(["bucket/a/b/f.fa"], roots) == [place]


def test_some_files_are_under_a_root_and_others_land_flat() -> None:
    files = ["bucket/a/x/1.fa", "other/deep/down/2.fa", "bucket/ab/3.fa"]
    assert place_inputs(files, ["bucket/a"]) == ["x/1.fa", "2.fa", "3.fa"]


def test_two_files_at_one_place_are_named_both() -> None:
    with pytest.raises(IllegalParameterError) as caught:
        place_inputs(["bucket/x/r.fa", "bucket/z.fa", "bucket/y/r.fa"], [])
    for part in ("input_files", "'bucket/x/r.fa'", "'bucket/y/r.fa'", "'r.fa'", "input_roots"):
        assert part in caught.value.message
    assert place_inputs(["bucket/x/r.fa", "bucket/z.fa", "bucket/y/r.fa"], ["bucket"]) == ["x/r.fa", "z.fa", "y/r.fa"]


def test_a_root_can_bring_two_files_to_one_place() -> None:
    with pytest.raises(IllegalParameterError, match=r"'bucket/a/r\.fa' and 'bucket/b/r\.fa'"):
        place_inputs(["bucket/a/r.fa", "bucket/b/r.fa"], ["bucket/a", "bucket/b"])


def test_the_same_file_twice_is_said_to_be_so() -> None:
    with pytest.raises(IllegalParameterError, match="'bucket/a' is listed twice"):
        place_inputs(["bucket/a", "bucket/a"], [])


@pytest.mark.parametrize("order", [1, -1])
def test_a_file_where_another_needs_a_directory_is_named_with_it(order: int) -> None:
    # 'a!' and 'a-b' sort between 'a' and 'a/b' by code point: they must not hide the clash.
    files = ["bucket/a", "bucket/a!", "bucket/a-b", "bucket/a/c/b"][::order]
    with pytest.raises(IllegalParameterError) as caught:
        place_inputs(files, ["bucket"])
    assert "'bucket/a' would be placed at 'a'" in caught.value.message
    assert "'bucket/a/c/b' needs a directory" in caught.value.message


@pytest.mark.parametrize(
    ("file", "roots"), [("bucket/.cts", []), ("bucket/.cts/x", ["bucket"]), ("bucket/a/.cts/x/y", ["bucket/a"])]
)
def test_the_reserved_directory_is_refused(file: str, roots: list[str]) -> None:
    with pytest.raises(IllegalParameterError, match=r"reserved") as caught:
        place_inputs(["bucket/fine", file], roots)
    assert f"'{file}'" in caught.value.message


def test_the_reserved_name_is_free_elsewhere() -> None:
    assert place_inputs(["bucket/.cts/x", "bucket/.ctsx/y", "bucket/a/.cts"], ["bucket/.cts", ""]) == [
        "x",
        "bucket/.ctsx/y",
        "bucket/a/.cts",
    ]


@pytest.mark.parametrize("roots", [[], ["bucket"], ["bucket/dir"], ["bucket/dir/"], [""]])
def test_a_directory_is_no_file(roots: list[str]) -> None:
    with pytest.raises(IllegalParameterError, match="'bucket/dir/' ends with '/'"):
        place_inputs(["bucket/dir/"], roots)


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127])
def test_names_of_255_bytes_can_be_placed(name: str) -> None:
    assert place_inputs([f"bucket/{name}"], []) == [name]


@pytest.mark.parametrize("name", ["n" * 256, "é" * 128, "n" * 256 + "/f"])
def test_names_that_no_file_system_takes_are_refused(name: str) -> None:
    with pytest.raises(IllegalParameterError, match="longer than 255 bytes"):
        place_inputs([f"bucket/{name}"], ["bucket"])


def test_a_long_name_in_a_directory_that_is_not_kept_does_no_harm() -> None:
    assert place_inputs([f"bucket/{'n' * 300}/f"], []) == ["f"]


@given(FILES, ROOTS, st.randoms())
def test_placement_keeps_its_promises(files: list[str], roots: list[str], random: object) -> None:
    expected = [placed_simply(f, roots) for f in files]
    clash = any(
        one == other or other.startswith(f"{one}/")
        for i, one in enumerate(expected)
        for j, other in enumerate(expected)
        if i != j
    )
    reserved = any(p.split("/")[0] == ".cts" for p in expected)
    shuffled = list(files)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    try:
        places = place_inputs(files, roots)
    except IllegalParameterError:
        assert clash or reserved
        with pytest.raises(IllegalParameterError):
            place_inputs(shuffled, roots)
        return
    assert not clash
    assert not reserved
    assert places == expected == place_inputs(files, roots)
    assert len(set(places)) == len(files)
    for place in places:
        assert not place.startswith("/")
        assert not {"", ".", ".."} & set(place.split("/"))
    again = dict(zip(shuffled, place_inputs(shuffled, list(reversed(roots))), strict=True))
    assert again == dict(zip(files, places, strict=True))


@pytest.mark.parametrize(
    ("count", "containers", "sizes"),
    [(1, 1, [1]), (5, 2, [3, 2]), (7, 3, [3, 2, 2]), (6, 3, [2, 2, 2]), (3, 3, [1] * 3)],
)
def test_earlier_containers_take_the_extra_files(count: int, containers: int, sizes: list[int]) -> None:
    assert [len(r) for r in split_files(count, containers)] == sizes


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(n, 10_000), st.just(n))))
def test_a_split_is_an_ordered_and_even_partition(shape: tuple[int, int]) -> None:
    count, containers = shape
    parts = split_files(count, containers)
    assert len(parts) == containers
    assert [i for part in parts for i in part] == list(range(count))
    sizes = [len(p) for p in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) >= 1
