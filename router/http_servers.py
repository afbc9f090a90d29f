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


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process that owns several servers owns the signals."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


async def serve_http(stack: AsyncExitStack, name: str, sock: socket.socket, app: Starlette) -> None:
    """Serves an app on a socket until the stack unwinds; returns once it answers."""
    server = _Server(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=CLOSE_S)
    )

    async def stop() -> None:
        server.should_exit = True
        await task

    task = asyncio.create_task(server.serve(sockets=[sock]), name=name)
    stack.push_async_callback(stop)
    # uvicorn has a flag, no event.
    while not server.started and not task.done():  # noqa: ASYNC110
        await asyncio.sleep(0.005)
