"""Policies that are tried on a whole edge: real HAProxy, simulated replicas, real requests."""

from __future__ import annotations

from typing import Any

import pytest
from edge import FAST, SHARING, RunningEdge, SharedEdges, until

pytestmark = [pytest.mark.e2e, SHARING, pytest.mark.system]

LEAST = {"policy": "least_load"}
HEAD = "The harbour's rules apply to all who enter it. " * 200
"""9,400 bytes that all prompts begin with: within the window of bodies that a policy by load has HAProxy look at."""


async def state(edge: RunningEdge, trial: str) -> dict[str, Any]:
    view: dict[str, Any] = (await edge.admin.get(f"/v1/policy/{trial}")).json()
    return view


async def test_haproxy_sends_prompts_while_a_shadow_goes_by_them(shared: SharedEdges) -> None:
    """Under a policy by load: the shadow finds prompts cached, and what it would have chosen stands in the decisions;
    no request goes elsewhere for it."""
    async with shared.up(2, engine=FAST, policy=LEAST) as edge:
        answer = await edge.admin.put("/v1/policy/shadow", json={"document": {"policy": "kv_cost"}})
        assert answer.status_code == 200, answer.text
        asked = 0

        async def found_cached() -> bool:
            nonlocal asked
            for _ in range(4):
                asked += 1
                assert (await edge.chat(HEAD + f"question {asked}", session=f"shadow {asked % 3}")).status_code == 200
            result = (await state(edge, "shadow"))["result"]
            return bool(result["predicted"] >= 8 and result["ttft_ms"]["made"] > 0)

        await until(found_cached)
        decisions = (await edge.admin.get("/v1/decisions?limit=4")).json()["decisions"]
        assert {decision["policy"]["name"] for decision in decisions} == {"least_load"}
        assert {decision["shadow"]["policy"] for decision in decisions} == {"kv_cost"}
        assert any(decision["resident_tokens"] > 0 for decision in decisions)
        shadow = await state(edge, "shadow")
        assert shadow["errors"] == 0 and shadow["state"] == "running"
        assert (await edge.metrics())['pointsman_shadow_info{policy="kv_cost",state="running"}'] == 1
        tried = await edge.admin.post("/v1/policy/dry-run", json={"document": {"policy": "kv_cost"}, "last": 4})
        assert tried.json()["result"]["judged"] == 4
        assert (await edge.admin.delete("/v1/policy/shadow")).status_code == 204


async def test_a_rollout_is_promoted_by_what_clients_got(shared: SharedEdges) -> None:
    """New sessions are divided, engines report their first tokens, and the policy is live in the end."""
    async with shared.up(2, engine=FAST, policy=LEAST) as edge:
        body = {
            "document": {"policy": "round_robin"},
            "steps": [0.5],
            "step_s": 1,
            "min_requests": 10,
            "bounds": {"error_share": 0.5, "ttft_ratio": 50},
        }
        assert (await edge.admin.post("/v1/policy/rollout", json=body)).status_code == 201
        asked = 0

        async def over() -> bool:
            nonlocal asked
            for _ in range(8):
                asked += 1
                answer = await edge.chat(f"hello {asked}", session=f"rollout {asked}")
                assert answer.status_code == 200
            return bool((await state(edge, "rollout"))["state"] != "running")

        await until(over)
        rollout = await state(edge, "rollout")
        assert rollout["state"] == "promoted", rollout
        arms = (rollout["live"], rollout["candidate"])
        assert all(arm["requests"] >= 10 and arm["errors"] == 0 and arm["measured"] >= 10 for arm in arms)
        assert (await edge.admin.get("/v1/policy")).json() == {"policy": "round_robin"}


async def test_a_rollout_waits_for_requests_and_is_ended_by_hand(shared: SharedEdges) -> None:
    """Its state says what is missing; then the live policy decides alone."""
    async with shared.up(2, engine=FAST, policy=LEAST) as edge:
        body = {"document": {"policy": "kv_cost"}, "steps": [0.5], "step_s": 3600}
        assert (await edge.admin.post("/v1/policy/rollout", json=body)).status_code == 201
        rollout = await state(edge, "rollout")
        assert rollout["state"] == "running" and "0 of 100 requests" in rollout["waits_for"]
        for number in range(12):
            await edge.chat("hello", session=f"tried {number}")
        decided = (await edge.admin.get("/v1/decisions?limit=12")).json()["decisions"]
        assert {decision["policy"]["name"] for decision in decided} == {"least_load", "kv_cost"}
        assert (await edge.admin.delete("/v1/policy/rollout")).status_code == 204
        assert (await state(edge, "rollout"))["state"] == "aborted"
        for number in range(12):
            await edge.chat("hello", session=f"tried {number}")
        decided = (await edge.admin.get("/v1/decisions?limit=12")).json()["decisions"]
        assert {decision["policy"]["name"] for decision in decided} == {"least_load"}
