"""A simulated replica and a real router: what is predicted is what happens."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
from edge import until
from invariants import check
from router_fixture import running_router
from sim_replica import replica

from pointsman.contract.prefix_keys import prefix_keys, scope_of, scoped
from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router

SYSTEM = "You are a careful assistant. " * 400
"""Some 11,600 bytes, 2,900 tokens by the simulated engine's rule."""


def keys_of(body: bytes) -> tuple[int, ...]:
    """As the router has them of a body that names the simulated model."""
    return tuple(scoped(prefix_keys(body), scope_of("sim")))


class Client:
    """Asks the router, then the replica it named, as HAProxy would."""

    def __init__(self, router: Router, urls: dict[str, str]) -> None:
        self.router = router
        self.urls = urls
        self.http = httpx.AsyncClient(timeout=30, trust_env=False)
        self.count = 0

    async def chat(self, messages: list[dict[str, str]], session: str = "") -> tuple[Decision, dict[str, Any]]:
        """The decision and the answer; waits until the router knows how it went."""
        self.count += 1
        request_id = f"request-{self.count}"
        body = msgspec.json.encode({"model": "sim", "messages": messages, "max_tokens": 40, "ignore_eos": True})
        features = RequestFeatures(
            request_id=request_id, model="sim", session=session, body_bytes=len(body), prefix_keys=keys_of(body)
        )
        decision = self.router.core.pipeline.decide(features, self.router.clock())
        answer = await self.http.post(
            f"{self.urls[decision.first]}/v1/chat/completions",
            content=body,
            headers={"content-type": "application/json", "x-request-id": request_id},
        )
        assert answer.status_code == 200, answer.text
        self.router.core.requests.end(request_id, self.router.clock())
        await until(lambda: self.is_told(request_id))
        return decision, answer.json()

    async def is_told(self, request_id: str) -> bool:
        return all(one.placement is None for one in self.router.core.requests if one.id == request_id)


def cached_tokens(router: Router) -> tuple[int, int]:
    """All cached tokens so far, as reported and as predicted."""
    rows = [row for _, row in router.core.meter.counts]
    return sum(row.cached_tokens for row in rows), sum(row.predicted_tokens for row in rows)


async def test_conversations_get_what_was_predicted() -> None:
    """Five turns of three conversations below one system prompt: all at home, and all cached tokens foreseen."""
    async with running_router(policy={"policy": "kv_cost"}) as router:
        admin = f"http://{router.addresses['admin']}"
        options = {"register": (admin,), "timing": "dense-h100", "token_interval_ms": 0.5}
        async with replica(replica_id="a", **options) as a, replica(replica_id="b", seed=1, **options) as b:
            await until(lambda: _all_report(router))
            client = Client(router, {"a": a.url, "b": b.url})
            homes: dict[str, set[str]] = {}
            for session in ("x", "y", "z"):
                messages = [{"role": "system", "content": SYSTEM}]
                for turn in range(5):
                    messages.append({"role": "user", "content": f"{session} asks {turn}: " + "why " * 300})
                    before = cached_tokens(router)
                    decision, answer = await client.chat(messages, session)
                    usage = answer["usage"]
                    actual, predicted = (now - then for now, then in zip(cached_tokens(router), before, strict=True))
                    assert actual == usage["prompt_tokens_details"]["cached_tokens"]
                    if turn:
                        assert decision.reason == "kv-home"
                        assert abs(predicted - actual) <= 0.02 * usage["prompt_tokens"], (session, turn)
                    homes.setdefault(session, set()).add(decision.first)
                    messages.append(answer["choices"][0]["message"])
            assert all(len(home) == 1 for home in homes.values())
            assert router.core.kv.columns.signals.footprint.sum() > 0
            assert router.core.kv.columns.signals.waiting.sum() == 0
            assert router.core.kv.times.observations > 0
            assert 3.5 < router.core.kv.ratio.bytes_per_token("sim") < 4.8
            check(router.core.kv)
            await client.http.aclose()


async def test_a_restarted_replica_is_forgotten_and_learned_again() -> None:
    """Same id, same port or not: what the first life held counts for nothing, what the second holds does."""
    async with running_router(policy={"policy": "kv_cost"}) as router:
        options = {"register": (f"http://{router.addresses['admin']}",), "replica_id": "a"}
        body = msgspec.json.encode({"model": "sim", "messages": [{"role": "user", "content": SYSTEM}], "max_tokens": 2})
        keys = keys_of(body)
        for _ in range(2):
            async with replica(**options) as server:
                await until(lambda: _all_report(router))
                assert router.core.kv.index.match(keys) == []
                client = Client(router, {"a": server.url})
                await client.chat([{"role": "user", "content": SYSTEM}])
                await until(lambda: _true(bool(router.core.kv.index.match(keys))))
                await client.http.aclose()
            assert router.core.kv.index.match(keys) == []


async def test_a_replica_may_keep_silent() -> None:
    """`events: false` is a plain endpoint: registered, routed to, and nothing is told of it."""
    async with running_router(policy={"policy": "kv_cost"}) as router:
        options = {"register": (f"http://{router.addresses['admin']}",), "replica_id": "a", "events": False}
        async with replica(**options) as server:
            await until(lambda: _true(len(router.core.replicas) == 1))
            decision = router.core.pipeline.decide(RequestFeatures(request_id="r"), router.clock())
            assert decision.first == "a"
            assert not router.core.kv.reports(0)
            assert server.in_flight == 0


async def _all_report(router: Router) -> bool:
    return len(router.core.replicas) > 0 and all(router.core.kv.reports(known.slot) for known in router.core.replicas)


async def _true(condition: bool) -> bool:
    return condition
