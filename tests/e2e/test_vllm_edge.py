"""Real vLLM behind the edge: Ray actors on CPU, a tiny seeded model, the OpenAI client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psutil
import pytest
from edge import RunningEdge, running_up, until
from sim_replica import events_of
from vllm_fleet import real_vllm

if TYPE_CHECKING:
    from openai import AsyncOpenAI

pytestmark = [pytest.mark.e2e, *real_vllm(timeout_s=1500)]

SESSIONS = [f"subject {n}" for n in range(16)]
"""An idle fleet gives a new session to any replica by dice: all sixteen to one of two happens once in 32,768."""

RESTART_S = 600.0
"""A replica imports vLLM, loads and warms up again."""


async def streamed(client: AsyncOpenAI, model: str, session: str, tokens: int = 24) -> tuple[str, str, int]:
    """One streamed chat: the replica that served, the reason, and the tokens that arrived."""
    answer = await client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": f"Tell me about {session}."}],
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
        extra_headers={"x-session-id": session},
    )
    counted = 0
    async for chunk in answer.parse():
        if chunk.usage:
            counted = chunk.usage.completion_tokens
    return answer.headers["x-pointsman-replica"], answer.headers["x-pointsman-reason"], counted


async def kill_replica(edge: RunningEdge, replica: str) -> None:
    """SIGKILL to the actor process that listens on the replica's port, and to its children."""
    port = int((await edge.replicas())[replica]["url"].rpartition(":")[2])
    owners = {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid
    }
    assert len(owners) == 1, owners
    actor = psutil.Process(owners.pop())
    for process in [*actor.children(recursive=True), actor]:
        process.kill()


async def test_vllm_streams_through_the_edge_and_survives_a_kill() -> None:
    """Two replicas: tokens stream, sessions stick, one is killed and sessions move; it comes back and serves."""
    from openai import AsyncOpenAI  # where it is used: a second of CPU in each worker

    async with (
        running_up(2, "--engine", "vllm", "--policy", "session_affinity", engine={}, start_s=600.0) as edge,
        AsyncOpenAI(base_url=f"{edge.url}/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        views = await edge.replicas()
        model = next(iter(views.values()))["model"]
        served: dict[str, str] = {}
        for session in SESSIONS:
            first = await streamed(client, model, session)
            again = await streamed(client, model, session)
            assert first[2] == again[2] == 24
            assert again[:2] == (first[0], "session-pin")
            served[session] = first[0]
            if len(served) >= 4 and set(served.values()) == set(views):
                break
        else:
            pytest.fail(f"one replica serves every session: {served}")
        victim = served[SESSIONS[0]]
        await kill_replica(edge, victim)
        moved = await streamed(client, model, SESSIONS[0])
        assert moved[0] != victim and moved[2] == 24

        async def out() -> bool:
            return (await edge.states()).get(victim) != "up"

        await until(out)
        assert all([(await streamed(client, model, s, 4))[0] != victim for s in served])

        async def back() -> bool:
            return (await edge.states()).get(victim) == "up"

        await until(back, RESTART_S)
        fresh = await asyncio.gather(*(streamed(client, model, f"fresh {n}", 4) for n in range(16)))
        assert victim in {replica for replica, _, _ in fresh}
        await until(edge.idle)
        tree = edge.tree()
        assert await edge.stop() == 0

        async def all_gone() -> bool:  # Ray's own processes end a moment after they are told
            left = [p for p in tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
            return not left

        await until(all_gone)


async def test_vllm_serves_an_alias_that_it_does_not_know() -> None:
    """Whole and streamed answers of all its APIs name the alias; the engine's own name goes on to be served."""
    async with running_up(1, "--engine", "vllm", "--policy", "kv_cost", engine={}, start_s=600.0) as edge:
        model = next(iter((await edge.replicas()).values()))["model"]
        made = await edge.admin.put("/v1/aliases/chat", json={"versions": [{"model": model}]})
        assert made.json()["warnings"] == []

        async def reads_names() -> bool:
            value = await edge.haproxy("get var proc.pm.body")
            return bool(int(value.split("<")[-1].split(">")[0]) & 8)

        await until(reads_names)
        asks = {
            "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4},
            "/v1/completions": {"prompt": "hello", "max_tokens": 4},
        }
        for path, body in asks.items():
            for name in ("chat", model):
                whole = await edge.client.post(path, json={**body, "model": name})
                assert (whole.status_code, whole.json()["model"]) == (200, name)
                stream = await edge.client.post(path, json={**body, "model": name, "stream": True})
                chunks = [chunk for chunk in events_of(stream.text) if chunk != "[DONE]"]
                assert len(chunks) >= 4
                assert {chunk["model"] for chunk in chunks} == {name}
        await until(edge.idle)
