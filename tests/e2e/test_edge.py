"""A whole edge in quiet weather: `pointsman up`, the real HAProxy, simulated replicas.

Tests that leave replicas and settings alone share one edge of four replicas.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager

import httpx
import pytest
from edge import FAST, SHARING, RunningEdge, SharedEdges, read_stream, running_up, until

pytestmark = [pytest.mark.e2e, SHARING]


def four(shared: SharedEdges, policy: str = "kv_cost") -> AbstractAsyncContextManager[RunningEdge]:
    """The edge that most tests here share, with a policy."""
    return shared.up(4, policy={"policy": policy}, router={"override_header": True})


async def test_an_openai_client_streams_through_the_edge(shared: SharedEdges) -> None:
    """Tokens arrive one by one; the response names replica, reason and request."""
    from openai import AsyncOpenAI  # where it is used: a second of CPU in each worker

    async with four(shared) as edge:
        client = AsyncOpenAI(base_url=f"{edge.url}/v1", api_key="none", max_retries=0)
        answer = await client.chat.completions.with_raw_response.create(
            model="sim",
            messages=[{"role": "user", "content": "a prompt nobody sent before"}],
            max_tokens=16,
            stream=True,
            extra_body={"ignore_eos": True},
            extra_headers={"x-session-id": "s"},
        )
        chunks = [chunk async for chunk in answer.parse()]
        assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) == 16
        assert answer.headers["x-pointsman-replica"] in ("sim-1", "sim-2", "sim-3", "sim-4")
        assert answer.headers["x-pointsman-reason"] == "kv-cold"
        assert answer.headers["x-request-id"] in chunks[0].id
        await client.close()


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_sessions_stick_and_strangers_spread(lookup: str, shared: SharedEdges) -> None:
    """A session keeps its replica; requests without a key use all of them. The same over both lookups."""
    asked = (
        four(shared, "session_affinity")
        if lookup == "spoe"
        else running_up(4, "--lookup", lookup, "--policy", "session_affinity")
    )
    async with asked as edge:
        for session in ("a", "b", "c"):
            answers = [await edge.chat(session=session) for _ in range(4)]
            assert len({answer.headers["x-pointsman-replica"] for answer in answers}) == 1
            assert {answer.headers["x-pointsman-reason"] for answer in answers[1:]} == {"session-pin"}
        strangers = await asyncio.gather(*(edge.chat(f"prompt {n}") for n in range(60)))
        assert {answer.status_code for answer in strangers} == {200}
        assert len({answer.headers["x-pointsman-replica"] for answer in strangers}) == 4
        # The body's own session key counts where no header has one.
        by_body = [await edge.chat(prompt_cache_key="conversation-7") for _ in range(3)]
        assert [answer.headers["x-pointsman-reason"] for answer in by_body[1:]] == ["session-pin"] * 2


@pytest.mark.parametrize("policy", ["consistent_hash", "session_affinity"])
async def test_keyless_requests_spread_evenly(policy: str, shared: SharedEdges) -> None:
    """No key must not mean one constant key: 120 requests one after another over 4 replicas, each gets its share.

    Least load with dice among equals: 30 expected each, 4.7 standard deviation; under 12 would be four of them.
    """
    async with four(shared, policy) as edge:
        served = Counter([(await edge.chat(f"prompt {n}")).headers["x-pointsman-replica"] for n in range(120)])
        assert sorted(served) == ["sim-1", "sim-2", "sim-3", "sim-4"]
        assert min(served.values()) >= 12, served


async def test_policies_change_live_under_load(shared: SharedEdges) -> None:
    """Six policies one after another while requests flow: no error, and each policy's reason is seen."""
    async with four(shared) as edge:
        stop = asyncio.Event()
        reasons: Counter[str] = Counter()
        statuses: Counter[int] = Counter()

        async def ask(number: int) -> None:
            while not stop.is_set():
                answer = await edge.chat(session=f"s{number}")
                statuses[answer.status_code] += 1
                reasons[answer.headers["x-pointsman-reason"]] += 1

        asking = [asyncio.create_task(ask(n)) for n in range(8)]
        expected = {
            "round_robin": "round-robin",
            "random": "random",
            "least_load": "least-load",
            "power_of_two": "power-of-two",
            "consistent_hash": "hash",
            "session_affinity": "session-pin",
        }
        for policy, reason in expected.items():
            assert (await edge.put_policy({"policy": policy})).status_code == 200
            before = reasons[reason]

            async def seen(reason: str = reason, before: int = before) -> bool:
                return reasons[reason] >= before + 5

            await until(seen)
        refused = await edge.put_policy({"policy": "least_load", "by": "words"})
        assert refused.status_code == 422 and "words" in refused.text
        stop.set()
        await asyncio.gather(*asking)
        assert set(statuses) == {200}
        await until(edge.idle)


