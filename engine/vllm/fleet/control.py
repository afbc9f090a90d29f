"""The driver's own API, on an address of its own: orders that routers pass on (`/v1/pools` of the admin API).

An order is answered as soon as it is understood, with the pool as it stands; carrying it out takes its time and shows
in the pool's state. Errors have the shape OpenAI's API and the admin API use.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Protocol, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pointsman.contract.events import JSON_TYPE
from pointsman.contract.http_api import (
    answer_error,
    bearer_token,
    decode_body,
    json_answer,
    media_type_of,
    read_body,
    wrong_token,
)
from pointsman.contract.http_server import HTTPServer
from pointsman.contract.pools import PoolStatus, ScaleOrder
from pointsman.engine.vllm.errors import ClusterError, UnknownPoolError, VllmConfigError

MAX_BODY_BYTES = 1024 * 1024

T = TypeVar("T")

Handler = Callable[[Request], Awaitable[Response]]


class Orders(Protocol):
    """Carries orders out. Raises UnknownPoolError, VllmConfigError, ClusterError."""

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
            exception_handlers={HTTPException: answer_error},
        )

    async def list_pools(self, request: Request) -> Response:
        return json_answer({"pools": self._orders.statuses()})

    async def scale_pool(self, request: Request) -> Response:
        order = await _decoded(request, ScaleOrder)
        with _refusals():
            return json_answer(self._orders.scale(request.path_params["name"], order.replicas), 202)

    async def put_pool(self, request: Request) -> Response:
        document = await _decoded(request, dict[str, Any])
        with _refusals():
            return json_answer(self._orders.put(request.path_params["name"], document), 202)

    def _guarded(self, handler: Handler) -> Handler:
        async def check_then_handle(request: Request) -> Response:
            _refuse_pages(request)
            given = bearer_token(request.headers)
            if self._token and not hmac.compare_digest(given.encode(), self._token.encode()):
                raise wrong_token()
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
    server = HTTPServer(app, close_s=1)
    with listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            number = listening.getsockname()[1]
            yield f"http://[{host}]:{number}" if family == socket.AF_INET6 else f"http://{host}:{number}"
        finally:
            server.leave()
            await task


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


async def _decoded(request: Request, into: type[T]) -> T:
    media_type = media_type_of(request.headers)
    if media_type != JSON_TYPE:
        raise HTTPException(415, f"content-type: {media_type[:100]!r}: {JSON_TYPE} is expected")
    return decode_body(await read_body(request, MAX_BODY_BYTES), into)
