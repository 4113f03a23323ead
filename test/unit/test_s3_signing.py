"""Our signatures against botocore's, over any path, header and time."""

from __future__ import annotations

import calendar
import datetime
import time
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from cdmtaskservice.domain.errors import IllegalS3PathError
from cdmtaskservice.s3.client import S3Client
from cdmtaskservice.s3.model import S3Config, split_path
from cdmtaskservice.s3.signing import (
    MAX_EXPIRES,
    Endpoint,
    Signer,
    encode_path,
    encode_query,
)

ACCESS, SECRET, REGION = "an-access-key", "a/secret+key", "eu-central-1"
ENDPOINT = Endpoint("https://s3.example.org:9000")

# Any UTF-8: the one thing that no UTF-8 holds is a lone surrogate.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
paths = st.builds("bucket/{}".format, texts)
tokens = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
headers_of_calls = st.dictionaries(st.builds("x-amz-{}".format, tokens), tokens, max_size=3)
queries = st.lists(st.tuples(tokens, texts), max_size=3, unique_by=lambda pair: pair[0]).map(tuple)
moments = st.integers(0, calendar.timegm((2100, 1, 1, 0, 0, 0)))


def _signer(moment: float) -> Signer:
    return Signer(ACCESS, SecretStr(SECRET), REGION, lambda: moment)


def _at(moment: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC)


@settings(deadline=None)
@example(path="b/k", query=(("a0", "1"), ("a", "2")), headers={}, moment=0, expires=1)
@given(path=paths, query=queries, headers=headers_of_calls, moment=moments, expires=st.integers(1, MAX_EXPIRES))
def test_urls_are_presigned_as_botocore_presigns_them(
    path: str, query: tuple[tuple[str, str], ...], headers: dict[str, str], moment: int, expires: int
) -> None:
    ours = _signer(moment).presign("PUT", ENDPOINT, encode_path(path), query, headers, expires)

    url = f"{ENDPOINT.base}{encode_path(path)}" + (f"?{encode_query(query)}" if query else "")
    request = AWSRequest("PUT", url, headers=headers)
    with patch("botocore.auth.get_current_datetime", lambda: _at(moment)):
        S3SigV4QueryAuth(Credentials(ACCESS, SECRET), "s3", REGION, expires).add_auth(request)

    assert urlsplit(ours).path == urlsplit(request.url).path
    assert parse_qs(urlsplit(ours).query, strict_parsing=True) == parse_qs(
        urlsplit(request.url).query, strict_parsing=True
    )


def test_key_and_stamp_follow_the_clock_over_midnight() -> None:
    moment = calendar.timegm((2030, 1, 1, 23, 59, 59))
    signer = Signer(ACCESS, SecretStr(SECRET), REGION, lambda: moment)

    def sign(by: Signer) -> str:
        return by.presign("GET", ENDPOINT, "/b/k", (), {}, 60)

    before = sign(signer)
    moment += 1
    assert "%2F20300102%2F" in sign(signer)
    assert sign(signer) == sign(_signer(moment)) != before


@pytest.mark.parametrize("expires", [0, -1, MAX_EXPIRES + 1])
def test_a_validity_that_no_store_accepts(expires: int) -> None:
    with pytest.raises(ValueError, match="604800 s, not"):
        _signer(time.time()).presign("GET", ENDPOINT, "/b/k", (), {}, expires)


@pytest.mark.parametrize(
    ("address", "base", "host"),
    [
        ("http://s3.example.org", "http://s3.example.org", "s3.example.org"),
        ("http://s3.example.org:80/", "http://s3.example.org", "s3.example.org"),
        ("https://S3.Example.org:443", "https://s3.example.org", "s3.example.org"),
        ("https://s3.example.org:80", "https://s3.example.org:80", "s3.example.org:80"),
        ("http://[::1]:9000", "http://[::1]:9000", "[::1]:9000"),
    ],
)
def test_endpoint_is_written_as_http_clients_write_it(address: str, base: str, host: str) -> None:
    endpoint = Endpoint(address)
    assert (endpoint.base, endpoint.host) == (base, host)


@pytest.mark.parametrize(
    "address",
    ["", "s3.example.org", "ftp://h", "http://", "http://u:p@h", "http://h/prefix", "http://h?a=b", "http://h:x"],
)
def test_no_endpoint(address: str) -> None:
    with pytest.raises(ValueError, match=r"S3 endpoint|Port"):
        Endpoint(address)


def test_presigned_urls_bear_the_external_address() -> None:
    config = S3Config("http://inside:9000", ACCESS, SecretStr(SECRET), external_endpoint="https://outside")
    client = S3Client.create(config)
    assert client.presign_get("b/k", 60).startswith("https://outside/b/k?")
    assert client.presign_put("b/k", 0, "AAAAAAAAAAA=", 60).url.startswith("https://outside/b/k?")


def test_secrets_are_not_shown() -> None:
    config = S3Config("http://inside:9000", ACCESS, SecretStr(SECRET))
    assert SECRET not in repr(config)
    assert SECRET not in S3Client.create(config).presign_get("b/k", 60)


@pytest.mark.parametrize("path", ["", "/", "bucket", "bucket/", "/key"])
def test_a_path_that_would_address_the_bucket(path: str) -> None:
    client = S3Client.create(S3Config("http://inside:9000", ACCESS, SecretStr(SECRET)))
    with pytest.raises(IllegalS3PathError, match="bucket/key"):
        client.presign_get(path, 60)


def test_only_the_first_slash_parts_bucket_from_key() -> None:
    assert split_path("bucket/a//b/") == ("bucket", "a//b/")
