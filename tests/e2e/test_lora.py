"""LoRA adapters behind a whole edge: the name decides who may serve, and who has it loaded serves."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from edge import RunningEdge, running_up, until
from sim_replica import client_of, replica

pytestmark = [pytest.mark.e2e, pytest.mark.system]

PATIENT = {"timeouts": {"processing_ms": 5000, "router_check_ms": 1000}}
"""So that a machine that is busy with other things does not make the edge fail open."""

ADAPTERS = ("chat", "math", "sql")


async def ask(edge: RunningEdge, model: str) -> tuple[str, str]:
    """Replica and reason of one answer, which names the model it was asked for."""
    answer = await edge.chat(model=model)
    assert answer.status_code == 200 and answer.json()["model"] == model, answer.text
    return answer.headers["x-pointsman-replica"], answer.headers["x-pointsman-reason"]


async def listed(edge: RunningEdge) -> dict[str, Any]:
    answer = await edge.client.get("/v1/models")
    return {card["id"]: card.get("parent") for card in answer.json()["data"]}


async def test_each_adapter_settles_where_it_is_loaded() -> None:
    """Three adapters, three replicas with one slot each: 30 requests load three adapters, not thirty."""
    engine = {"timing": "fast", "adapters": list(ADAPTERS), "max_loras": 1, "faults": True}
    async with running_up(3, "--policy", "lora_affinity", engine=engine, haproxy=PATIENT) as edge:
        first = {adapter: await ask(edge, adapter) for adapter in ADAPTERS}
        assert {reason for _, reason in first.values()} == {"lora-room"}
        assert len({name for name, _ in first.values()}) == 3
        for _ in range(9):
            for adapter in ADAPTERS:
                assert await ask(edge, adapter) == (first[adapter][0], "lora-loaded")
        assert (await ask(edge, "sim"))[1] == "least-load"
        assert await listed(edge) == {"sim": None, **dict.fromkeys(ADAPTERS, "sim")}

        async def told() -> bool:
            views = await edge.replicas()
            return {view["adapters_loaded"][0] for view in views.values() if view["adapters_loaded"]} == set(ADAPTERS)

        await until(told)


async def test_plain_endpoints_serve_adapters_too() -> None:
    """Their lists say which; one loaded at run time is routed to where it is, and refused nowhere else."""
    lora: dict[str, Any] = {"max_loras": 2, "model": "tiny"}
    async with (
        replica(adapters=("sql",), **lora) as a,
        replica(adapters=("sql",), **lora) as b,
        client_of(b) as direct,
        running_up(
            0,
            router={
                "replicas": [{"id": "a", "url": a.url}, {"id": "b", "url": b.url}],
                "policy": {"policy": "lora_affinity"},
                "scrape": {"models_interval_s": 0.2},
            },
            haproxy=PATIENT,
        ) as edge,
    ):

        async def known(*names: str) -> bool:
            return (await listed(edge)).keys() >= set(names) and set((await edge.states()).values()) == {"up"}

        await until(lambda: known("tiny", "sql"))
        served = Counter([(await ask(edge, "sql"))[0] for _ in range(8)])
        assert len(served) == 1, "it stays where it was sent first"
        assert (await edge.chat(model="math")).status_code == 404
        await direct.post("/v1/load_lora_adapter", json={"lora_name": "math", "lora_path": "/adapters/math"})
        await until(lambda: known("math"))
        assert {(await ask(edge, "math"))[0] for _ in range(4)} == {"b"}
