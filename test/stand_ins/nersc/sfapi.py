"""The Superfacility API, version 1.2, as far as a client needs it that runs commands and moves small files."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import os
import shlex
import stat
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .keys import TOKEN_LIFETIME, AccessTokens, Client, Clients, InvalidClientError
from .layout import MACHINES, Layout
from .processes import dying_with_us, kill_group
from .switches import Switches

_BASE = "/sfapi/api/v1.2"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_UPLOAD_LIMIT = 100 * 2**20
Handler = Callable[[Request], Awaitable[Response]]


class _Task:
    """A command. result: JSON text, once it has ended."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.status = "new"
        self.result: str | None = None
        self.ended: float | None = None
        self.process: asyncio.subprocess.Process | None = None

    def told(self) -> dict[str, str | None]:
        return {"id": self.id, "status": self.status, "result": self.result}

    def end(self, status: str, result: str | None) -> None:
        self.status, self.result, self.ended = status, result, time.monotonic()


class Sfapi:
    """The API's routes and what they know. url: the server's, without a path."""

    def __init__(self, layout: Layout, switches: Switches, url: str) -> None:
        self._layout = layout
        self._switches = switches
        self._token_url = f"{url}/sfapi/token"
        self._clients = Clients(layout.clients)
        self.tokens = AccessTokens(layout.token_secret)
        self._tasks: dict[str, _Task] = {}
        self._running: set[asyncio.Task[None]] = set()
        self.views_can_be_hidden = _can_hide(layout)
        self.callbacks: list[Any] = []

    def routes(self) -> list[Route]:
        """All routes, with whether they need an access token."""
        guard = self._authorized
        return [
            Route("/sfapi/token", self._token, methods=["POST"]),
            Route(f"{_BASE}/status/outages", self._all_outages),
            Route(f"{_BASE}/status/outages/planned", self._all_outages),
            Route(f"{_BASE}/status/outages/planned/{{machine}}", self._no_outages),
            Route(f"{_BASE}/status/outages/{{machine}}", self._outages),
            Route(f"{_BASE}/status/notes/{{machine}}", self._notes),
            Route(f"{_BASE}/status", self._statuses),
            Route(f"{_BASE}/status/{{machine}}", self._status),
            Route(f"{_BASE}/account/", guard(self._account)),
            Route(f"{_BASE}/account/clients", guard(self._list_clients)),
            Route(f"{_BASE}/utilities/command/{{machine}}", guard(self._command), methods=["POST"]),
            Route(f"{_BASE}/utilities/ls/{{machine}}/{{path:path}}", guard(self._ls)),
            Route(f"{_BASE}/utilities/download/{{machine}}/{{path:path}}", guard(self._download)),
            Route(f"{_BASE}/utilities/upload/{{machine}}/{{path:path}}", guard(self._upload), methods=["PUT"]),
            Route(f"{_BASE}/tasks", guard(self._list_tasks)),
            Route(f"{_BASE}/tasks/{{id}}", guard(self._task)),
            Route(f"{_BASE}/tasks/{{id}}", guard(self._cancel_task), methods=["DELETE"]),
            Route(f"{_BASE}/callback", guard(self._callback), methods=["POST"]),
        ]

    def _authorized(self, handler: Callable[[Request, Client], Awaitable[Response]]) -> Handler:
        async def guarded(request: Request) -> Response:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            client_id = self.tokens.client_id(token) if scheme == "Bearer" else None
            client = self._clients.all().get(client_id or "")
            if client is None or client.expired:
                return JSONResponse({"detail": "Not authenticated"}, 403)
            machine = request.path_params.get("machine")
            if machine is not None and machine not in MACHINES:
                return _invalid("machine", f"value is not a valid enumeration member; permitted: {MACHINES}")
            return await handler(request, client)

        return guarded

    async def _token(self, request: Request) -> Response:
        form = _form(await request.body())
        if form.get("grant_type") != "client_credentials":
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        try:
            if form.get("client_assertion_type") != _ASSERTION:
                raise InvalidClientError("client authentication by a signed JWT is needed")
            client = self._clients.authenticate(form.get("client_assertion", ""), self._token_url)
        except InvalidClientError as e:
            return JSONResponse({"error": "invalid_client", "error_description": str(e)}, 401)
        token = self.tokens.issue(client)
        return JSONResponse(
            {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFETIME, "scope": ""},
            headers={"Cache-Control": "no-store"},
        )

    async def _statuses(self, _: Request) -> Response:
        return JSONResponse([self._told_status(m) for m in MACHINES])

    async def _status(self, request: Request) -> Response:
        machine = request.path_params["machine"]
        if machine not in MACHINES:
            return JSONResponse({"detail": f"Resource not found: {machine}"}, 404)
        return JSONResponse(self._told_status(machine))

    def _told_status(self, machine: str) -> dict[str, Any]:
        state = self._state(machine)
        return {
            "name": machine,
            "full_name": machine.title(),
            "description": "System Active" if state["status"] == "active" else "System Unavailable",
            "system_type": "compute" if machine == "perlmutter" else "filesystem",
            "notes": state["notes"],
            "status": state["status"],
            "updated_at": datetime.datetime.now(datetime.UTC).isoformat(),
        }

    def _state(self, machine: str) -> dict[str, Any]:
        value = self._switches["machine_status"].get(machine, "active")
        told = value if isinstance(value, dict) else {"status": value}
        notes = told.get("notes") or []
        return {
            "status": told.get("status", "unavailable"),
            "notes": [notes] if isinstance(notes, str) else list(notes),
            "until": told.get("until"),
        }

    def _outages_of(self, machine: str) -> list[dict[str, Any]]:
        """The one that goes on, if any, and others that tell nothing of now."""
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        told: list[tuple[str, datetime.datetime, datetime.datetime | None, list[str]]]
        told = [("Completed", now - 9 * day, now - 8 * day, []), ("Cancelled", now + 90 * day, now + 91 * day, [])]
        state = self._state(machine)
        if state["status"] not in {"active", "degraded"}:
            until = state["until"] and datetime.datetime.fromisoformat(state["until"])
            told.append(("Active", now, until, state["notes"]))
        return [
            {
                "name": machine,
                "start_at": start.isoformat(),
                "end_at": end.isoformat() if end else None,
                "description": "Unscheduled Outage",
                "notes": "; ".join(notes) or None,
                "status": status,
                "swo": "not-swo",
                "update_at": start.isoformat(),
            }
            for status, start, end, notes in told
        ]

    async def _all_outages(self, request: Request) -> Response:
        planned = request.url.path.endswith("/planned")
        return JSONResponse([[] if planned else self._outages_of(m) for m in MACHINES])

    async def _outages(self, request: Request) -> Response:
        return JSONResponse(self._outages_of(request.path_params["machine"]))

    async def _no_outages(self, _: Request) -> Response:
        return JSONResponse([])

    async def _notes(self, request: Request) -> Response:
        machine = request.path_params["machine"]
        return JSONResponse([{"name": machine, "notes": n, "active": True} for n in self._state(machine)["notes"]])

    async def _account(self, _: Request, client: Client) -> Response:
        blank = dict.fromkeys(("firstname", "lastname", "middlename", "workphone", "otherPhones"), "")
        return JSONResponse({"uid": 4242, "name": client.user, "email": f"{client.user}@example.invalid", **blank})

    async def _list_clients(self, _: Request, client: Client) -> Response:
        return JSONResponse([c.told() for c in self._clients.all().values() if c.user == client.user])

    async def _command(self, request: Request, _: Client) -> Response:
        machine = request.path_params["machine"]
        executable = _form(await request.body()).get("executable")
        if not executable:
            return _invalid("executable", "field required")
        self._switches.commands.append(executable)
        if self._state(machine)["status"] not in {"active", "degraded"}:
            return JSONResponse({"task_id": "", "status": "ERROR", "error": f"{machine} is unavailable"})
        task = _Task()
        self._tasks[task.id] = task
        running = asyncio.create_task(self._run(task, machine, executable))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return JSONResponse({"task_id": task.id, "status": "OK", "error": None})

    async def _run(self, task: _Task, machine: str, executable: str) -> None:
        argv = ["/bin/bash", "-c", executable]
        if self._switches["hide_views"] and self.views_can_be_hidden:
            argv = _without(self._layout, machine, argv)
        process = task.process = await asyncio.create_subprocess_exec(
            *dying_with_us(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._layout.home)},
            cwd=self._layout.home,
            start_new_session=True,
        )
        output, error = await process.communicate()
        if task.ended is None:
            told = {
                "status": "ok" if process.returncode == 0 else "error",
                "output": output.decode("utf-8", "replace"),
                "error": error.decode("utf-8", "replace") or None,
                "exit_code": process.returncode,
            }
            task.end("completed", json.dumps(told))

    def _known(self, task_id: str) -> _Task | None:
        lifetime = 0.0 if self._switches["lose_tasks"] else self._switches["task_lifetime"]
        now = time.monotonic()
        for task in list(self._tasks.values()):
            if task.ended is not None and now >= task.ended + lifetime:
                del self._tasks[task.id]
        return self._tasks.get(task_id)

    async def _list_tasks(self, _: Request, __: Client) -> Response:
        self._known("")
        return JSONResponse({"tasks": [t.told() for t in self._tasks.values()]})

    async def _task(self, request: Request, _: Client) -> Response:
        task = self._known(request.path_params["id"])
        return JSONResponse(task.told()) if task else _unknown_task(request)

    async def _cancel_task(self, request: Request, _: Client) -> Response:
        task = self._known(request.path_params["id"])
        if task is None:
            return _unknown_task(request)
        if task.ended is None:
            task.end("cancelled", None)
            kill_group(task.process)
        return JSONResponse(task.told())

    async def _ls(self, request: Request, _: Client) -> Response:
        path = self._path(request)
        if path is None or not os.path.lexists(path):
            words = f"ls: cannot access '{_asked(request)}': No such file or directory"
            return JSONResponse({"status": "ERROR", "entries": [], "error": words})
        entries = [_entry(path, str(path))]
        if path.is_dir() and request.query_params.get("directory", "false").lower() != "true":
            entries = [_entry(path, "."), _entry(path.parent, "..")]
            entries += [_entry(path / name, name) for name in sorted(os.listdir(path))]
        return JSONResponse({"status": "OK", "entries": entries, "error": None, "file": None, "is_binary": False})

    async def _download(self, request: Request, _: Client) -> Response:
        binary = request.query_params.get("binary", "false").lower() == "true"
        told: dict[str, Any] = {"status": "OK", "file": None, "is_binary": binary, "error": None}
        try:
            content = _opened(self._path(request), _asked(request)).read_bytes()
            told["file"] = base64.b64encode(content).decode() if binary else content.decode()
        except (OSError, UnicodeDecodeError) as e:
            told.update(status="ERROR", error=f"{_asked(request)}: {_words(e)}")
        return JSONResponse(told)

    async def _upload(self, request: Request, _: Client) -> Response:
        content = _multipart_file(request.headers.get("Content-Type", ""), await request.body())
        if content is None:
            return _invalid("file", "field required")
        try:
            if len(content) > _UPLOAD_LIMIT:
                raise OSError("file is too large")
            path = _opened(self._path(request), _asked(request))
            path.write_bytes(content)
        except OSError as e:
            return JSONResponse({"status": "ERROR", "output": None, "error": f"{_asked(request)}: {_words(e)}"})
        return JSONResponse({"status": "OK", "output": str(path), "error": None})

    async def _callback(self, request: Request, _: Client) -> Response:
        self.callbacks.append((await request.body()).decode("utf-8", "replace"))
        return JSONResponse({"id": len(self.callbacks), "status": "OK"})

    def _path(self, request: Request) -> Path | None:
        return self._layout.on(request.path_params["machine"], request.path_params["path"])


