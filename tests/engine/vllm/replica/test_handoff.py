"""A vLLM replica's part in handing prompts over, without vLLM: its app and its `generate` are stand-ins."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sim_replica import replica

from pointsman.contract.events import Handoffs
from pointsman.contract.prefix_keys import prefix_keys, scope_of, scoped
from pointsman.contract.registration import Role
from pointsman.engine.disaggregation import unpack_prefix
from pointsman.engine.sim.server import SimServer
from pointsman.engine.vllm.replica.handoff import Handoff


class Params(SimpleNamespace):
    """vLLM's SamplingParams, as far as it matters here."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"n": 1, "prompt_logprobs": None, "extra_args": None, **given})


class Engine:
    """An app that makes a prompt of a body and generates: what vLLM's server is, in ten lines."""

    def __init__(self, role: Role, lost: int = 0) -> None:
        self.handoff = Handoff(role, "sim", lost=lambda: lost)
        self.generate = self.handoff.watch(self._generate)
        self.app = self.handoff.app(self._app)
        self.tokenised = 0
        self.seen: list[Any] = []
        """`extra_args` of each request the engine got."""
        self.params = Params()
        self.kind = "token"
        self.prompts = 1
        self.body = b""

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.body = (await receive())["body"]
        for _ in range(self.prompts):
            self.tokenised += 1
            prompt = {"type": self.kind, "prompt_token_ids": list(range(100))}
            given = copy.copy(self.params)
            if (named := json.loads(self.body).get("kv_transfer_params")) is not None:
                given.extra_args = {"kv_transfer_params": named}
            async for _ in self.generate(prompt, given, "id", session_id="s"):
                pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def _generate(self, prompt: Any, params: Any, request_id: str, **options: Any) -> AsyncIterator[Any]:
        assert options == {"session_id": "s"}
        self.seen.append(params.extra_args)
        yield None


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(engine.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        yield client
    await engine.handoff.close()


def paired(server: SimServer) -> dict[str, str]:
    return {"x-pointsman-prefill": f"127.0.0.1:{server.port}", "x-request-id": "r1"}


async def test_the_engine_gets_the_legs_parameters_and_the_prompt_was_tokenised_once() -> None:
    """The prefill replica is given tokens; the client's own parameters stay as they are."""
    engine = Engine(Role.DECODE)
    async with replica(role=Role.PREFILL) as prefill, serving(engine) as client:
        answer = await client.post("/v1/chat/completions", json={"messages": []}, headers=paired(prefill))
        assert answer.status_code == 200
        assert engine.seen[0]["kv_transfer_params"]["remote_port"] == prefill.port
        assert engine.tokenised == 1
        assert engine.params.extra_args is None
        assert engine.handoff.totals().outcomes == Handoffs(ok=1).outcomes
        assert prefill.model.stats().prompt_tokens == 100


async def test_without_the_header_nothing_happens() -> None:
    """Nor with one that is no address."""
    engine = Engine(Role.DECODE)
    async with serving(engine) as client:
        await client.post("/v1/completions", json={})
        await client.post("/v1/completions", json={}, headers={"x-pointsman-prefill": "example.com:80"})
        assert engine.seen == [None, None]
        assert engine.handoff.totals().outcomes == Handoffs().outcomes


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        pytest.param(Params(n=2), "token", id="several answers"),
        pytest.param(Params(prompt_logprobs=1), "token", id="logprobs of the prompt"),
        pytest.param(Params(), "multimodal", id="images"),
        pytest.param(Params(), "embeds", id="embeddings"),
    ],
)
async def test_what_cannot_be_handed_over_is_computed_here(params: Params, kind: str) -> None:
    """Counted, and nobody is asked: the address would refuse."""
    engine = Engine(Role.DECODE)
    engine.params, engine.kind = params, kind
    async with serving(engine) as client:
        answer = await client.post("/v1/completions", json={}, headers={"x-pointsman-prefill": "127.0.0.1:1"})
        assert answer.status_code == 200
        assert engine.seen == [None]
        assert engine.handoff.totals().outcomes == Handoffs(unsuitable=1).outcomes


