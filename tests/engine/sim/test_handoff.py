"""Prefill and decode on two simulated replicas: the decode table without a router, real sockets between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from router_fixture import running_router
from sim_model import make_model, make_request, run_until_idle
from sim_replica import chat_body, client_of, events_of, replica

from pointsman.contract.events import Handoffs
from pointsman.contract.prefix_keys import prefix_keys, scope_of, scoped
from pointsman.contract.registration import Role
from pointsman.engine.sim.server import SimServer
from pointsman.policies.request import RequestFeatures

PROMPT = "the quick brown fox " * 400
"""8,000 bytes: 2,000 tokens and a few for the chat template."""

APIS = [
    pytest.param("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]}, id="chat"),
    pytest.param("/v1/completions", {"prompt": PROMPT}, id="completion"),
    pytest.param("/v1/responses", {"input": PROMPT}, id="response"),
    pytest.param(
        "/v1/messages",
        {"model": "sim", "max_tokens": 9, "messages": [{"role": "user", "content": PROMPT}]},
        id="message",
    ),
]


class Two:
    """A prefill and a decode replica."""

    def __init__(self, prefill: SimServer, decode: SimServer, client: httpx.AsyncClient) -> None:
        self.prefill = prefill
        self.decode = decode
        self.client = client

    @property
    def paired(self) -> dict[str, str]:
        """What HAProxy adds to a request the router paired."""
        return {"x-pointsman-prefill": f"127.0.0.1:{self.prefill.port}", "x-request-id": "r1"}

    def handoffs(self) -> Handoffs:
        told = self.decode._generation.handoffs()
        assert told is not None
        return told

    async def until_idle(self) -> None:
        while self.prefill.in_flight or self.decode.in_flight or len(self.prefill._generation.kept):
            await asyncio.sleep(0)


@asynccontextmanager
async def two(prefill: dict[str, Any] | None = None, **decode: Any) -> AsyncIterator[Two]:
    async with (
        replica(role=Role.PREFILL, faults=True, **(prefill or {})) as p,
        replica(role=Role.DECODE, handoff_ms=0, handoff_us_per_token=0, faults=True, **decode) as d,
        client_of(d) as client,
    ):
        yield Two(p, d, client)


@pytest.mark.parametrize(("path", "body"), APIS)
async def test_the_prompt_is_computed_there_and_the_answer_is_the_same(path: str, body: dict[str, Any]) -> None:
    """Of some 2,000 tokens the decode replica computes one: the last, which gives the first of the answer."""
    async with two() as fleet, replica() as alone, client_of(alone) as plain:
        answer = await fleet.client.post(path, json=body, headers=fleet.paired)
        expected = await plain.post(path, json=body, headers={"x-request-id": "r1"})
        assert answer.status_code == 200
        for key in ("choices", "content", "usage"):
            assert answer.json().get(key) == expected.json().get(key)
        assert fleet.handoffs().outcomes == Handoffs(ok=1).outcomes
        assert fleet.prefill.model.stats().generation_tokens == 1
        await fleet.until_idle()
        assert fleet.prefill.model.cache.held == 0, "what was fetched is let go"


async def test_a_stream_is_handed_over_as_well() -> None:
    """The client sees nothing of it."""
    async with two() as fleet:
        body = chat_body(PROMPT, stream=True, max_tokens=5, ignore_eos=True)
        answer = await fleet.client.post("/v1/chat/completions", json=body, headers=fleet.paired)
        assert events_of(answer.text)[-1] == "[DONE]"
        assert fleet.handoffs().outcomes == Handoffs(ok=1).outcomes


async def test_the_clients_wishes_do_not_reach_the_prefill_request() -> None:
    """`min_tokens` above its one token, `logprobs`, a stop: the prefill request is a completion of its own."""
    async with two() as fleet:
        body = chat_body(PROMPT, min_tokens=4, max_tokens=8, logprobs=True, top_logprobs=2, stop=["x"])
        answer = await fleet.client.post("/v1/chat/completions", json=body, headers=fleet.paired)
        assert answer.status_code == 200
        assert fleet.handoffs().outcomes == Handoffs(ok=1).outcomes


async def test_a_second_turn_fetches_only_what_is_missing() -> None:
    """Both keep the first turn's blocks; the prefill replica computes the rest."""
    async with two() as fleet:
        body = chat_body(PROMPT, max_tokens=2)
        for _ in range(2):
            await fleet.client.post("/v1/chat/completions", json=body, headers=fleet.paired)
        stats = fleet.prefill.model.stats()
        assert stats.prefix_hits >= 2000 - 16
        assert fleet.handoffs().outcomes == Handoffs(ok=2).outcomes


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param({"refuse": True}, Handoffs(refused=1), id="dead"),
        pytest.param({"error_status": 500, "error_count": 1}, Handoffs(failed=1), id="error"),
        pytest.param({"reset_before_response": 1}, Handoffs(failed=1), id="reset"),
        pytest.param({"hang": True}, Handoffs(timeout=1), id="slow"),
    ],
)
async def test_whatever_fails_the_client_is_served(fault: dict[str, Any], expected: Handoffs) -> None:
    """200, computed by the decode replica, counted by its cause."""
    async with two(prefill_timeout_s=0.1) as fleet, client_of(fleet.prefill) as prefill:
        await prefill.post("/sim/fault", json=fault)
        body = chat_body(PROMPT, max_tokens=2)
        answer = await fleet.client.post("/v1/chat/completions", json=body, headers=fleet.paired)
        assert answer.status_code == 200
        assert fleet.handoffs() == expected
        assert fleet.prefill.model.stats().prompt_tokens == 0
        assert fleet.decode.model.stats().prompt_tokens > 2000


