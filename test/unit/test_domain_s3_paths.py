from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdmtaskservice.domain.errors import IllegalS3PathError
from cdmtaskservice.domain.s3_paths import (
    bucket_and_key,
    check_input_root,
    check_output_dir,
    check_output_path,
    check_s3_path,
    is_under,
)

ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=60)
PATHISH = st.text(st.sampled_from("ab-./ ;'\n\x85é\ud800A"), max_size=20)


@pytest.mark.parametrize(
    "path",
    [
        "abc/k",
        "a-c/k",
        "0" * 63 + "/k",
        "bucket/a/b/c.fa",
        "bucket/dir/",
        "bucket/...",
        "bucket/.hidden/..x/x..",
        "bucket/trailing blank ",
        'bucket/quotes "and" $(blanks)\\ \u00a0é☃,*?',
        "bucket/" + "k" * 1024,
        "bucket/" + "é" * 512,
    ],
)
def test_legal_paths_stay_as_they_are(path: str) -> None:
    assert check_s3_path(path) == path


@pytest.mark.parametrize("blanks", [" ", "   ", "\t", "\n ", "\u3000"])
def test_leading_blanks_are_stripped_and_trailing_ones_are_data(blanks: str) -> None:
    assert check_s3_path(f"{blanks}bucket/ key ") == "bucket/ key "


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("/bucket/key", "starts with '/'"),
        ("bucket", "no key"),
        ("bucket/", "no key"),
        ("ab/k", "bucket 'ab'"),
        ("a" * 64 + "/k", "3-63"),
        ("Bucket/k", "bucket 'Bucket'"),
        ("my.bucket/k", "bucket 'my.bucket'"),
        ("my_bucket/k", "bucket"),
        ("-bucket/k", "bucket"),
        ("bucket-/k", "bucket"),
        ("bucket /k", "bucket"),
        ("bücket/k", "bucket"),
        ("bucket\n/k", "bucket"),
        ("bucket//k", "'//'"),
        ("bucket/a//k", "'//'"),
        ("bucket/k//", "'//'"),
        ("bucket/it's", "character '"),
        ("bucket/a;b", "character ;"),
        ("bucket/a\x00b", "control character (U+0000)"),
        ("bucket/a\n", "control character (U+000A)"),
        ("bucket/a\tb", "control character (U+0009)"),
        ("bucket/a\x7fb", "control character (U+007F)"),
        ("bucket/a\x85b", "control character (U+0085)"),
        ("bucket/a\ud800b", "not valid Unicode (U+D800)"),
        ("bucket/.", "'.' segment"),
        ("bucket/..", "'..' segment"),
        ("bucket/../k", "'..' segment"),
        ("bucket/a/./k", "'.' segment"),
        ("bucket/a/../k", "'..' segment"),
        ("bucket/a/..", "'..' segment"),
        ("bucket/" + "k" * 1025, "1025 bytes"),
        ("bucket/" + "é" * 513, "1026 bytes"),
    ],
)
def test_illegal_paths_are_refused_by_name(path: str, fault: str) -> None:
    with pytest.raises(IllegalS3PathError) as caught:
        check_s3_path(path)
    assert fault in caught.value.message


def test_messages_show_the_value_but_not_all_of_a_huge_one() -> None:
    with pytest.raises(IllegalS3PathError, match="'Bucket/key'"):
        check_s3_path("Bucket/key")
    with pytest.raises(IllegalS3PathError, match="1000000 characters") as caught:
        check_s3_path("B" * 1_000_000)
    assert len(caught.value.message) < 600


