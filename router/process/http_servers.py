"""HTTP servers of the router: on a socket bound before, until the router ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog
from starlette.applications import Starlette

from pointsman.contract.http_server import HTTPServer

CLOSE_S = 2
"""Seconds that running requests have to finish when the process ends."""

log = structlog.get_logger(__name__)


async def serve_http(
    stack: AsyncExitStack,
    name: str,
    sock: socket.socket,
    app: Starlette,
    on_ended: Callable[[], None],
    *,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serves an app on a socket until the stack unwinds; returns once it answers.

    `on_ended` is called when the server ends before that, which is logged. `tls`: None for plain HTTP. Raises what
    keeps it from starting.
    """
    server = HTTPServer(app, close_s=CLOSE_S, tls=tls)

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
