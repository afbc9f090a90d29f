"""Trying a policy before it is live: on past decisions, beside the live one, and on a share of sessions."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from other_task import another_task
from prometheus_client.parser import text_string_to_metric_families
from ring_line import line
from router_fixture import client_of, register, running_router

from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router
from pointsman.router.decide.body_needs import BodyNeeds, body_needs

KV: dict[str, Any] = {"policy": "kv_cost"}


@asynccontextmanager
async def decided_edge(
    requests: int, policy: dict[str, Any] = KV, **overrides: Any
) -> AsyncIterator[tuple[Router, httpx.AsyncClient]]:
    """A router on two replicas that decided so many requests, of three sessions and two tenants."""
    async with running_router(policy=policy, **overrides) as router, client_of(router) as client:
        await register(router, "a", "b", model="sim")
        for number in range(requests):
            features = RequestFeatures(
                request_id=f"r{number}",
                model="sim",
                session=f"s{number % 3}",
                tenant=f"t{number % 2}",
                body_bytes=4000,
                prefix_keys=tuple(range(1, 4)),
            )
            router.core.decide(features, router.clock())
        yield router, client


async def dry_run(client: httpx.AsyncClient, document: dict[str, Any], **asked: Any) -> dict[str, Any]:
    answer = await client.post("/v1/policy/dry-run", json={"document": document, **asked})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_document_is_tried_on_the_latest_decisions() -> None:
    """What it would have moved, from where to where, and what that was worth by one judge."""
    async with decided_edge(30) as (_, client):
        answer = await dry_run(client, {"policy": "random"}, last=20)
        assert answer["document"] == {"policy": "random"} and answer["looked_at"] == 20
        assert answer["first_at"] <= answer["last_at"]
        result = answer["result"]
        assert result["judged"] == result["predicted"] == 20 and answer["unjudged"] == {}
        assert result["moved_share"] == result["moved"] / 20 > 0
        assert sum(move["requests"] for move in result["moves"]) == result["moved"] and result["moves_left_out"] == 0
        assert all({move["from"], move["to"]} == {"a", "b"} for move in result["moves"])
        means = result["ttft_ms"]
        assert result["regret_ms"]["per_request"] == pytest.approx(means["made"] - means["candidate"], abs=0.02)
        assert result["regret_ms"]["sum"] == pytest.approx(20 * result["regret_ms"]["per_request"], abs=0.1)
        assert sum(one["judged"] for one in result["by_reason"].values()) == 20
        assert "Caches and queues are those that the policies in force made" in answer["notes"][0]
        assert (await client.get("/v1/policy")).json()["policy"] == "kv_cost"
        assert (await client.get("/v1/policy/revisions")).json()["revisions"][0]["revision"] == 1
        assert (await client.get("/v1/events?kind=audit")).json()["events"][-1]["operation"] == "putReplica"


async def test_a_document_is_tried_on_one_model_or_tenant() -> None:
    async with decided_edge(10) as (_, client):
        assert (await dry_run(client, KV, tenant="t1"))["looked_at"] == 5
        assert (await dry_run(client, KV, model="other"))["looked_at"] == 0


async def test_what_cannot_be_judged_is_said_with_its_reason() -> None:
    """Signals that nobody gathered, by name."""
    async with decided_edge(5, {"policy": "least_load"}) as (_, client):
        answer = await dry_run(client, KV)
        assert answer["unjudged"] == {"not-gathered": 5}
        assert answer["missing_signals"] == ["kv", "prefix", "session"]
        assert answer["notes"][1].startswith("not-gathered: Signals that the document needs")


async def test_measured_times_stand_beside_the_predicted() -> None:
    """Where engines or HAProxy reported them."""
    async with decided_edge(3) as (router, client):
        for number, took_ms in ((0, 30.0), (1, 50.0)):
            first = router.core.decisions.get(f"r{number}").decision.first  # type: ignore[union-attr]
            first_token = {"id": f"r{number}", "prompt_tokens": 1000, "ttft_ms": took_ms}
            events = {"first": [first_token], "epoch": "e", "seq": 0, "snapshot": True}
            assert (await client.post(f"/v1/replicas/{first}/events", json=events)).status_code == 200
        assert (await dry_run(client, KV))["measured_ttft_ms"] == 40.0


@pytest.mark.parametrize(
    ("body", "key", "says"),
    [
        ({"document": {"policy": "rr"}}, "document.policy", "got 'rr'"),
        ({"document": {"policy": "least_load", "by": 1}}, "document.by", "'requests' or 'tokens'"),
        ({"document": KV, "last": 0}, "last", "from 1 to 100000"),
        ({"dokument": KV}, "dokument", "did you mean 'document'?"),
        ({}, "document", "missing"),
    ],
)
async def test_what_does_not_fit_is_refused(body: dict[str, Any], key: str, says: str) -> None:
    """With the path of the key in the body."""
    async with decided_edge(1) as (_, client):
        answer = await client.post("/v1/policy/dry-run", json=body)
        assert answer.status_code == 422 and answer.json()["key"] == key and says in answer.json()["detail"]


async def test_an_edge_that_keeps_no_decisions_cannot_try_any() -> None:
    """404 names the setting."""
    async with decided_edge(1, decisions={"max_records": 0}) as (_, client):
        answer = await client.post("/v1/policy/dry-run", json={"document": KV})
        assert answer.status_code == 404 and "decisions.max_records" in answer.json()["detail"]


async def test_lookups_are_let_through_while_decisions_are_judged() -> None:
    """A thousand decisions take some hundred turns, and two such calls wait for each other."""
    async with decided_edge(600) as (_, client), another_task() as turns:
        before = turns.count
        await asyncio.gather(*(dry_run(client, KV) for _ in range(2)))
        assert turns.count - before > 50


def decide(router: Router, *names: str, **given: Any) -> None:
    for name in names:
        router.core.decide(RequestFeatures(request_id=name, model="sim", body_bytes=4000, **given), router.clock())


async def test_a_shadow_is_put_watched_and_taken_away() -> None:
    """Its state says who put it, how the two compare, and what it costs; events tell of both."""
    async with decided_edge(0) as (router, client):
        assert (await client.get("/v1/policy/shadow")).status_code == 404
        body = {"document": {"policy": "random"}, "why": "is kv_cost worth it?"}
        answer = await client.put("/v1/policy/shadow", json=body, headers={"x-pointsman-author": "ann"})
        assert answer.status_code == 200, answer.text
        decide(router, *(f"q{number}" for number in range(20)), session="s")
        state = (await client.get("/v1/policy/shadow")).json()
        assert (state["state"], state["document"], state["sample"]) == ("running", {"policy": "random"}, 1.0)
        assert (state["author"], state["why"]) == ("ann", "is kv_cost worth it?")
        assert state["started_at"] == state["since"] and state["errors"] == 0 and "error" not in state
        assert state["result"]["judged"] == state["result"]["predicted"] == 20
        assert 0 < state["decision_us"]["mean"] <= state["decision_us"]["longest"]
        decisions = (await client.get("/v1/decisions?limit=1")).json()["decisions"]
        assert decisions[0]["policy"]["name"] == "kv_cost" and decisions[0]["shadow"]["policy"] == "random"
        assert (await client.get("/v1/policy")).json()["policy"] == "kv_cost"
        assert (await client.delete("/v1/policy/shadow")).status_code == 204
        assert (await client.get("/v1/policy/shadow")).status_code == 404
        assert (await client.delete("/v1/policy/shadow")).status_code == 404
        events = (await client.get("/v1/events?kind=policy")).json()["events"]
        assert [(event["text"], event.get("author")) for event in events] == [
            ("policy random is the shadow: is kv_cost worth it?", "ann"),
            ("policy random is no longer the shadow", "local"),
        ]


async def test_a_shadow_says_what_keeps_it_from_deciding_well() -> None:
    """As a policy that is put live."""
    async with decided_edge(0, {"policy": "least_load"}) as (router, client):
        router.core.edge_health.body_window_bytes = 16_384
        (warning,) = (await client.put("/v1/policy/shadow", json={"document": KV})).json()["warnings"]
        assert "HAProxy looks at 16384" in warning


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"document": {"policy": "rr"}}, "document.policy"),
        ({"document": KV, "sample": 1.5}, "sample"),
        ({"document": KV, "smaple": 1}, "smaple"),
        ({"policy": "random"}, "policy"),
    ],
)
async def test_a_shadow_that_does_not_fit_is_refused(body: dict[str, Any], key: str) -> None:
    """And the one before goes on."""
    async with decided_edge(0) as (_, client):
        await client.put("/v1/policy/shadow", json={"document": {"policy": "random"}})
        answer = await client.put("/v1/policy/shadow", json=body)
        assert answer.status_code == 422 and answer.json()["key"].startswith(key), answer.text
        assert (await client.get("/v1/policy/shadow")).json()["document"] == {"policy": "random"}


async def test_haproxy_reads_for_the_shadow_too() -> None:
    """Keys of prompts are asked for while a shadow goes by them."""
    async with decided_edge(0, {"policy": "least_load"}) as (router, client):
        assert body_needs(router.core.pipeline.choice.needs, names=1) == BodyNeeds.NOTHING
        await client.put("/v1/policy/shadow", json={"document": KV})
        assert BodyNeeds.PREFIX_KEYS in body_needs(router.core.pipeline.choice.needs, names=1)
        assert router.core.pipeline.choice.by_kv, "engines report every 20 ms"
        await client.delete("/v1/policy/shadow")
        assert body_needs(router.core.pipeline.choice.needs, names=1) == BodyNeeds.NOTHING


async def test_metrics_compare_the_shadow_with_what_was_decided() -> None:
    """By reason and outcome; without a shadow there are no series."""
    async with decided_edge(0) as (router, client):
        assert "pointsman_shadow_decisions_total{" not in (await client.get("/metrics")).text
        await client.put("/v1/policy/shadow", json={"document": {"policy": "random"}})
        decide(router, *(f"q{number}" for number in range(10)))
        result = (await client.get("/v1/policy/shadow")).json()["result"]
        families = text_string_to_metric_families((await client.get("/metrics")).text)
        samples = [sample for family in families for sample in family.samples if "shadow" in sample.name]
        info = next(sample for sample in samples if sample.name == "pointsman_shadow_info")
        assert (info.labels, info.value) == ({"policy": "random", "state": "running"}, 1)
        counted = Counter[str]()
        for sample in samples:
            counted[
                " ".join([sample.name, *(sample.labels[n] for n in ("outcome", "choice") if n in sample.labels)])
            ] += sample.value
        assert counted["pointsman_shadow_decisions_total moved"] == result["moved"] > 0
        assert counted["pointsman_shadow_decisions_total agreed"] == 10 - result["moved"]
        assert counted["pointsman_shadow_predicted_total"] == 10
        made_s = counted["pointsman_shadow_ttft_seconds_total made"]
        assert made_s == pytest.approx(result["ttft_ms"]["made"] * 10 / 1000, rel=0.01)
        assert counted["pointsman_shadow_errors_total"] == 0


def serve(router: Router, count: int, **by_policy: dict[str, Any]) -> None:
    """Requests of new sessions that end; `by_policy` are fields of their lines."""
    known = len(router.core.decisions or ())
    for number in range(known, known + count):
        decide(router, f"q{number}", session=f"new{number}")
        record = router.core.decisions.get(f"q{number}")  # type: ignore[union-attr]
        fields = {"ttft": "50"} | by_policy.get(record.policy, {})  # type: ignore[union-attr]
        chosen = record.decision.first  # type: ignore[union-attr]
        router.core.end_of_request.apply(line(id=f"q{number}", srv=chosen, first=chosen, **fields), router.clock())


async def roll_out(client: httpx.AsyncClient, document: dict[str, Any], **given: Any) -> httpx.Response:
    body = {"document": document, "steps": [0.5], "step_s": 1, "min_requests": 20} | given
    return await client.post("/v1/policy/rollout", json=body, headers={"x-pointsman-author": "ann"})


async def test_a_rollout_shows_both_policies_and_is_promoted() -> None:
    """By counts and times of each; then its document is live, with its author."""
    async with decided_edge(0, {"policy": "least_load"}) as (router, client):
        assert (await client.get("/v1/policy/rollout")).status_code == 404
        answer = await roll_out(client, {"policy": "random"}, why="cheaper")
        assert answer.status_code == 201, answer.text
        serve(router, 100)
        state = (await client.get("/v1/policy/rollout")).json()
        assert (state["state"], state["steps"], state["step"], state["share"]) == ("running", [0.5], 1, 0.5)
        assert (state["author"], state["why"], state["revision"]) == ("ann", "cheaper", 2)
        assert state["live"]["requests"] + state["candidate"]["requests"] == 100
        assert state["candidate"]["ttft_ms"] == {"p50": 50.0, "p95": 50.0, "p99": 50.0} and state["ttft_ratio"] == 1.0
        assert "waits_for" not in state and state["not_compared"] == 0
        text = (await client.get("/metrics")).text
        assert "pointsman_rollout_share" in text and "pointsman_rollout_ttft_seconds_bucket" in text
        router.core.sweep(router.clock() + 1.0)
        state = (await client.get("/v1/policy/rollout")).json()
        assert (state["state"], state["share"]) == ("promoted", 1.0)
        assert (await client.get("/v1/policy")).json()["policy"] == "random"
        revisions = (await client.get("/v1/policy/revisions")).json()["revisions"]
        assert [(one["revision"], one["tried"], one["active"], one["author"]) for one in revisions] == [
            (3, False, True, "ann"),
            (2, True, False, "ann"),
            (1, False, False, "configuration"),
        ]
        assert (await client.get("/v1/policy/diff")).json()["from"] == 1, "what was only tried was not live"


async def test_a_rollout_that_is_worse_returns_and_says_why() -> None:
    """The events have each step."""
    async with decided_edge(0, {"policy": "least_load"}) as (router, client):
        await roll_out(client, {"policy": "random"})
        serve(router, 60, random={"st": 500})
        router.core.sweep(router.clock())
        state = (await client.get("/v1/policy/rollout")).json()
        assert state["state"] == "returned" and state["ended"].startswith("100.0% of its requests failed")
        assert state["candidate"]["error_share"] == 1.0 and state["live"]["error_share"] == 0.0
        events = [event["text"] for event in (await client.get("/v1/events?kind=policy")).json()["events"]]
        assert events[0] == "rollout of policy random decides 50% of new sessions"
        assert events[1].startswith("rollout of policy random returned: 100.0% of its requests failed")


async def test_a_rollout_is_ended_by_hand() -> None:
    """Its state stays to be looked at; a second time there is none."""
    async with decided_edge(0) as (_, client):
        assert (await client.delete("/v1/policy/rollout")).status_code == 404
        await roll_out(client, {"policy": "random"})
        assert (await client.delete("/v1/policy/rollout", headers={"x-pointsman-author": "bob"})).status_code == 204
        state = (await client.get("/v1/policy/rollout")).json()
        assert (state["state"], state["ended"]) == ("aborted", "bob ended it")
        assert (await client.delete("/v1/policy/rollout")).status_code == 404


async def test_one_rollout_runs_at_a_time_and_from_the_version_that_was_seen() -> None:
    """409 for a second one and for the live document; 412 when the policy changed."""
    async with decided_edge(0) as (_, client):
        assert (await roll_out(client, KV)).status_code == 409
        stale = await client.post(
            "/v1/policy/rollout", json={"document": {"policy": "random"}}, headers={"if-match": '"old"'}
        )
        assert stale.status_code == 412 and stale.headers["etag"] == (await client.get("/v1/policy")).headers["etag"]
        assert (await roll_out(client, {"policy": "random"})).status_code == 201
        second = await roll_out(client, {"policy": "round_robin"})
        assert second.status_code == 409 and "end it first" in second.json()["detail"]
        await client.put("/v1/policy", json={"policy": "power_of_two"})
        assert (await client.get("/v1/policy/rollout")).json()["state"] == "overtaken"


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"steps": []}, "steps"),
        ({"steps": [1.0]}, "steps"),
        ({"steps": [0.5, 0.1]}, "steps"),
        ({"steps": [0.1, 0.1]}, "steps"),
        ({"steps": [0.0, 0.5]}, "steps[0]"),
        ({"step_s": 0}, "step_s"),
        ({"bounds": {"ttft_ratio": 0.5}}, "bounds.ttft_ratio"),
        ({"bounds": {"ttft": 2}}, "bounds.ttft"),
        ({"document": {"policy": "rr"}}, "document.policy"),
    ],
)
async def test_a_rollout_that_does_not_fit_is_refused(given: dict[str, Any], key: str) -> None:
    """With the path of the key."""
    async with decided_edge(0) as (_, client):
        answer = await client.post("/v1/policy/rollout", json={"document": {"policy": "random"}} | given)
        assert (answer.status_code, answer.json()["key"]) == (422, key), answer.text