@given(ANY_TEXT | PATHISH | PATHISH.map("bucket/{}".format))
@example("bucket/\ud800")
@example("bucket/\udfff" * 500)
def test_any_text_is_a_legal_path_or_one_kind_of_error(text: str) -> None:
    try:
        path = check_s3_path(text)
    except IllegalS3PathError as e:
        e.message.encode()  # can be sent
        return
    assert check_s3_path(path) == path
    assert path == text.lstrip()
    bucket, key = bucket_and_key(path)
    assert f"{bucket}/{key}" == path
    assert 1 <= len(key.encode()) <= 1024
    assert not {"", ".", ".."} & set(key.removesuffix("/").split("/"))
    assert not set("';\n\x85") & set(key)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("bucket/prefix", "bucket/prefix/"),
        ("bucket/prefix/", "bucket/prefix/"),
        (" bucket/a/b", "bucket/a/b/"),
        ("bucket/blank ", "bucket/blank /"),
        ("bucket/" + "k" * 1023, "bucket/" + "k" * 1023 + "/"),
    ],
)
def test_output_dirs_are_stored_with_one_trailing_slash(text: str, stored: str) -> None:
    assert check_output_dir(text) == stored
    assert check_output_dir(stored) == stored


@pytest.mark.parametrize(
    "text",
    ["", "bucket", "bucket/", "bucket//", "bucket/a//", "/bucket/a", "bucket/..", "bucket/" + "k" * 1024, "B/a"],
)
def test_output_dirs_that_are_no_prefix_are_refused(text: str) -> None:
    with pytest.raises(IllegalS3PathError):
        check_output_dir(text)


@given(ANY_TEXT | PATHISH.map("bucket/{}".format))
def test_output_dirs_of_any_text(text: str) -> None:
    try:
        path = check_output_dir(text)
    except IllegalS3PathError:
        return
    assert path.endswith("/")
    assert not path.endswith("//")
    assert check_output_dir(path) == path == check_s3_path(path)


@pytest.mark.parametrize("root", ["", "bucket", "bucket/", "bucket/a", "bucket/a/b/"])
def test_input_roots_are_prefixes_or_nothing(root: str) -> None:
    assert check_input_root(root) == root
    assert check_input_root(f"  {root}") == root


@pytest.mark.parametrize("root", ["/", "B", "ab", "bucket//", "bucket/..", "bucket/a;"])
def test_input_roots_that_are_no_prefix_are_refused(root: str) -> None:
    with pytest.raises(IllegalS3PathError):
        check_input_root(root)


@pytest.mark.parametrize(
    ("path", "allowed", "expected"),
    [
        ("cts/io/a/x", "cts/io/a", True),
        ("cts/io/a/x", "cts/io/a/", True),
        ("cts/io/ab/x", "cts/io/a", False),
        ("cts/io/ab/x", "cts/io/a/", False),
        ("cts/io/a", "cts/io/a", True),
        ("cts/io/a", "cts/io/a/", False),
        ("cts/io/a/", "cts/io/a/", True),
        ("cts/x", "cts", True),
        ("cts/x", "cts/", True),
        ("cts2/x", "cts", False),
        ("cts2/x", "cts/", False),
        ("cts/io", "cts/io/a", False),
        ("cts/x", "", False),
        ("cts/x", "/", False),
    ],
)
def test_is_under_goes_by_segments(path: str, allowed: str, expected: bool) -> None:
    assert is_under(path, allowed) is expected


@pytest.mark.parametrize("path", ["out.txt", "a/b/c", " leading", "trailing ", "...", "a b\"c$'".replace("'", "")])
def test_paths_that_containers_may_write(path: str) -> None:
    assert check_output_path(path) == path


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "does not name a file"),
        ("/", "does not name a file"),
        ("dir/", "does not name a file"),
        ("/etc/passwd", "absolute"),
        ("../x", "'..' segment"),
        ("a/../../x", "'..' segment"),
        ("a/./x", "'.' segment"),
        ("a//x", "'//'"),
        ("it's", "character '"),
        ("a;b", "character ;"),
        ("a\nb", "control character"),
        ("a\udc80", "not valid Unicode"),
        ("k" * 1025, "1025 bytes"),
    ],
)
def test_paths_that_containers_may_not_write(path: str, fault: str) -> None:
    with pytest.raises(IllegalS3PathError) as caught:
        check_output_path(path)
    assert fault in caught.value.message


@given(ANY_TEXT | PATHISH)
def test_legal_output_paths_are_tails_of_keys(text: str) -> None:
    try:
        path = check_output_path(text)
    except IllegalS3PathError:
        return
    assert check_s3_path(f"bucket/{path}") == f"bucket/{path}"
