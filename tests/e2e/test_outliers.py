"""A live edge whose replicas fail behind green health checks."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from typing import Any

import httpx
import pytest
from edge import RunningEdge, running_up, until

pytestmark = [pytest.mark.e2e, pytest.mark.system]

FAULTY = {"timing": "fast", "faults": True}
MANY = 1_000_000


async def switch(edge: RunningEdge, replica: str, **faults: Any) -> None:
    """Sets switches of a simulated replica."""
    url = (await edge.replicas())[replica]["url"]
    async with httpx.AsyncClient(trust_env=False) as client:
        (await client.post(f"{url}/sim/fault", json=faults)).raise_for_status()


async def statuses(edge: RunningEdge, count: int) -> Counter[int]:
    answers = [await edge.chat(session=f"s{number}") for number in range(count)]
    return Counter(answer.status_code for answer in answers)


async def test_a_replica_that_fails_is_ejected_and_comes_back() -> None:
    """Five errors reach clients, then none; it is `ejected` with its cause, and `up` again after a good answer."""
    async with running_up(4, "--policy", "least_load", engine=FAULTY) as edge:
        await switch(edge, "sim-3", error_status=500, error_count=MANY)
        seen = await statuses(edge, 100)
        # Some failures more than the five: the ejection is short at first, and each of its probes fails.
        assert 5 <= seen[500] <= 15
        view = (await edge.replicas())["sim-3"]
        assert (view["state"], view["cause"]) == ("ejected", "error")
        assert view["failures"] >= 5
        assert datetime.fromisoformat(view["since"]) < datetime.fromisoformat(view["until"])
        metrics = await edge.metrics()
        assert metrics['pointsman_ejections_total{cause="error",replica="sim-3"}'] >= 1
        explained = (await edge.admin.post("/v1/explain", json={})).json()
        assert explained["excluded"].get("sim-3", "ejected") == "ejected"

        await switch(edge, "sim-3", error_status=0, error_count=0)

        async def back() -> bool:
            await statuses(edge, 4)
            return (await edge.states())["sim-3"] == "up"

        await until(back)
        assert (await statuses(edge, 40)) == {200: 40}
        assert (await edge.replicas())["sim-3"]["cause"] is None


async def test_a_full_replica_costs_no_client_an_answer() -> None:
    """Its 503 go to the second choice; nobody is ejected, and it is shown as demoted."""
    async with running_up(3, "--policy", "least_load", engine=FAULTY) as edge:
        await switch(edge, "sim-2", error_status=503, error_count=MANY)
        shown = False
        for _ in range(60):
            assert (await edge.chat()).status_code == 200
            view = (await edge.replicas())["sim-2"]
            assert view["state"] == "up"
            shown = shown or (view["demotion"] or {}).get("cause") == "backpressure"
        assert shown


async def test_when_all_replicas_fail_clients_see_their_errors() -> None:
    """500 by each of them, none of HAProxy's own; none is ejected."""
    async with running_up(3, "--policy", "least_load", engine=FAULTY) as edge:
        for replica in ("sim-1", "sim-2", "sim-3"):
            await switch(edge, replica, error_status=500, error_count=MANY)
        await statuses(edge, 30)
        answers = [await edge.chat(session=f"s{number}") for number in range(60)]
        assert {answer.status_code for answer in answers} == {500}
        assert {answer.headers["x-pointsman-replica"] for answer in answers} == {"sim-1", "sim-2", "sim-3"}
        assert set((await edge.states()).values()) == {"up"}


async def test_a_stream_that_is_cut_is_evidence_too() -> None:
    """The replica cuts every stream after its first token; after five it gets none but probes."""
    async with running_up(4, "--policy", "least_load", engine={"token_interval_ms": 2, "faults": True}) as edge:
        await switch(edge, "sim-1", reset_after_tokens=1)
        cut = 0
        for number in range(80):
            try:
                body = {"stream": True, "max_tokens": 5, "ignore_eos": True}
                await edge.chat(session=f"s{number}", **body)
            except httpx.HTTPError:
                cut += 1
            await asyncio.sleep(0)
        assert 5 <= cut <= 12
        assert (await edge.replicas())["sim-1"]["cause"] == "cut"