@pytest.mark.system
async def test_a_policy_may_be_named_for_one_request_only_where_enabled(shared: SharedEdges) -> None:
    """Enabled, the header decides that one request; not enabled, it is stripped and ignored."""
    header = {"x-pointsman-policy": "random"}
    body = {"model": "sim", "messages": [{"role": "user", "content": "which policy?"}], "max_tokens": 1}
    async with four(shared, "least_load") as edge:
        overridden = await edge.client.post("/v1/chat/completions", json=body, headers=header)
        plain = await edge.client.post("/v1/chat/completions", json=body)
        assert overridden.headers["x-pointsman-reason"] == "random"
        assert plain.headers["x-pointsman-reason"] == "least-load"
    async with running_up(1) as edge:
        ignored = await edge.client.post("/v1/chat/completions", json=body, headers=header)
        assert ignored.headers["x-pointsman-reason"] == "kv-cold"


@pytest.mark.system
async def test_an_empty_edge_is_joined_and_left_through_the_admin_api() -> None:
    """Without a replica: a JSON 503, never HTML. A plain endpoint joins by URL and serves; deleted, it is gone."""
    async with running_up(1) as other, running_up(0) as edge:
        nobody = await edge.chat()
        assert nobody.status_code == 503 and "error" in nobody.json()
        url = (await other.replicas())["sim-1"]["url"]
        joined = await edge.admin.put("/v1/replicas/plain", json={"url": url, "model": "sim"})
        assert joined.status_code == 201

        async def serves() -> bool:
            return (await edge.states()) == {"plain": "up"}

        await until(serves)
        assert (await edge.chat()).headers["x-pointsman-replica"] == "plain"
        assert (await edge.admin.delete("/v1/replicas/plain")).status_code == 204

        async def gone() -> bool:
            return "plain" not in await edge.haproxy("show servers state fleet")

        await until(gone)
        assert (await edge.chat()).status_code == 503


async def test_streams_flow_over_h2_too(shared: SharedEdges) -> None:
    """HTTP/2 with prior knowledge on the same port: twenty streams on one connection."""
    async with four(shared) as edge:
        async with httpx.AsyncClient(base_url=edge.url, http1=False, http2=True, timeout=30) as client:
            served = await asyncio.gather(*(read_stream(edge, tokens=20, client=client) for _ in range(20)))
        assert {count for _, count in served} == {20}
        assert len({replica for replica, _ in served}) > 1


async def test_operators_see_what_happened(shared: SharedEdges) -> None:
    """Router and HAProxy metrics, health, and every replica's state after a handful of requests."""
    async with four(shared) as edge:
        before = await edge.metrics()
        for number in range(10):
            await edge.chat(session=f"s{number}")
        assert (await edge.admin.get("/readyz")).text == "ok\n"

        def requests(metrics: dict[str, float]) -> float:
            return sum(value for name, value in metrics.items() if name.startswith("pointsman_requests_total"))

        async def counted() -> bool:
            return requests(await edge.metrics()) == requests(before) + 10

        await until(counted)
        metrics = await edge.metrics()
        assert metrics["pointsman_haproxy_up"] == 1
        assert metrics["pointsman_fail_open_total"] == before["pointsman_fail_open_total"]
        assert metrics["pointsman_lookup_seconds_count"] == before["pointsman_lookup_seconds_count"] + 10


@pytest.mark.system
async def test_each_model_is_served_by_its_own_while_the_router_is_dead() -> None:
    """SIGKILL with two models behind one edge: HAProxy chooses alone, and no request meets a replica of the other."""
    async with running_up(2) as edge, running_up(2, engine={**FAST, "model": "other"}) as others:
        for number, view in enumerate((await others.replicas()).values(), 1):
            await edge.admin.put(f"/v1/replicas/other-{number}", json={"url": view["url"], "model": "other"})

        async def all_grouped() -> bool:
            up = set((await edge.states()).values()) == {"up"}
            return up and len((await edge.haproxy("show map groups.map")).split()) == 12

        await until(all_grouped)
        edge.router().kill()
        alone: Counter[str] = Counter()

        async def both_were_chosen_alone() -> bool:
            for model, prefix in (("sim", "sim-"), ("other", "other-")):
                answer = await edge.chat(model=model, session=f"s{alone.total()}")
                assert answer.status_code == 200, answer.text
                assert answer.headers["x-pointsman-replica"].startswith(prefix)
                assert answer.json()["model"] == model
                alone[model] += answer.headers["x-pointsman-reason"] == "fail-open"
            return min(alone["sim"], alone["other"]) > 0

        await until(both_were_chosen_alone)