async def test_a_prefill_replica_that_dies_between_the_legs_costs_time_alone() -> None:
    """Its answer came and its KV did not: computed again, 200, counted as lost."""
    async with two() as fleet:
        kept = fleet.prefill._generation.kept
        kept.keep = lambda *given: {**type(kept).keep(kept, *given), "remote_port": 1}  # type: ignore[method-assign]
        answer = await fleet.client.post("/v1/chat/completions", json=chat_body(PROMPT), headers=fleet.paired)
        assert answer.status_code == 200
        assert fleet.handoffs().outcomes == Handoffs(ok=1, lost=1).outcomes


async def test_kv_that_nobody_fetches_is_let_go() -> None:
    """After the lease; until then it is held, as with NIXL."""
    async with two({"kv_lease_s": 0.05}) as fleet, client_of(fleet.prefill) as client:
        body = {"prompt": [1] * 2000, "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
        answer = await client.post("/v1/completions", json=body, headers={"x-pointsman-leg": "-"})
        params = answer.json()["kv_transfer_params"]
        assert params["do_remote_prefill"] and params["remote_num_tokens"] == 2000
        assert fleet.prefill.model.cache.held == 2000 // 16
        await fleet.until_idle()
        assert fleet.prefill.model.cache.held == 0
        late = await client.post("/sim/kv", json={"request": params["remote_request_id"]})
        assert late.status_code == 404


async def test_a_client_that_leaves_ends_both_requests() -> None:
    """While the prefill runs; nothing stays behind on either replica."""
    async with two({"first_token_ms": 60_000}) as fleet:
        body = chat_body(PROMPT)
        asking = asyncio.create_task(fleet.client.post("/v1/chat/completions", json=body, headers=fleet.paired))
        while not fleet.prefill.in_flight:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        await fleet.until_idle()
        assert fleet.prefill._generation.metrics.finished["abort"] == 1
        assert fleet.decode._generation.metrics.finished["abort"] == 1
        assert fleet.handoffs().outcomes == Handoffs().outcomes


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
@pytest.mark.parametrize(("path", "body"), APIS)
async def test_transfer_parameters_of_a_client_are_refused(role: Role, path: str, body: dict[str, Any]) -> None:
    """400, before anything is computed: they would name a host to read from."""
    async with replica(role=role) as server, client_of(server) as client:
        params = {"do_remote_prefill": True, "remote_host": "10.0.0.1", "remote_port": 22}
        answer = await client.post(path, json={**body, "kv_transfer_params": params})
        assert answer.status_code == 400
        assert "kv_transfer_params" in answer.text
        assert len(server.model) == 0
        assert (await client.post(path, json={**body, "kv_transfer_params": None})).status_code == 200


async def test_several_answers_are_computed_here() -> None:
    """One handoff is fetched once; two choices would fetch twice."""
    async with two() as fleet:
        answer = await fleet.client.post("/v1/chat/completions", json=chat_body(PROMPT, n=2), headers=fleet.paired)
        assert len(answer.json()["choices"]) == 2
        assert fleet.handoffs().outcomes == Handoffs(unsuitable=1).outcomes


async def test_a_replica_of_no_role_takes_no_notice() -> None:
    """The header means nothing to it, as to any plain endpoint."""
    async with replica() as server, client_of(server) as client:
        answer = await client.post(
            "/v1/chat/completions", json=chat_body(PROMPT), headers={"x-pointsman-prefill": "127.0.0.1:1"}
        )
        assert answer.status_code == 200


async def test_roles_and_outcomes_reach_the_router() -> None:
    """Paired by a real router; both replicas report the prompt's own keys, and the prefill request ends."""
    async with running_router(policy={"policy": "kv_cost"}, pair={"min_uncached_tokens": 500}) as router:
        settings = {"register": (f"http://{router.addresses['admin']}",)}
        async with two({**settings, "replica_id": "p"}, **settings, replica_id="d") as fleet:
            await until(
                lambda: (
                    len(router.core.replicas) == 2 and all(router.core.kv.reports(r.slot) for r in router.core.replicas)
                )
            )
            content = msgspec.json.encode(chat_body(PROMPT, max_tokens=2))
            keys = tuple(scoped(prefix_keys(content), scope_of("sim")))
            asked = RequestFeatures(request_id="r1", body_bytes=len(content), prefix_keys=keys)
            decision = router.core.pipeline.decide(asked, router.clock())
            assert (decision.first, decision.prefill) == ("d", "p")
            assert decision.prefill_address == f"127.0.0.1:{fleet.prefill.port}"
            headers = {"content-type": "application/json", "x-request-id": "r1"}
            headers["x-pointsman-prefill"] = decision.prefill_address
            answer = await fleet.client.post("/v1/chat/completions", content=content, headers=headers)
            assert answer.status_code == 200
            slots = {replica.id: replica.slot for replica in router.core.replicas}

            def told() -> dict[str, int]:
                return (router.core.kv.cursors[slots["d"]].handoffs or Handoffs()).outcomes

            await until(lambda: told() == Handoffs(ok=1).outcomes)
            await until(lambda: router.core.load.in_flight[slots["p"]] == 0)
            assert router.core.load.in_flight[slots["d"]] == 1, "until HAProxy's end-of-request line"
            await until(lambda: len(router.core.kv.index.expectations) == 0)
            ((_, holders),) = router.core.kv.index.match(keys)
            assert sorted(holders) == sorted(slots.values())
            again = msgspec.structs.replace(asked, request_id="r2")
            assert router.core.pipeline.decide(again, router.clock()).pairing == "resident"


def test_tokens_from_elsewhere_are_not_computed() -> None:
    """40 tokens of prompt, 39 fetched: one step computes the last one, and all ten blocks are held meanwhile."""
    model = make_model()
    model.add(msgspec.structs.replace(make_request(prompt=40, output=2), external_tokens=40))
    first = model.step()
    assert (first.prefill_tokens, len(first.first), model.cache.held) == (1, 1, 10)
    assert first.first.popitem()[1] == 0, "fetched is not found in the cache"
    run_until_idle(model)
    assert model.cache.held == 0


def test_what_is_resident_is_not_fetched_twice() -> None:
    """32 of 40 tokens are found here; the fetched rest makes the prompt whole but for its last token."""
    model = make_model()
    request = make_request(prompt=40, output=1)
    model.add(request)
    run_until_idle(model)
    model.add(msgspec.structs.replace(request, request_id="again", external_tokens=40))
    result = model.step()
    assert result.first == {"again": 36}
    assert result.prefill_tokens <= 4


def test_a_preempted_request_computes_what_it_had_fetched() -> None:
    """Its blocks are gone but for some that are still idle. Six blocks for two requests of five; nothing is fetched
    twice."""
    model = make_model(blocks=6)
    model.add(make_request("old", prompt=4, output=16))
    model.add(msgspec.structs.replace(make_request("young", prompt=16, output=4), external_tokens=16))
    results = run_until_idle(model)
    assert any("young" in result.preempted for result in results)
    assert sum(result.prefill_tokens for result in results) > 4 + 1


def test_a_kept_request_holds_its_blocks_until_let_go() -> None:
    """Once: letting go twice is a no."""
    model = make_model()
    model.add(msgspec.structs.replace(make_request("leg", prompt=40, output=1), kept=True))
    run_until_idle(model)
    assert (len(model), model.cache.held) == (0, 10)
    assert model.let_go("leg") and not model.let_go("leg")
    assert model.cache.held == 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
