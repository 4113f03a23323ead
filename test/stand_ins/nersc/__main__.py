"""`python -m test.stand_ins.nersc --root ROOT --port PORT --podman PODMAN`: serve until the end."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .central import Central
from .layout import Layout
from .provision import provision
from .refdata import RefdataCopies
from .runs import Runs
from .sfapi import Sfapi
from .switches import Faults, Switches, json_object


def application(layout: Layout, podman: Path, url: str) -> Starlette:
    """The whole site. url: where it will be served."""
    provision(layout, url)
    switches = Switches()
    sfapi = Sfapi(layout, switches, url)
    runs = Runs(layout, switches, podman)
    central = Central(layout, switches, runs)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await runs.start()
        copying = asyncio.create_task(RefdataCopies(layout, switches).run())
        yield
        copying.cancel()
        await runs.stop()

    async def control(request: Request) -> Response:
        if request.method == "POST":
            try:
                values = json_object(await request.body())
                if values.pop("reset", False):
                    switches.reset()
                if values.pop("expire_tokens", False):
                    sfapi.tokens.expire_all()
                switches.set(values)
            except ValueError as e:
                return JSONResponse({"error": str(e)}, 400)
            runs.look_again()
        return JSONResponse(
            {
                "switches": switches.values,
                "calls": switches.calls,
                "commands": switches.commands,
                "callbacks": sfapi.callbacks,
                "runs": [run.brief() for run in runs.all()],
                "views_hidden": switches["hide_views"] and sfapi.views_can_be_hidden,
            }
        )

    routes = [*sfapi.routes(), *central.routes(), Route("/control", control, methods=["GET", "POST"])]
    return Starlette(routes=routes, middleware=[Middleware(Faults, switches=switches)], lifespan=lifespan)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m test.stand_ins.nersc", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="directory that stands for the file systems")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--podman", type=Path, required=True, help="an executable that behaves like podman")
    options = parser.parse_args()
    app = application(Layout(options.root.absolute()), options.podman.absolute(), f"http://127.0.0.1:{options.port}")
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=options.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=60,
    )


if __name__ == "__main__":
    main()
