"""The gate counts work, closes while draining, and answers health checks for the replica."""

from __future__ import annotations

import asyncio
import json

import pytest

from pointsman.engine.vllm.replica.gate import Gate, Message, Receive, Scope, Send


class FakeApp:
    """An ASGI app whose answers wait until they are let go."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope.get("path", scope["type"]))
        self.entered.set()
        if scope["type"] == "http" and scope["method"] == "POST":
            await self.release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


async def ask(gate: Gate, method: str, path: str, kind: str = "http") -> list[Message]:
    """What the gate sends for one request."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await gate({"type": kind, "method": method, "path": path, "headers": []}, receive, send)
    return sent


def make_gate(app: FakeApp, *, alive: bool = True, opened: bool = True) -> Gate:
    gate = Gate(app, alive=lambda: alive)
    if opened:
        gate.open()
    return gate


async def test_work_is_counted_until_its_answer_ends() -> None:
    """In flight is one from the request's arrival to the end of its answer, then none."""
    app = FakeApp()
    gate = make_gate(app)
    asking = asyncio.create_task(ask(gate, "POST", "/v1/chat/completions"))
    await app.entered.wait()
    assert gate.in_flight == 1
    app.release.set()
    assert (await asking)[0]["status"] == 200
    assert gate.in_flight == 0


async def test_an_answer_that_is_cancelled_is_no_longer_counted() -> None:
    """A client that leaves cancels its request: nothing stays in flight."""
    app = FakeApp()
    gate = make_gate(app)
    asking = asyncio.create_task(ask(gate, "POST", "/v1/completions"))
    await app.entered.wait()
    asking.cancel()
    await asyncio.wait({asking})
    assert gate.in_flight == 0
    assert await gate.drain(0) == 0


async def test_drain_refuses_fresh_work_and_lets_running_work_finish() -> None:
    """While draining, fresh work gets 503 with Retry-After and Connection: close; what runs ends well."""
    app = FakeApp()
    gate = make_gate(app)
    running = asyncio.create_task(ask(gate, "POST", "/v1/chat/completions"))
    await app.entered.wait()
    draining = asyncio.create_task(gate.drain(60))
    await asyncio.sleep(0)
    start, body = await ask(gate, "POST", "/v1/chat/completions")
    assert start["status"] == 503
    assert {(b"retry-after", b"1"), (b"connection", b"close")} <= set(start["headers"])
    assert json.loads(body["body"])["error"]["code"] == 503
    assert not draining.done()
    app.release.set()
    assert await draining == 0
    assert (await running)[0]["status"] == 200


async def test_drain_says_how_much_is_left_when_time_runs_out() -> None:
    """A drain without time answers the number of requests still inside."""
    app = FakeApp()
    gate = make_gate(app)
    running = asyncio.create_task(ask(gate, "POST", "/v1/completions"))
    await app.entered.wait()
    assert await gate.drain(0) == 1
    app.release.set()
    await running


@pytest.mark.parametrize("path", ["/health", "/ping"])
async def test_health_follows_the_replica(path: str) -> None:
    """503 before the first token, the app's own answer while serving, 503 while draining."""
    gate = make_gate(FakeApp(), opened=False)
    assert (await ask(gate, "GET", path))[0]["status"] == 503
    gate.open()
    assert (await ask(gate, "GET", path))[0]["status"] == 200
    await gate.drain(0)
    assert (await ask(gate, "GET", path))[0]["status"] == 503


async def test_health_fails_when_the_engine_is_dead() -> None:
    """A dead engine fails the health check whatever the app would say."""
    gate = make_gate(FakeApp(), alive=False)
    start, body = await ask(gate, "GET", "/health")
    assert start["status"] == 503
    assert b"engine is dead" in body["body"]


async def test_reading_passes_while_draining_and_is_not_work() -> None:
    """Metrics and the list of models answer to the last; they do not hold up a drain."""
    app = FakeApp()
    gate = make_gate(app)
    assert await gate.drain(0) == 0
    for path in ("/metrics", "/v1/models"):
        assert (await ask(gate, "GET", path))[0]["status"] == 200
    assert app.paths == ["/metrics", "/v1/models"]


async def test_a_websocket_is_refused_while_draining() -> None:
    """A realtime session is work: it is closed before it is accepted, with `try again later`."""
    gate = make_gate(FakeApp())
    await gate.drain(0)
    assert [(m["type"], m["code"]) for m in await ask(gate, "GET", "/v1/realtime", "websocket")] == [
        ("websocket.close", 1013)
    ]


async def test_lifespan_passes() -> None:
    """The app's startup and shutdown reach it in every state."""
    app = FakeApp()
    gate = make_gate(app)
    await gate.drain(0)
    await ask(gate, "", "", "lifespan")
    assert app.paths == [""]