def _without(layout: Layout, machine: str, argv: list[str]) -> list[str]:
    """A command that does not see what is not mounted on its machine."""
    hide = shlex.join(["mount", "-o", "bind,ro", str(layout.nothing), str(layout.hidden_from(machine))])
    return ["unshare", "--mount", "--propagation", "slave", "/bin/sh", "-c", f'{hide} && exec "$@"', "sh", *argv]


def _can_hide(layout: Layout) -> bool:
    tried = subprocess.run(_without(layout, MACHINES[0], ["true"]), capture_output=True, check=False, timeout=10)
    return tried.returncode == 0


def _asked(request: Request) -> str:
    return "/" + str(request.path_params["path"]).lstrip("/")


def _opened(path: Path | None, asked: str) -> Path:
    if path is None:
        raise FileNotFoundError(2, "No such file or directory", asked)
    return path


def _words(error: OSError | UnicodeDecodeError) -> str:
    return str((isinstance(error, OSError) and error.strerror) or error)


def _entry(path: Path, name: str) -> dict[str, Any]:
    info = path.lstat()
    return {
        "perms": stat.filemode(info.st_mode),
        "hardlinks": info.st_nlink,
        "user": str(info.st_uid),
        "group": str(info.st_gid),
        "size": info.st_size,
        "date": datetime.datetime.fromtimestamp(info.st_mtime, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "name": name,
    }


def _form(body: bytes) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


def _multipart_file(content_type: str, body: bytes) -> bytes | None:
    """The part `file` of a multipart body, byte for byte."""
    kind = Message()
    kind["Content-Type"] = content_type
    boundary = kind.get_boundary()
    if kind.get_content_type() != "multipart/form-data" or boundary is None:
        return None
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:]:
        head, mark, content = part.partition(b"\r\n\r\n")
        if mark and b'name="file"' in head:
            return content
    return None


def _invalid(field: str, words: str) -> Response:
    return JSONResponse({"detail": [{"loc": ["body", field], "msg": words, "type": "value_error"}]}, 422)


def _unknown_task(request: Request) -> Response:
    return JSONResponse({"detail": f"Task not found: {request.path_params['id']}"}, 404)
