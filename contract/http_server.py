"""uvicorn inside a process that owns its own signals, sockets and end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import uvicorn
from starlette.applications import Starlette

TICK_S = 1.0
"""Between two updates of the Date header, which counts seconds. uvicorn's own loop wakes ten times as often, to see
whether it should exit."""


class HTTPServer(uvicorn.Server):
    """uvicorn without its signal handlers, as the process owns the signals; `leave` ends it at once.

    app: what it serves.
    close_s: seconds that requests under way may take after `leave`.
    tls: context of every connection; None for plain HTTP.
    """

    def __init__(self, app: Starlette, *, close_s: int, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=close_s
        )
        # Given files, uvicorn would make a context of its own, which takes no renewed certificate.
        config.load()
        config.ssl = tls
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Stop serving."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        # Tick 0 is one at which the Date header is renewed.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._leaving.wait()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield
