import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdmtaskservice.domain.errors import ImageNameParseError
from cdmtaskservice.registry.names import MAX_NAME_LENGTH, ImageName

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "name", "tag", "digest"),
    [
        ("busybox", "docker.io/library/busybox", "latest", None),
        ("busybox:1.36", "docker.io/library/busybox", "1.36", None),
        ("biocontainers/x:1", "docker.io/biocontainers/x", "1", None),
        ("docker.io/busybox", "docker.io/library/busybox", "latest", None),
        ("index.docker.io/busybox", "docker.io/library/busybox", "latest", None),
        ("index.docker.io/a/b", "docker.io/a/b", "latest", None),
        ("Docker.IO/a/b", "docker.io/a/b", "latest", None),
        ("ghcr.example/a/b/c:T_a-g.1", "ghcr.example/a/b/c", "T_a-g.1", None),
        ("GHCR.example:8080/a", "ghcr.example:8080/a", "latest", None),
        ("host.example/a", "host.example/a", "latest", None),
        ("localhost/a", "localhost/a", "latest", None),
        ("localhost:5000/a:b", "localhost:5000/a", "b", None),
        ("localhost:5000", "docker.io/library/localhost", "5000", None),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b", "latest", None),
        ("[::1]:5000/a", "[::1]:5000/a", "latest", None),
        ("[FE80::1]/a", "[fe80::1]/a", "latest", None),
        ("a.b", "docker.io/library/a.b", "latest", None),
        ("nodot/a", "docker.io/nodot/a", "latest", None),
        (f"a/b@{DIGEST}", "docker.io/a/b", None, DIGEST),
        (f"x.example/b:1@{DIGEST}", "x.example/b", "1", DIGEST),
        ("a__b/c-d--e.f_g", "docker.io/a__b/c-d--e.f_g", "latest", None),
        ("x:" + "t" * 128, "docker.io/library/x", "t" * 128, None),
        ("x.example/" + "a" * 255, "x.example/" + "a" * 255, "latest", None),
        (f"docker.io/library/{HEX}", f"docker.io/library/{HEX}", "latest", None),
    ],
)
def test_names_are_read_and_normalized(text: str, name: str, tag: str | None, digest: str | None) -> None:
    read = ImageName.parse(text)
    assert read == ImageName(name, tag, digest)
    assert ImageName.parse(str(read)) == read
    assert f"{read.host}/{read.path}" == name


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "may not be empty"),
        (" ", "the part ' ' of its path is not of a-z"),
        ("x" * (MAX_NAME_LENGTH + 1), "has 1001 characters, at most 1000"),
        ("a b", "the part 'a b'"),
        ("busybox ", "the part 'busybox '"),
        ("a\n", r"the part 'a\n'"),
        ("a:b\n", r"the tag 'b\n'"),
        (f"a@{DIGEST}\n", "the digest"),
        ("Busybox", "the part 'Busybox' of its path must be lower case"),
        ("Foo/bar", "the part 'Foo' of its path must be lower case"),
        ("LOCALHOST/a", "the part 'LOCALHOST' of its path must be lower case"),
        ("x.example/", "a part of its path is empty"),
        ("x.example//a", "a part of its path is empty"),
        ("/a", "a part of its path is empty"),
        ("a/", "a part of its path is empty"),
        (":1", "a part of its path is empty"),
        (f"@{DIGEST}", "a part of its path is empty"),
        ("a:", "the tag ''"),
        ("a:.b", "the tag '.b'"),
        ("a:-b", "the tag '-b'"),
        ("a:b:c", "the part 'a:b' of its path"),
        ("a:" + "t" * 129, "is not 1 to 128 of"),
        ("a:\u00e4", r"the tag '\xe4'"),
        ("a:\u0661", "the tag "),
        ("\u00e4", r"the part '\xe4'"),
        ("a@", "the digest ''"),
        ("a@sha256:abc", "the digest 'sha256:abc' is not 'sha256:' followed by 64"),
        (f"a@sha256:{HEX.upper()}", "the digest"),
        (f"a@sha512:{HEX * 2}", "the digest"),
        (f"a@{DIGEST}@{DIGEST}", "the digest"),
        (f"a@{DIGEST}:tag", "the digest"),
        ("-a", "the part '-a'"),
        ("--help", "the part '--help'"),
        ("a..b", "the part 'a..b'"),
        ("a___b", "the part 'a___b'"),
        ("a._b", "the part 'a._b'"),
        ("../x", "'..' is not a host name"),
        ("x.example/../y", "the part '..'"),
        ("-x.example/a", "'-x.example' is not a host name"),
        ("x..example/a", "'x..example' is not a host name"),
        ("x.example:/a", "the port ''"),
        ("x.example:0/a", "the port '0'"),
        ("x.example:65536/a", "the port '65536'"),
        ("x.example:http/a", "the port 'http'"),
        ("x.example:\u0661/a", "the port "),
        ("x.example:" + "9" * 500 + "/a", "the port "),
        (":5000/a", "'' is not a host name"),
        ("[::1", "the part '[:'"),
        ("[::g]:5/a", "'[::g]' is not a host name"),
        ("[1:2:3]:5/a", "'[1:2:3]' is not a host name"),
        ("::1/a", "is not a host name"),
        ("http://x.example/a", "it is written without 'http://'"),
        ("oci://x.example/a:1", "it is written without 'oci://'"),
        (("a" * 60 + ".") * 5 + "example/a", "its host has "),
        ("x.example/" + "a" * 256, "its path has 256 characters, at most 255"),
        ("a/" * 130 + "b", "its path has 261 characters"),
        ("b" * 250, "its path has 258 characters"),
        (HEX, "64 hex digits are an image's ID"),
    ],
)
def test_faults_are_named_with_the_value(text: str, fault: str) -> None:
    with pytest.raises(ImageNameParseError, match=re.escape(fault)) as e:
        ImageName.parse(text)
    assert not text or ascii(text[:200])[:-1] in e.value.message
    assert len(e.value.message) < 1500
    assert e.value.message.isprintable()


