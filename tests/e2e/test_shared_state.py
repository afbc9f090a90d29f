"""Two edges, two HAProxies, one Valkey: what is known at one is known at the other."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from edge import RunningEdge, agree, read_stream, running_edges, until
from valkey_server import running_valkey

pytestmark = [pytest.mark.e2e, pytest.mark.system]

STICKY = '{"policy": "session_affinity", "fallback": {"policy": "least_load"}}'


async def test_two_edges_place_like_one() -> None:
    """Replicas, drains, sessions, work in flight and the policy: said at one edge, true at both."""
    async with running_edges(2, 3, "--policy", STICKY, engine={"token_interval_ms": 10}) as (a, b):
        answers = [await a.chat(session=f"s{n}") for n in range(9)]
        homes = {f"s{n}": answer.headers["x-pointsman-replica"] for n, answer in enumerate(answers)}
        await agree((a, b))
        for session, home in homes.items():
            answer = await b.chat(session=session)
            assert (answer.headers["x-pointsman-replica"], answer.headers["x-pointsman-reason"]) == (
                home,
                "session-pin",
            )

        put = await a.admin.put("/v1/replicas/elsewhere", json={"url": "http://127.0.0.1:9"})
        assert put.status_code == 201

        async def known_at_b() -> bool:
            return "elsewhere" in await b.replicas()

        await until(known_at_b)
        assert (await b.admin.delete("/v1/replicas/elsewhere")).status_code == 204

        async def gone_at_a() -> bool:
            return "elsewhere" not in await a.replicas()

        await until(gone_at_a)

        before = (await b.admin.get("/v1/policy")).headers["etag"]
        assert (await a.put_policy({"policy": "least_load"})).status_code == 200

        async def live_at_b() -> bool:
            return (await b.admin.get("/v1/policy")).json()["policy"] == "least_load"

        await until(live_at_b)
        stale = await b.admin.put("/v1/policy", json={"policy": "random"}, headers={"if-match": before})
        assert stale.status_code == 412

        stream = asyncio.create_task(read_stream(a, tokens=150))

        async def loaded_at_b() -> bool:
            return sum(view["in_flight"] for view in (await b.replicas()).values()) == 1

        async def idle_at_b() -> bool:
            return sum(view["in_flight"] for view in (await b.replicas()).values()) == 0

        await until(loaded_at_b)
        await stream
        await until(idle_at_b)
        await agree((a, b))

        checked = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pointsman", "state", "check", "--admin", a.admin_url),
            stdout=asyncio.subprocess.PIPE,
        )
        assert (await checked.communicate())[0] == b"2 edges agree\n"
        assert checked.returncode == 0


async def at_rest(edges: Sequence[RunningEdge]) -> bool:
    """Whether no edge knows of work in flight, its own or another's."""
    busy = ("pointsman_in_flight{", "pointsman_prefill_backlog_tokens{")
    for edge in edges:
        values = await edge.metrics()
        if any(value for name, value in values.items() if name.startswith(busy)):
            return False
    return True


async def test_caches_and_conversations_are_known_at_both_edges() -> None:
    """Turns of one conversation alternate between the edges: the second edge finds the first one's cache."""
    async with running_edges(2, 3, "--policy", "kv_cost") as edges:
        messages: list[dict[str, str]] = []
        homes = []
        for turn in range(6):
            edge = edges[turn % 2]
            messages.append({"role": "user", "content": f"turn {turn} " + "words of a long prompt " * 120})
            answer = await edge.client.post(
                "/v1/chat/completions",
                json={"model": "sim", "messages": messages, "max_tokens": 8},
                headers={"x-session-id": "talk"},
            )
            homes.append((answer.headers["x-pointsman-replica"], answer.headers["x-pointsman-reason"]))
            messages.append(answer.json()["choices"][0]["message"])
            await agree(edges)
            # Work in flight is told as counts: a turn that still counts would make its home look busy.
            await until(lambda: at_rest(edges))
        assert len({home for home, _ in homes}) == 1
        assert [reason for _, reason in homes[1:]] == ["kv-home"] * 5


async def test_an_edge_starts_and_serves_without_its_store(tmp_path: Path) -> None:
    """It says that it is degraded, not that it is not ready, and joins when the store comes."""
    socket = tmp_path / "valkey.sock"
    async with running_edges(2, 2, "--policy", STICKY, "--redis", f"unix://{socket}") as (a, b):
        for edge in (a, b):
            assert (await edge.chat(session="s")).status_code == 200
            ready = await edge.admin.get("/readyz")
            assert ready.status_code == 200 and "degraded: shared state: unreachable" in ready.text
        assert (await a.put_policy({"policy": "least_load"})).status_code == 200
        async with running_valkey(tmp_path):
            await agree((a, b))
            assert (await b.admin.get("/v1/policy")).json()["policy"] == "least_load"

            async def in_step() -> bool:
                metrics = await a.metrics()
                ready = await a.admin.get("/readyz")
                return ready.text == "ok\n" and metrics['pointsman_shared_edges{state="in-step"}'] == 1

            await until(in_step)
            assert (await a.metrics())['pointsman_shared_store_errors_total{cause="unreachable"}'] > 0
