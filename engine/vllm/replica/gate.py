"""A gate in front of vLLM's OpenAI app: counts the work inside, and closes while the replica drains.

Work is what may use the engine: every request that is not a GET, HEAD or OPTIONS, and every websocket. Reading
(`/metrics`, `/v1/models`, `/version`) passes always. `/health` and `/ping` answer 200 only while the replica takes
work, so a health check takes it out of rotation although vLLM itself would go on answering 200.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEALTH_PATHS = frozenset({"/health", "/ping"})
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

RETRY_AFTER_S = 1
"""Another replica can take the request at once."""

_WEBSOCKET_TRY_AGAIN_LATER = 1013  # RFC 6455 registry of close codes


class Gate:
    """ASGI application around another. `alive` says whether the engine behind it still runs."""

    def __init__(self, app: App, *, alive: Callable[[], bool]) -> None:
        self._app = app
        self._alive = alive
        self._ready = False
        self._leaving = False
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0
        """Work inside: requests whose answer has not ended."""

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def healthy(self) -> bool:
        """Whether a health check passes."""
        return self._ready and not self._leaving and self._alive()

    def open(self) -> None:
        """The first token came out: health checks pass from here on. Work is let in before, so that it can."""
        self._ready = True

    def fail_checks(self) -> None:
        """Health checks fail from here on; work is still let in, until `drain`."""
        self._leaving = True

    async def drain(self, timeout_s: float) -> int:
        """Refuse fresh work and wait for the work inside; answers how much is left, 0 unless the time ran out."""
        self._leaving = self._draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return self.in_flight
        return 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            if scope["path"] in HEALTH_PATHS and not self.healthy:
                await _answer(send, self._condition())
                return
            if scope["method"] in READING_METHODS:
                await self._app(scope, receive, send)
                return
        elif kind != "websocket":  # lifespan
            await self._app(scope, receive, send)
            return
        if self._draining:
            await _refuse(kind, send)
            return
        self.in_flight += 1
        self._idle.clear()
        try:
            await self._app(scope, receive, send)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    def _condition(self) -> str:
        if not self._alive():
            return "engine is dead"
        return "replica is draining" if self._leaving else "replica is starting"


async def _refuse(kind: str, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": _WEBSOCKET_TRY_AGAIN_LATER, "reason": "replica is draining"})
    else:
        # No more comes through a kept-alive connection.
        await _answer(send, "replica is draining", (b"connection", b"close"))


async def _answer(send: Send, message: str, *more: tuple[bytes, bytes]) -> None:
    retry_after = (b"retry-after", str(RETRY_AFTER_S).encode())
    await answer_error(send, 503, "ServiceUnavailableError", message, None, retry_after, *more)


async def answer_error(
    send: Send, status: int, kind: str, message: str, param: str | None, *more: tuple[bytes, bytes]
) -> None:
    """Answer an error of the form vLLM's own have, with headers besides those of its body."""
    error = {"message": message, "type": kind, "param": param, "code": status}
    body = msgspec.json.encode({"error": error})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
