"""The KBase authenticator against a real HTTP server that answers as KBase auth2 does."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from cdmtaskservice.auth.base import Authenticator
from cdmtaskservice.auth.kbase import KBaseAuthenticator, KBaseAuthOptions
from cdmtaskservice.auth.principal import Principal
from cdmtaskservice.domain.errors import DependencyUnavailableError, InvalidTokenError, InvalidUserError
from test.stand_ins.kbase_auth import KBaseAuthStandIn

ALICE = "ALICETOKENALICETOKENALICETOKEN22"
ME = "/api/V2/me"
USERS = "/api/V2/users/"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server() -> Iterator[KBaseAuthStandIn]:
    with KBaseAuthStandIn() as stand_in:
        yield stand_in


@pytest.fixture
def stand_in(server: KBaseAuthStandIn) -> KBaseAuthStandIn:
    server.reset()
    server.add_user("alice", ALICE, ["KBASE_STAFF", "HAS_NERSC_ACCOUNT"])
    return server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def auth(stand_in: KBaseAuthStandIn, clock: Clock) -> AsyncIterator[KBaseAuthenticator]:
    options = KBaseAuthOptions(timeout=2.0, attempts=3, backoff=0.001, cache_time=10.0, cache_size=3)
    async with KBaseAuthenticator(stand_in.url, options, clock) as authenticator:
        yield authenticator


async def test_it_is_an_authenticator(auth: KBaseAuthenticator) -> None:
    protocol: Authenticator = auth
    await protocol.check()


async def test_a_known_token_gives_user_and_roles(auth: KBaseAuthenticator) -> None:
    assert await auth.authenticate(ALICE) == Principal("alice", frozenset({"KBASE_STAFF", "HAS_NERSC_ACCOUNT"}))


async def test_an_unknown_token_is_invalid_and_not_repeated(auth: KBaseAuthenticator) -> None:
    with pytest.raises(InvalidTokenError) as e:
        await auth.authenticate("SECRETTHATNOBODYHAS")
    assert "SECRETTHATNOBODYHAS" not in e.value.message
    assert len(e.value.message) < 100


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "caf\u00e9", "\ud800", "x" * 5000, "\x00"])
async def test_what_can_be_no_token_is_not_asked_for(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn, token: str
) -> None:
    with pytest.raises(InvalidTokenError):
        await auth.authenticate(token)
    assert not stand_in.calls


async def test_invalid_by_error_code_whatever_the_status(
    auth: KBaseAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "test.stand_ins.kbase_auth._error", lambda *_: (500, {"error": {"httpcode": 500, "appcode": 10020}})
    )
    with pytest.raises(InvalidTokenError):
        await auth.authenticate("NOPE")


async def test_a_401_without_kbase_body_is_invalid(auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn) -> None:
    stand_in.fail_status = 401
    with pytest.raises(InvalidTokenError):
        await auth.authenticate(ALICE)
    assert stand_in.calls[ME] == 1


async def test_good_answers_are_remembered_and_expire(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn, clock: Clock
) -> None:
    for _ in range(5):
        await auth.authenticate(ALICE)
    assert stand_in.calls[ME] == 1
    stand_in.revoke(ALICE)
    clock.now += 9.9
    await auth.authenticate(ALICE)
    clock.now += 0.2
    with pytest.raises(InvalidTokenError):
        await auth.authenticate(ALICE)
    assert stand_in.calls[ME] == 2


async def test_bad_answers_are_remembered_and_expire(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn, clock: Clock
) -> None:
    for _ in range(5):
        with pytest.raises(InvalidTokenError):
            await auth.authenticate("BOBTOKEN")
    assert stand_in.calls[ME] == 1
    stand_in.add_user("bob", "BOBTOKEN")
    clock.now += 10.1
    assert (await auth.authenticate("BOBTOKEN")).user == "bob"


async def test_the_memory_is_bounded_and_bad_tokens_do_not_push_out_good_ones(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn
) -> None:
    await auth.authenticate(ALICE)
    for i in range(10):
        with pytest.raises(InvalidTokenError):
            await auth.authenticate(f"BAD{i}")
    assert stand_in.calls[ME] == 11
    await auth.authenticate(ALICE)
    assert stand_in.calls[ME] == 11
    with pytest.raises(InvalidTokenError):
        await auth.authenticate("BAD9")
    assert stand_in.calls[ME] == 11
    with pytest.raises(InvalidTokenError):
        await auth.authenticate("BAD0")
    assert stand_in.calls[ME] == 12


async def test_concurrent_lookups_of_a_token_share_one_call(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn
) -> None:
    stand_in.latency = 0.2
    found = await asyncio.gather(*(auth.authenticate(ALICE) for _ in range(200)))
    assert {p.user for p in found} == {"alice"}
    assert stand_in.calls[ME] == 1


async def test_one_that_gives_up_does_not_take_the_answer_from_the_others(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn
) -> None:
    stand_in.latency = 0.2
    first = asyncio.create_task(auth.authenticate(ALICE))
    second = asyncio.create_task(auth.authenticate(ALICE))
    await _until(lambda: stand_in.calls[ME] == 1)
    first.cancel()
    assert (await second).user == "alice"
    with pytest.raises(asyncio.CancelledError):
        await first
    assert stand_in.calls[ME] == 1


async def test_no_token_is_kept_in_plain_text(auth: KBaseAuthenticator) -> None:
    token = "".join(["PLAINTEXT", "TOKEN", "THAT", "MUST", "NOT", "STAY"])
    with pytest.raises(InvalidTokenError):
        await auth.authenticate(token)
    keys = [k for answers in auth._tokens._kept.values() for k in answers]
    assert len(keys) == 1
    assert token.encode() not in keys[0]
    gc.collect()
    assert token not in repr(vars(auth._tokens))


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
async def test_passing_faults_are_retried_and_got_over(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn, status: int
) -> None:
    stand_in.fail_status, stand_in.fail_times = status, 2
    assert (await auth.authenticate(ALICE)).user == "alice"
    assert stand_in.calls[ME] == 3


async def test_retries_are_bounded_and_failures_not_remembered(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn
) -> None:
    stand_in.fail_status = 503
    with pytest.raises(DependencyUnavailableError, match="3 times in a row: HTTP status 503"):
        await auth.authenticate(ALICE)
    assert stand_in.calls[ME] == 3
    stand_in.fail_status = None
    assert (await auth.authenticate(ALICE)).user == "alice"


async def test_all_who_waited_for_a_failure_are_told(auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn) -> None:
    stand_in.fail_status, stand_in.latency = 503, 0.05
    found = await asyncio.gather(*(auth.authenticate(ALICE) for _ in range(5)), return_exceptions=True)
    assert {type(e) for e in found} == {DependencyUnavailableError}
    assert len({id(e) for e in found}) == 5
    assert stand_in.calls[ME] == 3


@pytest.mark.parametrize("status", [301, 302, 400, 403, 404])
async def test_a_wrong_url_is_said_so_at_once(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn, status: int
) -> None:
    stand_in.fail_status = status
    with pytest.raises(DependencyUnavailableError, match=f"HTTP status {status}; is its URL right"):
        await auth.authenticate(ALICE)
    assert stand_in.calls[ME] == 1


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"\xff\xfe", b"null", b"[]", b"{}", b'{"user": "alice"}', b'{"user": 1, "customroles": []}'),
        *(b'{"user": "alice", "customroles": [1]}', b'{"user": "alice", "customroles": null}', b"[" * 100_000),
    ],
)
async def test_garbage_is_no_principal(auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn, body: bytes) -> None:
    stand_in.body = body
    with pytest.raises(DependencyUnavailableError, match="not what KBase auth2 answers"):
        await auth.authenticate(ALICE)


async def test_an_endless_answer_is_not_read(auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn) -> None:
    stand_in.body = b" " * 2_000_000
    with pytest.raises(DependencyUnavailableError, match="larger than 1048576 bytes"):
        await auth.authenticate(ALICE)


@pytest.mark.parametrize(("switch", "value"), [("hang", True), ("hang_after_head", True), ("trickle", 0.05)])
async def test_a_server_that_never_ends_its_answer_is_given_up(
    stand_in: KBaseAuthStandIn, switch: str, value: bool | float
) -> None:
    setattr(stand_in, switch, value)
    options = KBaseAuthOptions(timeout=0.3, attempts=2, backoff=0.001)
    async with KBaseAuthenticator(stand_in.url, options) as auth:
        start = time.monotonic()
        with pytest.raises(DependencyUnavailableError):
            await auth.authenticate(ALICE)
        assert time.monotonic() - start < 2
    assert stand_in.calls[ME] == 2


async def test_a_refused_connection_and_an_unknown_host_are_outages() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refusing = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for url in (refusing, "http://auth.invalid"):
            async with KBaseAuthenticator(url, KBaseAuthOptions(backoff=0.001)) as auth:
                for ask in (auth.check(), auth.authenticate(ALICE), auth.user_exists("alice", ALICE)):
                    with pytest.raises(DependencyUnavailableError, match="ConnectError"):
                        await ask


async def test_waits_between_retries_grow_and_carry_jitter(
    stand_in: KBaseAuthStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("cdmtaskservice.auth.kbase.asyncio.sleep", note)
    stand_in.fail_status = 500
    options = KBaseAuthOptions(attempts=4, backoff=1.0)
    async with KBaseAuthenticator(stand_in.url, options, jitter=lambda: 0.5) as auth:
        with pytest.raises(DependencyUnavailableError):
            await auth.check()
    assert waits == [1.0, 2.0, 4.0]


async def test_users_exist_or_do_not_and_are_remembered(auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn) -> None:
    for _ in range(3):
        assert await auth.user_exists("alice", ALICE)
        assert not await auth.user_exists("nobody", ALICE)
    assert stand_in.calls[USERS] == 2


@pytest.mark.parametrize("user", ["", "Alice", "1a", "_a", "a b", "a,alice", "a\n", "\u00e4", "a" * 101, "\ud800"])
async def test_names_that_nobody_can_have_are_not_asked_for(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn, user: str
) -> None:
    with pytest.raises(InvalidUserError):
        await auth.user_exists(user, ALICE)
    assert not stand_in.calls


async def test_a_name_that_only_kbase_refuses_is_illegal_too(
    auth: KBaseAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdmtaskservice.auth.kbase.check_user_name", lambda _: None)
    with pytest.raises(InvalidUserError, match="does not take Alice for a user name"):
        await auth.user_exists("Alice", ALICE)


async def test_who_brings_a_bad_token_learns_of_no_user(auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn) -> None:
    assert await auth.user_exists("alice", ALICE)
    with pytest.raises(InvalidTokenError):
        await auth.user_exists("alice", "NOPE")


async def test_a_token_revoked_between_the_two_questions_is_invalid(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn
) -> None:
    await auth.authenticate(ALICE)
    stand_in.revoke(ALICE)
    with pytest.raises(InvalidTokenError):
        await auth.user_exists("bob", ALICE)


async def test_check_tells_another_service_from_the_right_one(
    auth: KBaseAuthenticator, stand_in: KBaseAuthStandIn
) -> None:
    stand_in.body = b'{"hello": "world"}'
    with pytest.raises(DependencyUnavailableError):
        await auth.check()


async def test_close_ends_what_hangs(stand_in: KBaseAuthStandIn) -> None:
    stand_in.hang = True
    auth = KBaseAuthenticator(stand_in.url, KBaseAuthOptions(timeout=60))
    waiting = asyncio.create_task(auth.authenticate(ALICE))
    await _until(lambda: stand_in.calls[ME] == 1)
    await auth.close()
    with pytest.raises(DependencyUnavailableError, match="shutting down"):
        await waiting


async def test_the_stand_in_answers_as_kbase_does(stand_in: KBaseAuthStandIn) -> None:
    async with httpx.AsyncClient(base_url=stand_in.url) as client:
        assert (await client.get("/")).json()["servicename"] == "Authentication Service"
        none = await client.get(ME)
        assert (none.status_code, none.json()["error"]["appcode"]) == (400, 10010)
        bad = await client.get(USERS, params={"list": "alice"}, headers={"Authorization": "NOPE"})
        assert bad.status_code == 401
        assert bad.json()["error"] == {
            "httpcode": 401,
            "httpstatus": "Unauthorized",
            "appcode": 10020,
            "apperror": "Invalid token",
            "message": "10020 Invalid token",
            "callid": bad.json()["error"]["callid"],
            "time": bad.json()["error"]["time"],
        }
        some = await client.get(USERS, params={"list": "alice,nobody"}, headers={"Authorization": ALICE})
        assert some.json() == {"alice": "Alice"}
        illegal = await client.get(USERS, params={"list": "A"}, headers={"Authorization": ALICE})
        assert illegal.json()["error"]["appcode"] == 30010
        assert (await client.get("/api/V2/nope")).status_code == 404


async def test_the_stand_in_runs_by_itself() -> None:
    command = [sys.executable, "-m", "test.stand_ins.kbase_auth", "--user", "bob:BOBTOKEN:KBASE_STAFF,X"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            url = (await asyncio.to_thread(process.stdout.readline)).strip()
            async with KBaseAuthenticator(url) as auth:
                assert await auth.authenticate("BOBTOKEN") == Principal("bob", frozenset({"KBASE_STAFF", "X"}))
        finally:
            process.kill()


async def _until(condition: object, seconds: float = 5.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.005)
