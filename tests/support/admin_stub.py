"""The part of the admin API that replicas use, without a router behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class Admin:
    """`said` is what it was told, in order: method, path below /v1/replicas/ with its query, body, authorization."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, Any, str]] = []
        self.status = 200
        self.port = 0
        self._heard = asyncio.Condition()
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def wait_said(self, count: int) -> None:
        """Until it was told so many things."""
        async with self._heard:
            await self._heard.wait_for(lambda: len(self.said) >= count)

    async def wait_told(self, method: str, path: str) -> None:
        """Until it was told this."""
        async with self._heard:
            await self._heard.wait_for(lambda: any(said[:2] == (method, path) for said in self.said))

    async def start(self) -> None:
        methods = ["PUT", "DELETE", "POST"]
        app = Starlette(routes=[Route("/v1/replicas/{path:path}", self._hear, methods=methods)])
        config = uvicorn.Config(app, host="127.0.0.1", port=self.port, log_config=None, lifespan="off")
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server._serve())
        while not self._server.started:
            await asyncio.sleep(0)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None and self._task is not None
        self._server.should_exit = self._server.force_exit = True
        await self._task

    async def _hear(self, request: Request) -> Response:
        body = await request.json() if request.method == "PUT" else None
        path = request.path_params["path"] + (f"?{request.url.query}" if request.url.query else "")
        async with self._heard:
            self.said.append((request.method, path, body, request.headers.get("authorization", "")))
            self._heard.notify_all()
        return JSONResponse({"error": "no"} if self.status >= 400 else {}, self.status)


@asynccontextmanager
async def admin() -> AsyncIterator[Admin]:
    server = Admin()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
