"""uvicorn inside a process that owns its own signals, sockets and end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import AsyncExitStack

import uvicorn
from starlette.applications import Starlette

CLOSE_S = 2
"""How long requests under way may take when the process ends."""


TICK_S = 1.0
"""Between two updates of the Date header, which counts seconds. uvicorn's own loop wakes ten times as often, to see
whether it should exit."""


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


async def serve_http(stack: AsyncExitStack, name: str, sock: socket.socket, app: Starlette) -> None:
    """Serves an app on a socket until the stack unwinds; returns once it answers."""
    server = _Server(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=CLOSE_S)
    )

    async def stop() -> None:
        server.leave()
        await task

    task = asyncio.create_task(server.serve(sockets=[sock]), name=name)
    stack.push_async_callback(stop)
    # uvicorn has a flag, no event.
    while not server.started and not task.done():  # noqa: ASYNC110
        await asyncio.sleep(0.005)
