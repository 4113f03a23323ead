"""`cts serve`: the service as a process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from cdmtaskservice.app import create_app
from cdmtaskservice.logs import configure_logging
from cdmtaskservice.settings import Settings, load_settings
from cdmtaskservice.wiring.service import running


def serve(config_file: Path) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises: SettingsError."""
    settings = load_settings(config_file, os.environ)
    configure_logging(settings.logging.level, settings.logging.format)
    asyncio.run(_serve(settings))


class _Server(uvicorn.Server):
    """A server that tells when it is told to end, while it still answers."""

    def __init__(self, stopping: Callable[[], None], config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self._loop.call_soon_threadsafe(self._stopping)
        super().handle_exit(sig, frame)


async def _serve(settings: Settings) -> None:
    # uvicorn takes these signals while it serves, and sends them again when it is done. By then the parts are being
    # stopped in good order, which a second signal must not cut short.
    main = asyncio.current_task()
    assert main is not None
    serving = False

    def interrupt() -> None:
        if not serving:
            main.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, interrupt)
    try:
        async with running(settings) as services:
            serving = True
            server = _Server(
                services.stopping,
                uvicorn.Config(
                    create_app(
                        services,
                        root_path=settings.service.root_path,
                        cors_origins=settings.service.cors_origins,
                        secure=settings.service.url.startswith("https:"),
                    ),
                    host=settings.service.host,
                    port=settings.service.port,
                    log_config=None,
                    access_log=False,
                    lifespan="off",
                    proxy_headers=False,
                    server_header=False,
                    timeout_graceful_shutdown=int(settings.service.shutdown_timeout.total_seconds()),
                ),
            )
            await server.serve()
    except asyncio.CancelledError:
        if serving:
            raise
