"""Several models behind a whole edge: whatever shape a request has, it meets its own model or is told why not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest
from edge import RunningEdge, running_up, until
from sim_replica import replica

pytestmark = [pytest.mark.e2e, pytest.mark.system]

MODELS = ("org/one", "two", "three", "four")
SIZES = (2_000, 60_000, 150_000, 1_000_000)
ROOMY = {"max_model_len": 500_000, "kv_tokens": 1_000_000}
PATIENT = {"timeouts": {"processing_ms": 5000, "router_check_ms": 1000}}
"""So that a machine that is busy with other things does not make the edge fail open."""

WINDOWS = {"kv_cost": 114_688, "least_load": 16_384}
"""How much of a body is seen at least, by policy."""


class Served(NamedTuple):
    """What a client saw of one request."""

    status: int
    model: str
    """Of the replica that served; empty where none did."""
    message: str


@asynccontextmanager
async def four_models(lookup: str, policy: str) -> AsyncIterator[RunningEdge]:
    """One replica for each model; its id is the model's name without slashes."""
    async with AsyncExitStack() as stack:
        servers = {model: await stack.enter_async_context(replica(model=model, **ROOMY)) for model in MODELS}
        static = [{"id": id_of(model), "url": server.url} for model, server in servers.items()]
        router = {"replicas": static, "policy": {"policy": policy}}
        edge = await stack.enter_async_context(running_up(0, "--lookup", lookup, router=router, haproxy=PATIENT))

        async def all_listed() -> bool:
            cards = (await edge.client.get("/v1/models")).json()["data"]
            return {card["id"] for card in cards} == set(MODELS) and set((await edge.states()).values()) == {"up"}

        await until(all_listed)
        # HAProxy is told with the same round that told it the groups.
        await until(lambda: reads_models(edge))
        yield edge


async def reads_models(edge: RunningEdge) -> bool:
    value = await edge.haproxy("get var proc.pm.body")
    return bool(int(value.split("<")[-1].split(">")[0]) & 8)


def id_of(model: str) -> str:
    return model.replace("/", "-")


def served(answer: Any) -> Served:
    names = {id_of(model): model for model in MODELS}
    message = answer.json()["error"]["message"] if answer.status_code != 200 else ""
    return Served(answer.status_code, names.get(answer.headers.get("x-pointsman-replica", ""), ""), message)


@pytest.fixture(scope="module", autouse=True)
def clients() -> None:
    """Imports both clients before any event loop runs: it takes seconds, in which this process's stub replicas would
    answer no health check."""
    import anthropic  # noqa: F401
    import openai  # noqa: F401


Send = Callable[[RunningEdge, str, str, dict[str, str]], Awaitable[Served]]


async def by_openai(edge: RunningEdge, model: str, text: str, headers: dict[str, str]) -> Served:
    from openai import AsyncOpenAI  # where it is used: a second of CPU in each worker

    async with AsyncOpenAI(base_url=f"{edge.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": text}], max_tokens=1, extra_headers=headers
        )
        return served(raw.http_response)


async def by_anthropic(edge: RunningEdge, model: str, text: str, headers: dict[str, str]) -> Served:
    """Its body begins with `max_tokens` and `messages`; `model` comes between them and `tools`."""
    from anthropic import APIStatusError, AsyncAnthropic  # where it is used: two seconds of CPU in each worker

    tool: Any = {"name": "drive", "input_schema": {"type": "object", "properties": {"model": {"type": "string"}}}}
    async with AsyncAnthropic(base_url=edge.url, api_key="none", max_retries=0, timeout=60) as client:
        try:
            raw = await client.messages.with_raw_response.create(
                model=model,
                max_tokens=1,
                messages=[{"role": "user", "content": text}],
                tools=[tool],
                extra_headers=headers,
            )
        except APIStatusError as refused:
            return served(refused.response)
        return served(raw.http_response)


async def by_php(edge: RunningEdge, model: str, text: str, headers: dict[str, str]) -> Served:
    """`json_encode` escapes slashes, and what is not ASCII."""
    body = json.dumps({"messages": [{"role": "user", "content": text}], "model": model, "max_tokens": 1})
    return await send(edge, body.replace("/", "\\/").replace('"model"', '"mod\\u0065l"'), headers)


async def by_nested(edge: RunningEdge, model: str, text: str, headers: dict[str, str]) -> Served:
    """Objects with a `model` of their own, before and after."""
    other = next(one for one in MODELS if one != model)
    messages = [{"role": "user", "content": text}]
    body = {"metadata": {"model": other}, "model": model, "messages": messages, "max_tokens": 1}
    return await send(edge, json.dumps(body | {"extra": {"model": other}}, separators=(",", ":")), headers)


async def send(edge: RunningEdge, body: str, headers: dict[str, str]) -> Served:
    whole = {"content-type": "application/json"} | headers
    return served(await edge.client.post("/v1/chat/completions", content=body.encode(), headers=whole))


