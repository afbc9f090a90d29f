"""The driver's own API: what routers pass on to it (`/v1/pools` of the admin API), on an address of its own.

An order is answered as soon as it is understood, with the pool as it stands; carrying it out takes its time and shows
in the pool's state. Errors have the shape OpenAI's API and the admin API use.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Protocol

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pointsman.contract.events import JSON_TYPE
from pointsman.contract.pools import PoolStatus, ScaleOrder
from pointsman.engine.vllm.errors import ClusterError, UnknownPoolError, VllmConfigError

MAX_BODY_BYTES = 1024 * 1024

Handler = Callable[[Request], Awaitable[Response]]


class Orders(Protocol):
    """Who carries the orders out. Raises UnknownPoolError, VllmConfigError, ClusterError."""

    def statuses(self) -> list[PoolStatus]: ...

    def scale(self, pool: str, replicas: int) -> PoolStatus: ...

    def put(self, pool: str, document: dict[str, Any]) -> PoolStatus: ...


class Control:
    """The HTTP side of `Orders`."""

    def __init__(self, orders: Orders, token: str) -> None:
        self._orders = orders
        self._token = token

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/pools", self._guarded(self.list_pools)),
                Route("/v1/pools/{name}", self._guarded(self.put_pool), methods=["PUT"]),
                Route("/v1/pools/{name}/scale", self._guarded(self.scale_pool), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _answer_error},
        )

    async def list_pools(self, request: Request) -> Response:
        return _json({"pools": self._orders.statuses()})

    async def scale_pool(self, request: Request) -> Response:
        order = await _decoded(request, ScaleOrder)
        with _refusals():
            return _json(self._orders.scale(request.path_params["name"], order.replicas), 202)

    async def put_pool(self, request: Request) -> Response:
        document = await _decoded(request, dict[str, Any])
        with _refusals():
            return _json(self._orders.put(request.path_params["name"], document), 202)

    def _guarded(self, handler: Handler) -> Handler:
        async def check_then_handle(request: Request) -> Response:
            _refuse_pages(request)
            if self._token:
                scheme, _, given = request.headers.get("authorization", "").partition(" ")
                if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._token.encode()):
                    raise HTTPException(401, "a valid bearer token is expected", {"www-authenticate": "Bearer"})
            return await handler(request)

        return check_then_handle


@contextlib.asynccontextmanager
async def serving(app: Starlette, host: str, port: int) -> AsyncIterator[str]:
    """Serves while the context is open; yields the base URL. Raises VllmConfigError when it cannot listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise VllmConfigError("control_port", port, f"a port that is free at {host}: {error.strerror}") from error
    server = _Server(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    )
    with listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            number = listening.getsockname()[1]
            yield f"http://[{host}]:{number}" if family == socket.AF_INET6 else f"http://{host}:{number}"
        finally:
            server.should_exit = True
            await task


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: those are the driver's."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except UnknownPoolError as error:
        raise HTTPException(404, str(error)) from error
    except VllmConfigError as error:
        raise HTTPException(422, str(error)) from error
    except ClusterError as error:
        raise HTTPException(409, str(error)) from error


def _refuse_pages(request: Request) -> None:
    """Routers and programs pass orders on; a browser adds one of these headers to every order a web page gives, and
    without a preflight it cannot send JSON."""
    for name in ("origin", "sec-fetch-site"):
        if name in request.headers:
            raise HTTPException(403, f"{name}: web pages may not give orders")


async def _decoded(request: Request, into: type[Any]) -> Any:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON_TYPE:
        raise HTTPException(415, f"content-type: {media_type[:100]!r}: {JSON_TYPE} is expected")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"body: at most {MAX_BODY_BYTES} bytes are expected")
    try:
        return msgspec.json.decode(bytes(body) or b"{}", type=into)
    except msgspec.ValidationError as error:
        raise HTTPException(422, str(error)) from error
    # Text that is not UTF-8 is Python's own ValueError.
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise HTTPException(400, f"body: not JSON: {error}") from error


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    shown = {"error": {"message": error.detail, "type": kind, "code": error.status_code}}
    answer = _json(shown, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
