"""The client is small: it comes with few libraries, and each is imported only when it is needed."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]

HARNESS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        ours = name.startswith("cdmtaskservice.") and not name.startswith("cdmtaskservice.client")
        if ours or name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is not installed")

sys.meta_path.insert(0, Blocked())
"""

USE = """
import asyncio, tempfile, httpx
from cdmtaskservice import client
from cdmtaskservice.client import AsyncClient, Client, JobInput, Parameters

TIME = "2030-01-01T12:00:00Z"
STATUS = {"id": "j", "user": "a", "state": "complete", "transition_times": [], "admin_meta": {}}
INPUT = {"cluster": "c", "image": "i", "params": {}, "num_containers": 1, "cpus": 1, "memory": 1, "runtime": "PT1M",
         "output_dir": "b/o/"}
IMAGE = {"name": "i", "digest": "d", "entrypoint": [], "registered_by": "a", "registered_on": TIME}
JOB = {**STATUS, "job_input": INPUT, "image": IMAGE, "input_file_count": 1, "outputs": []}
FILES = {"files": [{"file": "b/o/f", "crc64nvme": "AAAAAAAAAAA=", "url": "http://s/f"}], "total": 1}

def handle(request):
    path = request.url.path
    if path.endswith("/status"):
        return httpx.Response(200, json=STATUS)
    if path.endswith("/files"):
        return httpx.Response(200, json=FILES)
    if request.url.host == "s":
        return httpx.Response(200, content=b"")
    return httpx.Response(200, json={"job_id": "j"} if request.method == "POST" else JOB)

transport = httpx.MockTransport(handle)
with Client("http://h", "t", transport=transport) as cts, tempfile.TemporaryDirectory() as directory:
    job = JobInput(cluster="c", image="i", input_files=["b/f"], output_dir="b/o", params=Parameters())
    assert cts.submit(job) == "j"
    assert cts.wait("j", progress=True).state == "complete"
    assert [p.name for p in cts.download("j", directory)] == ["f"]

async def main():
    async with AsyncClient("http://h", "t", transport=transport) as cts:
        assert (await cts.wait("j")).is_over

asyncio.run(main())
print("done")
"""


def run(code: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("CTS_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def module_names(extra: str) -> list[str]:
    """What the packages of an extra are imported as."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [entry.split(">")[0].split("=")[0] for entry in project["optional-dependencies"][extra]]
    return [name.replace("-", "_").replace("python_multipart", "multipart") for name in names]


def test_the_client_works_without_the_servers_packages():
    blocked = {*module_names("server"), "starlette", "pymongo", "bson", "pydantic_core", "botocore", "yarl", "IPython"}
    assert {"fastapi", "pydantic", "motor", "aiobotocore", "structlog"} <= blocked
    assert run(HARNESS.format(blocked=blocked) + USE) == "done"


def test_importing_it_is_cheap():
    """Models and errors come without any library; httpx with the clients; the rest when it is used."""
    libraries = {"httpx", "rich", "awscrt", "typer", "yaml", "asyncio", "pydantic"}
    code = "import cdmtaskservice.client as c, sys\n{}\nprint(sorted({!r} & set(sys.modules)))"
    assert run(code.format("", libraries)) == "[]"
    # httpx imports rich by itself, for its own command, where there is click.
    assert run(code.format("c.Client, c.AsyncClient", libraries - {"asyncio", "rich"})) == "['httpx']"


def test_connections_are_not_bounded():
    """Else of a hundred jobs that are waited for, some would wait for the streams of others, past their timeout."""
    from cdmtaskservice.client.http import client_settings

    assert client_settings()["limits"].max_connections is None


def test_all_that_is_named_is_there():
    import cdmtaskservice.client as client

    for name in client.__all__:
        assert getattr(client, name).__doc__ or name == "TERMINAL_STATES"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        client.Nothing  # noqa: B018


def test_both_clients_have_the_same_methods_and_words():
    import inspect

    from cdmtaskservice.client import aio, aio_admin, blocking, blocking_admin

    for one, other in ((blocking.Client, aio.AsyncClient), (blocking_admin.Admin, aio_admin.AsyncAdmin)):
        names = [n for n, m in vars(one).items() if callable(m) and not n.startswith("_")]
        assert names == [n for n, m in vars(other).items() if callable(m) and not n.startswith("_")]
        for name in names:
            mine, theirs = inspect.signature(getattr(one, name)), inspect.signature(getattr(other, name))
            assert str(mine.parameters) == str(theirs.parameters), name
            assert str(theirs.return_annotation).replace("AsyncIterator", "Iterator") == str(mine.return_annotation)
            assert getattr(one, name).__doc__ == getattr(other, name).__doc__ != None  # noqa: E711
            iterates = str(mine.return_annotation).startswith("Iterator")
            assert inspect.iscoroutinefunction(getattr(other, name)) is not iterates, name