async def test_of_several_prompts_the_first_is_handed_over() -> None:
    """The others find their common head here by then."""
    engine = Engine(Role.DECODE)
    engine.prompts = 3
    async with replica(role=Role.PREFILL) as prefill, serving(engine) as client:
        await client.post("/v1/completions", json={}, headers=paired(prefill))
        assert [extra is not None for extra in engine.seen] == [True, False, False]


async def test_a_leg_that_fails_leaves_the_engine_to_compute() -> None:
    """As if nobody had been named; transfers the engine lost are counted beside it."""
    engine = Engine(Role.DECODE, lost=3)
    async with serving(engine) as client:
        await client.post("/v1/completions", json={}, headers={"x-pointsman-prefill": "127.0.0.1:1"})
        assert engine.seen == [None]
        assert engine.handoff.totals().outcomes == Handoffs(refused=1, lost=3).outcomes


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
async def test_transfer_parameters_of_a_client_never_reach_the_engine(role: Role) -> None:
    """400 in vLLM's words; those of a prefill request pass, and null is nothing."""
    engine = Engine(role)
    async with serving(engine) as client:
        refused = await client.post("/v1/completions", json={"kv_transfer_params": {"do_remote_prefill": True}})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "kv_transfer_params"
        assert not engine.seen
        body = {"kv_transfer_params": {"do_remote_decode": True}}
        assert (await client.post("/v1/completions", json=body, headers={"x-pointsman-leg": "-"})).status_code == 200
        assert engine.seen == [body]
        assert (await client.post("/v1/completions", json={"kv_transfer_params": None})).status_code == 200


async def test_parameters_that_came_another_way_are_refused_at_the_engine() -> None:
    """Below other fields of some API: vLLM makes 400 of a ValueError."""
    engine = Engine(Role.DECODE)
    engine.params = Params(extra_args={"kv_transfer_params": {"remote_host": "10.0.0.1"}})
    async with serving(engine) as client:
        with pytest.raises(ValueError, match="not accepted from clients"):
            await client.post("/v1/completions", json={})
    assert not engine.seen


async def test_a_body_in_pieces_is_judged_whole_and_passed_on_in_pieces() -> None:
    """And what follows it is the client's own: its leaving."""
    handoff = Handoff(Role.DECODE, "sim")
    passed: list[Any] = []
    answered: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.extend([await receive() for _ in range(3)])

    async def ask(*pieces: bytes) -> None:
        messages = [{"type": "http.request", "body": piece, "more_body": piece != pieces[-1]} for piece in pieces]
        coming = iter([*messages, {"type": "http.disconnect"}])

        async def receive() -> Any:
            return next(coming)

        async def send(message: Any) -> None:
            answered.append(message)

        await handoff.app(app)({"type": "http", "method": "POST", "headers": []}, receive, send)

    await ask(b'{"kv_transfer_', b'params":{}}')
    assert answered[0]["status"] == 400 and not passed
    await ask(b'{"a":', b"1}")
    assert [message.get("body") for message in passed] == [b'{"a":', b"1}", None]
    await handoff.close()


@pytest.mark.parametrize(
    ("said", "scope"),
    [
        pytest.param("", scope_of("sim"), id="by the model, as a router would"),
        pytest.param("00000000000000ff", 0xFF, id="as the router said"),
    ],
)
async def test_a_leg_brings_the_keys_the_router_knows_the_prompt_by(said: str, scope: int) -> None:
    """Of the client's bytes, scoped: the prefill request's own body has tokens."""
    engine = Engine(Role.DECODE)
    body = json.dumps({"messages": [{"role": "user", "content": "long " * 500}]}).encode()
    headers = {**({"x-pointsman-scope": said} if said else {}), "x-request-id": "r1"}
    prefills: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        prefills.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as prefill, serving(engine) as client:
        port = prefill.sockets[0].getsockname()[1]
        await client.post("/v1/x", content=body, headers={**headers, "x-pointsman-prefill": f"127.0.0.1:{port}"})
    (head,) = prefills
    (line,) = [line for line in head.decode().split("\r\n") if line.lower().startswith("x-pointsman-leg:")]
    keys, prompt_bytes = unpack_prefix(line.partition(":")[2].strip())
    assert keys == scoped(prefix_keys(body), scope) and len(keys) == 4
    assert prompt_bytes == len(body) - 1