def text_of(size: int, number: int) -> str:
    """Code, with quotes, line ends and brackets; no two alike."""
    line = f'if x["model"] == "{{{number}": return [{number}]\n'
    return (line * (size // len(line) + 1))[:size]


@pytest.mark.parametrize(("lookup", "policy"), [("spoe", "kv_cost"), ("lua", "least_load"), ("lua", "kv_cost")])
async def test_no_request_meets_a_replica_of_another_model(lookup: str, policy: str) -> None:
    """Four clients, four sizes, four models. Where the name stands in what is seen, it decides; behind that, the client
    is told to send it first or in a header, and the header decides."""
    first: tuple[Send, ...] = (by_openai, by_nested)
    behind: tuple[Send, ...] = (by_anthropic, by_php)
    async with four_models(lookup, policy) as edge:
        for number, size in enumerate(SIZES):
            for model in MODELS:
                text = text_of(size, number)
                for client in first:
                    assert (await client(edge, model, text, {}))[:2] == (200, model), (client, size)
                for client in behind:
                    answer = await client(edge, model, text, {})
                    if size < WINDOWS[policy] // 2:
                        assert answer[:2] == (200, model), (client, size)
                    elif size > 2 * WINDOWS[policy]:
                        assert answer[:2] == (400, ""), (client, size)
                        assert "in the header x-model" in answer.message
                    else:
                        assert answer[:2] in ((200, model), (400, "")), (client, size)
                    if size > WINDOWS[policy]:
                        assert (await client(edge, model, text, {"x-model": model}))[:2] == (200, model)


async def test_a_conversation_keeps_its_model_when_it_outgrows_what_is_seen() -> None:
    """Its session tells the model; one that asked two models has none, and is asked."""
    async with four_models("spoe", "kv_cost") as edge:
        for model in MODELS:
            session = {"x-session-id": f"of {model}"}
            assert (await by_anthropic(edge, model, text_of(2_000, 1), session))[:2] == (200, model)
            assert (await by_anthropic(edge, model, text_of(300_000, 1), session))[:2] == (200, model)
        both = {"x-session-id": "of two"}
        for model in MODELS[:2]:
            assert (await by_anthropic(edge, model, text_of(2_000, 2), both))[:2] == (200, model)
        assert (await by_anthropic(edge, MODELS[0], text_of(300_000, 2), both))[:2] == (400, "")


JSON_PATHS = ( "/v1/embeddings", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank",
"/tokenize", "/detokenize", "/v1/images/generations", "/v1/messages/count_tokens", "/v1/responses", )  # fmt: skip


async def test_every_post_with_a_model_goes_to_it() -> None:
    """Whatever the path, and of a form too. The replica may not know the path, but it is the model's own."""
    async with four_models("spoe", "kv_cost") as edge:
        for model in MODELS:
            for path in JSON_PATHS:
                for body in ({"model": model, "input": "x"}, {"input": text_of(50_000, 3), "model": model}):
                    answer = await edge.client.post(path, json=body)
                    assert answer.headers["x-pointsman-replica"] == id_of(model), path
            form: dict[str, Any] = {"files": {"file": b"\x00" * 90_000}, "data": {"model": model}}
            answer = await edge.client.post("/v1/audio/transcriptions", **form)
            assert answer.headers["x-pointsman-replica"] == id_of(model)
            curl = [("file", ("a.wav", b"\x00" * 90_000)), ("model", (None, model))]
            answer = await edge.client.post("/v1/audio/transcriptions", files=curl)  # type: ignore[arg-type]
            assert answer.headers["x-pointsman-replica"] == id_of(model)
        curl = [("file", ("a.wav", b"\x00" * 900_000)), ("model", (None, "two"))]
        answer = await edge.client.post("/v1/audio/transcriptions", files=curl)  # type: ignore[arg-type]
        assert answer.status_code == 400 and "x-pointsman-replica" not in answer.headers
        await until(edge.idle)


async def test_one_model_answers_whatever_it_cannot_read() -> None:
    """Behind the window, nested, missing: with one model there is nothing to be wrong about. A name that was read and
    that nobody has is refused."""
    async with running_up(2, engine={"timing": "fast", **ROOMY}) as edge:
        text = text_of(300_000, 4)
        for body in (
            json.dumps({"messages": [{"role": "user", "content": text}], "model": "sim", "max_tokens": 1}),
            '{"metadata": {"model": "car"}, "model": "sim", "messages": [{"role": "user", "content": "x"}]}',
            '{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}',
        ):
            assert (await send(edge, body, {})).status == 200
        unknown = await edge.chat(model="car")
        assert (unknown.status_code, unknown.headers["x-pointsman-reason"]) == (404, "unknown-model")


async def test_openais_client_shows_the_sentence() -> None:
    """What a person reads who sent no model to an edge with several."""
    from openai import AsyncOpenAI, BadRequestError  # where it is used: a second of CPU in each worker

    async with (
        four_models("spoe", "least_load") as edge,
        AsyncOpenAI(base_url=f"{edge.url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(BadRequestError, match="Several models are served here") as caught:
            await client.post("/chat/completions", body={"messages": []}, cast_to=object)
        assert caught.value.param == "model"
