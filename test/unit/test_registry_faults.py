"""The texts are what crane 0.20.7 printed against real registries and small servers."""

import pytest

from cdmtaskservice.domain.errors import CTSError, ImageFetchError, ImageNameParseError
from cdmtaskservice.registry.faults import crane_fault, error_line
from cdmtaskservice.registry.names import ImageName

NAME = ImageName.parse("r.example:5000/x/y:1")
HEAD = "2030/01/01 00:00:00 HEAD request failed, falling back on GET: whatever\n"
GET = "GET http://r.example:5000/v2/x/y/manifests/1: "
NO_TLS = 'Get "https://r.example:5000/v2/": tls: first record does not look like a TLS handshake; '


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (f"{GET}MANIFEST_UNKNOWN: manifest unknown; map[Tag:1]", ImageFetchError, "There is no image"),
        (f"{GET}NAME_UNKNOWN: repository name not known to registry", ImageFetchError, "There is no image"),
        (f"{GET}unexpected status code 404 Not Found: nope", ImageFetchError, "There is no image"),
        (f"{GET}UNAUTHORIZED: authentication required", ImageFetchError, "give the service credentials"),
        (f"{GET}DENIED: requested access to the resource is denied", ImageFetchError, "give the service credentials"),
        (f"{GET}unexpected status code 401 Unauthorized", ImageFetchError, "give the service credentials"),
        (f"{GET}unexpected status code 403 Forbidden", ImageFetchError, "give the service credentials"),
        (f"{NO_TLS}GET http://r.example:5000/v2/: TOOMANYREQUESTS: slow down", ImageFetchError, "asked too often"),
        (f"{GET}unexpected status code 429 Too Many Requests", ImageFetchError, "asked too often"),
        (
            'Get "https://r.example:5000/v2/": dial tcp: lookup r.example on 10.0.0.1:53: no such host',
            ImageFetchError,
            "is not known; check its spelling",
        ),
        (
            'Get "https://r.example:5000/v2/": dial tcp 10.0.0.1:5000: connect: connection refused',
            ImageFetchError,
            "refuses connections",
        ),
        (
            'Get "https://r.example:5000/v2/": tls: failed to verify certificate: x509: certificate signed by unknown'
            " authority",
            ImageFetchError,
            "is not trusted",
        ),
        ('Get "https://r.example:5000/v2/": dial tcp 10.0.0.1:5000: i/o timeout', ImageFetchError, "cannot be reached"),
        ('Get "https://r.example:5000/v2/": net/http: TLS handshake timeout', ImageFetchError, "cannot be reached"),
        (
            f"{NO_TLS}GET http://r.example:5000/v2/: unexpected status code 503 Service Unavailable",
            ImageFetchError,
            "fails when asked",
        ),
        (
            'Get "https://r.example:5000/v2/": http: server gave HTTP response to HTTPS client',
            ImageFetchError,
            "speaks plain HTTP only",
        ),
        (f'{NO_TLS}Get "http://r.example:5000/v2/": EOF', ImageFetchError, "does not speak as a registry does"),
        ('parsing reference "x": could not parse reference: x', ImageNameParseError, "is not taken by crane"),
        (
            'fetching config: reading image "x": no child with platform linux/amd64 in index x',
            ImageFetchError,
            "no variant for linux/amd64",
        ),
        (
            "fetching config: invalid character '<' looking for beginning of value",
            ImageFetchError,
            "did not give image r.example:5000/x/y:1: fetching config: invalid character",
        ),
    ],
)
def test_each_text_has_its_own_message_with_image_and_remedy(text: str, kind: type[CTSError], words: str) -> None:
    fault = crane_fault(NAME, f"{HEAD}Error: {text}\n")
    assert type(fault) is kind
    assert words in fault.message
    assert str(NAME) in fault.message


@pytest.mark.parametrize("tag", ["UNAUTHORIZED", "DENIED", "x509", "TOOMANYREQUESTS", "certificate", "EOF"])
def test_names_that_look_like_faults_are_not_taken_for_them(tag: str) -> None:
    name = ImageName.parse(f"r.example/certificate/x509:{tag}")
    text = f"Error: GET https://r.example/v2/certificate/x509/manifests/{tag}: MANIFEST_UNKNOWN: manifest unknown"
    assert "There is no image" in crane_fault(name, text).message
    text = f'Error: fetching config: reading image "{name}": something new'
    assert "did not give image" in crane_fault(name, text).message


def test_long_names_do_not_hide_the_fault() -> None:
    name = ImageName.parse("r.example/" + "a" * 255 + ":" + "t" * 128)
    url = f"https://r.example/v2/{name.path}/manifests/{name.tag}"
    fault = crane_fault(name, f'Error: fetching config: reading image "{name}": GET {url}: UNAUTHORIZED: no')
    assert "give the service credentials" in fault.message


def test_braces_in_what_the_registry_says_are_just_text() -> None:
    assert "{0.x}" in crane_fault(NAME, "Error: x509: {0.x} {").message


def test_the_line_that_counts_is_the_last_error() -> None:
    assert error_line(f"{HEAD}Error: first\nnoise\nError: second\nUsage:\n") == "second"
    assert error_line("panic: one\n\ngoroutine 1\n") == "goroutine 1"
    assert error_line("") == "crane failed without a word"
    assert error_line("Error: a\x1b[31mb\x00") == "a [31mb "
    assert len(error_line("Error: " + "x" * 10_000)) < 600