def _joined(segments: list[str]) -> str:
    return "/".join(segments)


SEGMENTS = st.from_regex(r"[a-z0-9]{1,5}(?:(?:[._]|__|-{1,3})[a-z0-9]{1,5}){0,3}", fullmatch=True)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=5).map(_joined)
HOSTS = st.sampled_from(
    [
        "plain/",
        "docker.io/",
        "index.docker.io/",
        "localhost/",
        "localhost:5000/",
        "A.example/",
        "10.0.0.1:80/",
        "[::1]:5/",
    ]
)
TAGS = st.just("") | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True).map(lambda t: ":" + t)
DIGESTS = st.just("") | st.from_regex(r"@sha256:[0-9a-f]{64}", fullmatch=True)
NAMES = st.tuples(HOSTS, PATHS, TAGS, DIGESTS).map("".join)


@settings(deadline=None)
@given(NAMES)
def test_every_name_of_the_grammar_is_read_and_read_back(text: str) -> None:
    read = ImageName.parse(text)
    assert ImageName.parse(str(read)) == read
    assert read.tag or read.digest
    assert len(str(read)) <= MAX_NAME_LENGTH
    assert str(read)[0] != "-"


ODD = st.text(alphabet="aA0.-_:/@[] \n\u00e9sha256", max_size=60)


@settings(deadline=None)
@given(st.text() | ODD | st.tuples(ODD, NAMES, ODD).map("".join) | st.text(min_size=990, max_size=1010))
@example("\ud800")
@example("a:\ud800/\x00@")
def test_any_text_is_a_name_or_the_one_error(text: str) -> None:
    try:
        read = ImageName.parse(text)
    except ImageNameParseError:
        return
    assert ImageName.parse(str(read)) == read
    assert re.fullmatch(r"[a-z0-9\[][A-Za-z0-9._:/@\[\]-]*", str(read))
