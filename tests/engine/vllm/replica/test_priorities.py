"""Classes of requests on their way into a vLLM engine that schedules by priority; app and engine are stand-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from pointsman.engine.vllm.replica.priorities import classed, ranked


class Engine:
    """A server whose requests name a priority of their own, as vLLM reads it from bodies and headers."""

    def __init__(self) -> None:
        self.priorities: list[int] = []
        self.generate = ranked(self._generate)
        paths = [Route("/whole", self._whole, methods=["POST"]), Route("/stream", self._stream, methods=["POST"])]
        self.app = classed(Starlette(routes=paths))

    async def _generate(self, *args: Any, **options: Any) -> AsyncIterator[bytes]:
        self.priorities.append(options["priority"])
        yield b"token"

    async def _whole(self, request: Request) -> Response:
        asked = int(await request.body() or 0)
        return Response(b"".join([piece async for piece in self.generate("prompt", None, "id", priority=asked)]))

    async def _stream(self, request: Request) -> Response:
        return StreamingResponse(self.generate("prompt", None, "id"))


@pytest.mark.parametrize(
    ("name", "asked", "number"),
    [
        pytest.param("", "", 0, id="no class"),
        pytest.param("batch", "", 20, id="batch"),
        pytest.param("critical", "", -20, id="critical"),
        pytest.param("batch", "-100", 20, id="a client that would climb"),
        pytest.param("", "-100", 0, id="a client of the normal class that would climb"),
        pytest.param("high", "3", 3, id="a client that steps back"),
    ],
)
async def test_the_engine_orders_by_the_class(name: str, asked: str, number: int) -> None:
    """Whatever the client asks for, it stays behind its class."""
    engine = Engine()
    headers = {"x-pointsman-priority": name} if name else {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(engine.app), base_url="http://engine") as client:
        await client.post("/whole", content=asked, headers=headers)
    assert engine.priorities == [number]


async def test_a_stream_has_its_class_and_the_next_request_its_own() -> None:
    """The class of one request is not that of another on the same connection."""
    engine = Engine()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(engine.app), base_url="http://engine") as client:
        await client.post("/stream", headers={"x-pointsman-priority": "low"})
        await client.post("/stream")
    assert engine.priorities == [10, 0]
