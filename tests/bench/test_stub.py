"""The stub replicas answer what the benches count on."""

from __future__ import annotations

import asyncio
import json

import pytest

from bench.http import AnswerReader, Request, chat_body
from bench.stub import ANSWER, Replica, StubProtocol, render, stream_bytes, stream_events

REACH_S = 10.0


async def ask(*requests: bytes) -> tuple[list[AnswerReader], Replica]:
    """The answers of one replica to requests sent one after the other, each in two pieces."""
    loop = asyncio.get_running_loop()
    replica = Replica(loop, interval_s=0.001)
    server = await loop.create_server(lambda: StubProtocol(replica), "127.0.0.1", 0)
    answers = []
    async with server, asyncio.timeout(REACH_S):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for request in requests:
            writer.write(request[: len(request) // 2])
            await writer.drain()
            writer.write(request[len(request) // 2 :])
            answers.append(AnswerReader())
            while not answers[-1].feed(await reader.read(65536)):
                pass
        writer.close()
    return answers, replica


def post(body: bytes) -> bytes:
    request = Request.post("/v1/chat/completions", body)
    return request.head + request.body


async def test_a_stream_has_the_tokens_that_were_asked_for() -> None:
    """Events and bytes are what `stream_events` and `stream_bytes` say."""
    (answer,), _ = await ask(post(chat_body(600, max_tokens=5, stream=True)))
    assert (answer.status, answer.events, answer.body_bytes) == (200, stream_events(5), stream_bytes(5))


async def test_a_whole_answer_is_always_the_same() -> None:
    """Whatever the body's size, and one after another on a connection."""
    answers, replica = await ask(post(chat_body(600)), post(chat_body(300_000)))
    assert [answer.body_bytes for answer in answers] == [len(ANSWER)] * 2
    assert replica.answered == 2


async def test_a_rendering_has_equal_ids_for_equal_beginnings() -> None:
    """One id for four bytes; prompts that share their head share its ids. Renderings are no generations."""
    bodies = [chat_body(2048, topic=topic) for topic in ("one", "two")]
    first, second = (json.loads(render(body).partition(b"\r\n\r\n")[2])["token_ids"] for body in bodies)
    shared = next(at for at, (a, b) in enumerate(zip(*bodies, strict=True)) if a != b) // 4
    assert len(first) == len(second) == 512
    assert first[:shared] == second[:shared] and first != second
    request = Request.post("/v1/chat/completions/render", bodies[0])
    (answer,), replica = await ask(request.head + request.body)
    assert (answer.status, replica.answered) == (200, 0)


async def test_health_and_models_are_served_and_not_counted() -> None:
    """What routers ask before they send anything."""
    get = b"GET %b HTTP/1.1\r\nhost: stub\r\n\r\n"
    answers, replica = await ask(get % b"/health", get % b"/v1/models", get % b"/counts")
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert replica.answered == 0


async def test_steps_of_replicas_may_be_spread() -> None:
    """A phase is a place in the interval of the clock, whenever the first stream begins."""
    loop = asyncio.get_running_loop()
    for phase in (0.0, 0.25, 0.75):
        replica = Replica(loop, 2.0, phase)
        first_s = replica._first_step_s()
        assert 0 < first_s - loop.time() <= 2.0
        assert (first_s / 2.0) % 1 == pytest.approx(phase, abs=1e-6) or (first_s / 2.0) % 1 > 1 - 1e-6
