"""uvicorn inside a process that owns its own signals, sockets and end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog
import uvicorn
from starlette.applications import Starlette

CLOSE_S = 2
"""How long requests under way may take when the process ends."""

TICK_S = 1.0
"""Between two updates of the Date header, which counts seconds. uvicorn's own loop wakes ten times as often, to see
whether it should exit."""

log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, as the process that owns several servers owns the signals; told to exit by
    an event."""

    def __init__(self, config: uvicorn.Config) -> None:
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


async def serve_http(
    stack: AsyncExitStack, name: str, sock: socket.socket, app: Starlette, on_ended: Callable[[], None]
) -> None:
    """Serves an app on a socket until the stack unwinds; returns once it answers.

    `on_ended` is called when the server ends before that, which is logged. Raises what keeps it from starting.
    """
    server = _Server(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=CLOSE_S)
    )

    async def stop() -> None:
        server.leave()
        await asyncio.gather(task, return_exceptions=True)

    def ended(task: asyncio.Task[None]) -> None:
        if not server.should_exit:
            error = None if task.cancelled() else task.exception()
            log.critical("server ended", server=name, exc_info=error)
            on_ended()

    task = asyncio.create_task(server.serve(sockets=[sock]), name=name)
    stack.push_async_callback(stop)
    # uvicorn has a flag, no event.
    while not server.started:
        if task.done():
            await task
            raise RuntimeError(f"the server {name!r} ended while it started")
        await asyncio.sleep(0.005)
    task.add_done_callback(ended)
