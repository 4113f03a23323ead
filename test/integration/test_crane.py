"""Crane against a real registry, and against servers that fail in every way that a registry can."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.server
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdmtaskservice.domain.errors import ImageFetchError, ImageNameParseError, ImageNoEntrypointError
from cdmtaskservice.embedded.image import ImageSpec, Pushed, build_image, push, push_index
from cdmtaskservice.embedded.stack import EmbeddedStack
from cdmtaskservice.registry.crane import Crane, ImageFacts
from cdmtaskservice.registry.names import ImageName

NOWHERE = "sha256:" + "0" * 64


def spec(start: str = "/bin/x", architecture: str = "amd64") -> ImageSpec:
    return ImageSpec(entrypoint=(start, "-a b", ""), command=("c",), architecture=architecture)


@pytest.fixture(scope="module")
def image(stack: EmbeddedStack) -> Pushed:
    return push(stack.registry, "crane/good", "1", build_image(spec()))


@pytest.fixture
def crane(stack: EmbeddedStack) -> Crane:
    return Crane(stack.crane, timeout=20)


async def test_crane_is_there(crane: Crane) -> None:
    await crane.check()


async def test_a_tag_gives_digest_and_entrypoint(crane: Crane, image: Pushed) -> None:
    facts = await crane.resolve(ImageName.parse(image.by_tag))
    assert facts == ImageFacts(image.name, image.digest, "1", ("/bin/x", "-a b", ""))


async def test_a_digest_alone_gives_no_tag(crane: Crane, image: Pushed) -> None:
    facts = await crane.resolve(ImageName.parse(image.by_digest))
    assert (facts.digest, facts.tag) == (image.digest, None)


async def test_a_tag_that_points_to_the_digest_is_kept(crane: Crane, image: Pushed) -> None:
    facts = await crane.resolve(ImageName.parse(f"{image.by_tag}@{image.digest}"))
    assert (facts.digest, facts.tag) == (image.digest, "1")


async def test_a_tag_that_points_elsewhere_says_where(crane: Crane, stack: EmbeddedStack) -> None:
    old = push(stack.registry, "crane/moving", "1", build_image(spec("/bin/old")))
    new = push(stack.registry, "crane/moving", "1", build_image(spec("/bin/new")))
    with pytest.raises(ImageFetchError, match=f"points to {new.digest} now, not to {old.digest}"):
        await crane.resolve(ImageName.parse(f"{old.by_tag}@{old.digest}"))
    assert (await crane.resolve(ImageName.parse(old.by_digest))).entrypoint[0] == "/bin/old"


async def test_no_tag_and_no_digest_is_latest(crane: Crane, stack: EmbeddedStack) -> None:
    latest = push(stack.registry, "crane/unnamed", "latest", build_image(spec()))
    facts = await crane.resolve(ImageName.parse(latest.name))
    assert (facts.digest, facts.tag) == (latest.digest, "latest")


async def test_of_an_index_its_own_digest_is_kept(crane: Crane, stack: EmbeddedStack) -> None:
    members = [build_image(spec("/bin/arm", "arm64")), build_image(spec("/bin/amd"))]
    index = push_index(stack.registry, "crane/index", "1", members)
    for text in (index.by_tag, index.by_digest, f"{index.by_tag}@{index.digest}"):
        facts = await crane.resolve(ImageName.parse(text))
        assert facts.digest == index.digest
        assert facts.entrypoint[0] == "/bin/amd"
    with pytest.raises(ImageFetchError, match=f"points to {index.digest} now"):
        await crane.resolve(ImageName.parse(f"{index.by_tag}@{members[1].digest}"))


@pytest.mark.parametrize("entrypoint", [None, (), ("",)])
async def test_an_image_without_entrypoint_says_how_to_mend_it(
    crane: Crane, stack: EmbeddedStack, entrypoint: tuple[str, ...] | None
) -> None:
    plain = push(
        stack.registry, "crane/plain", "1", build_image(ImageSpec(entrypoint=entrypoint, architecture="amd64"))
    )
    with pytest.raises(ImageNoEntrypointError, match="Add ENTRYPOINT") as e:
        await crane.resolve(ImageName.parse(plain.by_tag))
    assert plain.by_tag in e.value.message


async def test_images_of_other_platforms_are_told_apart(crane: Crane, stack: EmbeddedStack) -> None:
    arm = build_image(spec(architecture="arm64"))
    single = push(stack.registry, "crane/arm", "1", arm)
    with pytest.raises(ImageFetchError, match="is for linux/arm64 only; build it for linux/amd64"):
        await crane.resolve(ImageName.parse(single.by_tag))
    index = push_index(stack.registry, "crane/armindex", "1", [arm])
    with pytest.raises(ImageFetchError, match="has no variant for linux/amd64"):
        await crane.resolve(ImageName.parse(index.by_tag))


@pytest.mark.parametrize(
    "rest", ["crane/good:nope", "crane/nope:1", f"crane/good@{NOWHERE}", f"crane/good:1@{NOWHERE}"]
)
async def test_unknown_images_are_named(crane: Crane, stack: EmbeddedStack, image: Pushed, rest: str) -> None:
    with pytest.raises(ImageFetchError, match="There is no image") as e:
        await crane.resolve(ImageName.parse(f"{stack.registry}/{rest}"))
    assert f"{stack.registry}/crane" in e.value.message


async def test_an_unknown_tag_beside_a_good_digest_is_named(crane: Crane, image: Pushed) -> None:
    with pytest.raises(ImageFetchError, match=r"There is no image .*:nope"):
        await crane.resolve(ImageName.parse(f"{image.name}:nope@{image.digest}"))


async def test_an_unknown_host_is_said_to_be(crane: Crane) -> None:
    with pytest.raises(ImageFetchError, match=r"registry host registry.invalid of image .* is not known"):
        await crane.resolve(ImageName.parse("registry.invalid/x/y:1"))


async def test_a_refused_connection_is_said_to_be(crane: Crane) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(ImageFetchError, match=f"The registry 127.0.0.1:{port} of image .* refuses connections"):
            await crane.resolve(ImageName.parse(f"127.0.0.1:{port}/x/y:1"))


async def test_a_registry_that_is_down_is_said_to_be(crane: Crane, stack: EmbeddedStack, image: Pushed) -> None:
    stack.image_registry.kill()
    with pytest.raises(ImageFetchError, match="refuses connections"):
        await crane.resolve(ImageName.parse(image.by_tag))
    stack.restore()
    assert (await crane.resolve(ImageName.parse(image.by_tag))).digest == image.digest


async def test_a_server_that_accepts_and_never_answers_is_given_up(stack: EmbeddedStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(ImageFetchError, match=f"127.0.0.1:{port} did not answer within 0.5 s .* for image"):
            await Crane(stack.crane, timeout=0.5).resolve(ImageName.parse(f"127.0.0.1:{port}/x/y:1"))
        assert time.monotonic() - start < 5


async def test_plain_http_needs_leave_for_other_hosts_than_loopback(stack: EmbeddedStack, image: Pushed) -> None:
    # An address of this machine that crane does not count as one, so that it insists on HTTPS.
    host = f"0.0.0.0:{stack.image_registry.port}"
    name = ImageName.parse(image.by_tag.replace(stack.registry, host))
    with pytest.raises(ImageFetchError, match="speaks plain HTTP only"):
        await Crane(stack.crane).resolve(name)
    assert (await Crane(stack.crane, insecure_hosts=[host]).resolve(name)).digest == image.digest
    with pytest.raises(ImageFetchError, match="speaks plain HTTP only"):
        await Crane(stack.crane, insecure_hosts=["other.example"]).resolve(name)


@contextlib.contextmanager
def answering(
    status: int, body: bytes = b"", *, tls: ssl.SSLContext | None = None, credentials: str | None = None
) -> Iterator[str]:
    """A server that answers all requests for manifests so; with `credentials` only to who brings them. Its host."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            code, content = (200, b"{}") if self.path == "/v2/" else (status, body)
            sent = self.headers.get("Authorization")
            refused = credentials is not None and sent != "Basic " + base64.b64encode(credentials.encode()).decode()
            if refused:
                code, content = 401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}'
            self.send_response(code)
            if refused:
                self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that breaks off the handshake is what the test wants."""

        def get_request(self) -> tuple[socket.socket, object]:
            connection, address = super().get_request()
            connection.settimeout(5)
            return connection, address

    server = Server(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refusal(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": "so it is"}]}).encode()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, refusal("UNAUTHORIZED"), "give the service credentials"),
        (401, b"", "give the service credentials"),
        (403, refusal("DENIED"), "give the service credentials"),
        (404, refusal("NAME_UNKNOWN"), "There is no image"),
        (404, b"no", "There is no image"),
        (429, refusal("TOOMANYREQUESTS"), "asked too often"),
        (501, b"", "fails when asked"),
        (200, b"<html>", "did not give image"),
        (200, b"{}", "is not that of a container image|did not give image"),
    ],
)
async def test_what_a_registry_may_answer(crane: Crane, status: int, body: bytes, words: str) -> None:
    with answering(status, body) as host:
        for rest in ("x/y:1", f"x/y@{NOWHERE}"):
            name = ImageName.parse(f"{host}/{rest}")
            with pytest.raises(ImageFetchError, match=words) as e:
                await crane.resolve(name)
            assert f"{host}/x/y" in e.value.message


async def test_credentials_are_taken_from_the_docker_configuration(stack: EmbeddedStack, tmp_path: Path) -> None:
    with answering(404, refusal("NAME_UNKNOWN"), credentials="cts:pass") as host:
        name = ImageName.parse(f"{host}/x/y:1")
        home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        with pytest.raises(ImageFetchError, match="it is private, or does not exist"):
            await Crane(stack.crane, environment=home).resolve(name)
        auth = base64.b64encode(b"cts:pass").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
        with pytest.raises(ImageFetchError, match="There is no image"):
            await Crane(stack.crane, environment=home | {"DOCKER_CONFIG": str(tmp_path)}).resolve(name)


async def test_a_certificate_that_nobody_vouches_for_is_said_to_be(stack: EmbeddedStack, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = ["-nodes", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", *options, *files]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with answering(404, refusal("NAME_UNKNOWN"), tls=context) as host:
        name = ImageName.parse(f"{host}/x/y@{NOWHERE}")
        with pytest.raises(ImageFetchError, match=r"The certificate of the registry .* is not trusted"):
            await Crane(stack.crane).resolve(name)
        with pytest.raises(ImageFetchError, match="There is no image"):
            await Crane(stack.crane, insecure_hosts=[host]).resolve(name)
        trusting = {"PATH": "/usr/bin:/bin", "SSL_CERT_FILE": str(certificate)}
        with pytest.raises(ImageFetchError, match="There is no image"):
            await Crane(stack.crane, environment=trusting).resolve(name)


async def test_a_name_that_crane_does_not_take_is_a_parse_error(crane: Crane) -> None:
    # Such a name does not come out of ImageName.parse.
    with pytest.raises(ImageNameParseError, match="is not taken by crane"):
        await crane.resolve(ImageName("Bad Name", "1"))


async def test_many_lookups_at_once(crane: Crane, image: Pushed) -> None:
    names = [ImageName.parse(image.by_tag)] * 20
    facts = await asyncio.gather(*(crane.resolve(name) for name in names))
    assert {f.digest for f in facts} == {image.digest}
