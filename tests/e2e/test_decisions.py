"""Records of decisions on a whole edge: after traffic of all kinds, each request has its own, with what came of it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from typing import Any, NamedTuple

import httpx
import pytest
from edge import RunningEdge, running_up, until
from sim_replica import replica

pytestmark = [pytest.mark.e2e, pytest.mark.system]

REQUESTS = 1000
AT_ONCE = 16
ENGINE = {"timing": "fast", "faults": True, "mean_output_tokens": 0}
ADMISSION = {"policy": "kv_cost", "admission": {"limit": 0.8, "wait_s": 2.0}}
PATIENT = {"timeouts": {"processing_ms": 3000, "router_check_ms": 1000}}
"""So that a machine that is busy with other things does not make the edge fail open."""

ID = "x-pointsman-request-id"


class Seen(NamedTuple):
    """One request as its client saw it."""

    kind: str
    status: int
    replica: str
    left: bool
    """Whether the client left before the end."""


class Traffic:
    """Clients of all kinds, a few at once."""

    def __init__(self, edge: RunningEdge) -> None:
        self.edge = edge
        self.seen: dict[str, Seen] = {}
        self.lost = 0
        """Requests without an answer that names them."""
        self._dice = random.Random(7)

    async def run(self, requests: int) -> None:
        left = iter(range(requests))

        async def client() -> None:
            for number in left:
                await self._one(number)

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))

    async def _one(self, number: int) -> None:
        kind = self._dice.choices(
            ["turn", "long", "stream", "leaves", "other", "unknown", "embedding"], [40, 10, 20, 5, 10, 5, 10]
        )[0]
        body: dict[str, Any] = {"model": "sim", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
        path, headers = "/v1/chat/completions", {"x-session-id": f"s{number % 40}"}
        if kind == "long":
            body["messages"][0]["content"] = f"{number} and so on, " * 600
        elif kind in ("stream", "leaves"):
            body |= {"stream": True, "ignore_eos": True, "max_tokens": 6000 if kind == "leaves" else 20}
        elif kind in ("other", "unknown"):
            body["model"] = "two" if kind == "other" else "nobody's"
        elif kind == "embedding":
            path, body = "/v1/embeddings", {"model": "sim", "input": "hello"}
        try:
            async with self.edge.client.stream("POST", path, json=body, headers=headers) as answer:
                request_id = answer.headers[ID]
                if kind == "leaves":
                    async for _ in answer.aiter_bytes():
                        break
                else:
                    await answer.aread()
                self.seen[request_id] = Seen(
                    kind, answer.status_code, answer.headers.get("x-pointsman-replica", ""), kind == "leaves"
                )
        except httpx.HTTPError:
            self.lost += 1


async def records(edge: RunningEdge) -> dict[str, dict[str, Any]]:
    """All decisions that the router keeps, by the id of their request."""
    found: dict[str, dict[str, Any]] = {}
    cursor = ""
    while True:
        answer = (await edge.admin.get(f"/v1/decisions?limit=500{cursor}")).json()
        found |= {decision["id"]: decision for decision in answer["decisions"]}
        if "next" not in answer:
            return found
        cursor = f"&cursor={answer['next']}"


async def test_each_request_of_mixed_traffic_has_its_record_joined_with_its_end() -> None:
    """Prefill and decode apart, two models, held and refused requests, clients that leave, a replica that fails and one
    that dies: status and replica in the record are those the client saw."""
    async with (
        replica(model="two") as other,
        running_up(
            6, "--prefill", "2", engine=ENGINE, haproxy=PATIENT,
            router={"policy": ADMISSION, "replicas": [{"id": "other", "url": other.url, "model": "two"}]},
        ) as edge,
    ):  # fmt: skip

        async def all_up() -> bool:
            return set((await edge.states()).values()) == {"up"}

        await until(all_up)
        traffic = Traffic(edge)
        await traffic.run(REQUESTS // 3)
        url = (await edge.replicas())["sim-2"]["url"]
        async with httpx.AsyncClient() as client:
            fault = await client.post(f"{url}/sim/fault", json={"error_status": 500, "error_count": 20})
            assert fault.status_code == 200
        await traffic.run(REQUESTS // 3)
        os.kill(edge.replica("sim-3").pid, signal.SIGKILL)
        await traffic.run(REQUESTS - 2 * (REQUESTS // 3))
        assert len(traffic.seen) + traffic.lost == REQUESTS and traffic.lost <= AT_ONCE

        async def all_ended() -> bool:
            found = await records(edge)
            missing = [seen for one, seen in traffic.seen.items() if one not in found]
            assert not missing, missing
            return all("status" in found[one].get("outcome", {}) for one in traffic.seen)

        await until(all_ended)
        found = await records(edge)
        for request_id, seen in traffic.seen.items():
            record = found[request_id]
            outcome = record["outcome"]
            assert outcome["status"] == seen.status, (seen, record)
            assert outcome.get("replica", "") == seen.replica, (seen, record)
            reports = seen.kind not in ("embedding", "other") and seen.replica != "sim-3"
            if seen.status == 200 and not seen.left and reports:
                assert outcome["output_tokens"] > 0 and outcome["ended"] in ("stop", "length"), (seen, record)
                assert "actual_cached" in outcome and "ttft_ms" in outcome, (seen, record)
        kinds = Counter(seen.kind for seen in traffic.seen.values())
        assert set(kinds) == {"turn", "long", "stream", "leaves", "other", "unknown", "embedding"}
        ended = Counter(found[one]["outcome"]["ended"] for one, seen in traffic.seen.items() if seen.left)
        assert ended["client"] > ended.total() / 2, ended
        assert any("pairing" in record for record in found.values()), "prompts could be computed apart"
        why = (await edge.admin.get(f"/v1/decisions/{next(iter(traffic.seen))}")).json()
        assert why["candidates"] and json.dumps(why)
