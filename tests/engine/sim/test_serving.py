"""The four APIs over real sockets: what clients of vLLM see."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from sim_replica import (
    chat_body,
    client_of,
    connection_to,
    events_of,
    post,
    read_chunks,
    read_head,
    read_response,
    replica,
)

from pointsman.engine.sim.server import SimServer

APIS = [
    pytest.param("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}, id="chat"),
    pytest.param("/v1/completions", {"prompt": "hello"}, id="completion"),
    pytest.param("/v1/responses", {"input": "hello"}, id="response"),
    pytest.param(
        "/v1/messages",
        {"model": "sim", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]},
        id="message",
    ),
]


async def until_idle(server: SimServer) -> None:
    """Until the replica has noticed that everybody left."""
    while server.in_flight:
        await asyncio.sleep(0)


async def test_a_stream_is_one_event_a_token_in_one_chunk_each() -> None:
    """Role, 5 words of which the last has the reason, usage, [DONE]: 8 chunks."""
    async with replica() as server, connection_to(server) as (reader, writer):
        body = chat_body(max_tokens=5, ignore_eos=True, stream=True, stream_options={"include_usage": True})
        writer.write(post("/v1/chat/completions", body, "x-request-id: abc"))
        head = await read_head(reader)
        assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
        assert head.endswith(
            b"server: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\nvary: Origin\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        chunks = await read_chunks(reader)
        assert len(chunks) == 8
        assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks)
        events = events_of(b"".join(chunks).decode())
        assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert [len(e["choices"][0]["delta"]["content"]) for e in events[1:6]] == [4] * 5
        assert [e["choices"][0]["finish_reason"] for e in events[1:6]] == [None] * 4 + ["length"]
        assert events[6]["usage"]["completion_tokens"] == 5
        assert events[7] == "[DONE]"
        assert {e["id"] for e in events[:7]} == {"chatcmpl-abc"}


@pytest.mark.parametrize(("path", "body"), APIS)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_stream_adds_up_to_the_whole_answer(path: str, body: dict[str, Any], seed: int) -> None:
    """Same seed, same prompt: the same text, streamed or not."""
    async with replica(seed=seed, mean_output_tokens=6) as server, client_of(server) as client:
        whole = (await client.post(path, json=body)).json()
        events = events_of((await client.post(path, json={**body, "stream": True})).text)
        texts = {
            "/v1/chat/completions": lambda: (
                whole["choices"][0]["message"]["content"],
                "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1]),
            ),
            "/v1/completions": lambda: (
                whole["choices"][0]["text"],
                "".join(e["choices"][0]["text"] for e in events[:-1]),
            ),
            "/v1/responses": lambda: (
                whole["output"][0]["content"][0]["text"],
                "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta"),
            ),
            "/v1/messages": lambda: (
                whole["content"][0]["text"],
                "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta"),
            ),
        }
        one, other = texts[path]()
        assert one == other


async def test_openais_client_reads_both_apis() -> None:
    """Its own models validate what comes: chat streamed and whole, responses streamed and whole, models."""
    import openai  # where it is used: a second of CPU in each worker

    async with replica(mean_output_tokens=0, max_model_len=64) as server:
        http_client = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(
            base_url=server.url + "/v1", api_key="none", max_retries=0, http_client=http_client
        ) as client:
            messages: Any = [{"role": "user", "content": "hello"}]
            chunks = [
                chunk
                async for chunk in await client.chat.completions.create(
                    model="sim", messages=messages, stream=True, stream_options={"include_usage": True}, max_tokens=4
                )
            ]
            assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 4
            whole = await client.chat.completions.create(model="sim", messages=messages, max_tokens=4, n=2)
            assert [choice.finish_reason for choice in whole.choices] == ["length", "length"]
            text = await client.completions.create(model="sim", prompt=[1, 2, 3], max_tokens=4)
            assert text.usage is not None and text.usage.prompt_tokens == 3
            response = await client.responses.create(model="sim", input="hello", max_output_tokens=4)
            assert response.status == "incomplete" and len(response.output_text) == 16
            stream = await client.responses.create(model="sim", input="hello", max_output_tokens=4, stream=True)
            kinds = [event.type async for event in stream]
            assert kinds[0] == "response.created" and kinds[-1] == "response.incomplete"
            assert [model.id async for model in client.models.list()] == ["sim"]
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                await client.chat.completions.create(model="nope", messages=messages)


async def test_the_next_turn_hits_what_this_one_left() -> None:
    """Blocks of 4. Turn 1: prompt 8, answer 12 of which 11 are computed: 19 tokens, so 4 full blocks are cached."""
    async with replica(block_size=4) as server, client_of(server) as client:
        first = (await client.post("/v1/chat/completions", json=chat_body(max_tokens=12, ignore_eos=True))).json()
        assert first["usage"]["prompt_tokens"] == 8
        assert first["usage"]["prompt_tokens_details"]["created_cache_tokens"] == 8
        messages = [{"role": "user", "content": "hello"}, first["choices"][0]["message"]]
        messages.append({"role": "user", "content": "go on"})
        second = (await client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1})).json()
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == 16


async def test_a_cache_salt_separates_equal_prompts() -> None:
    """The same prompt under another salt hits nothing."""
    async with replica(block_size=4) as server, client_of(server) as client:
        cached = []
        for salt in ("a", "a", "b"):
            body = chat_body(max_tokens=1, cache_salt=salt)
            answer = (await client.post("/v1/chat/completions", json=body)).json()
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert cached == [0, 4, 0]


async def test_choices_and_prompts_multiply() -> None:
    """Two prompts, three answers each: six choices, numbered; usage counts all of them."""
    async with replica() as server, client_of(server) as client:
        body = {"prompt": ["one", "two"], "n": 3, "max_tokens": 2, "ignore_eos": True}
        whole = (await client.post("/v1/completions", json=body)).json()
        assert [choice["index"] for choice in whole["choices"]] == list(range(6))
        assert whole["usage"]["completion_tokens"] == 12
        events = events_of((await client.post("/v1/completions", json={**body, "stream": True})).text)
        ends = [e["choices"][0]["index"] for e in events[:-1] if e["choices"][0]["finish_reason"]]
        assert sorted(ends) == list(range(6))


async def test_an_answer_stops_by_itself_unless_told_not_to() -> None:
    """`stop` with fewer tokens than allowed; with `ignore_eos` always `length` and all of them."""
    async with replica(mean_output_tokens=3) as server, client_of(server) as client:
        for ignore, reason in ((False, "stop"), (True, "length")):
            body = chat_body(max_tokens=200, ignore_eos=ignore)
            answer = (await client.post("/v1/chat/completions", json=body)).json()
            assert answer["choices"][0]["finish_reason"] == reason
            assert (answer["usage"]["completion_tokens"] == 200) is ignore


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        pytest.param("/v1/chat/completions", chat_body() | {"model": "nope"}, 404, "`nope` does not", id="model"),
        pytest.param("/v1/chat/completions", chat_body("x" * 300), 400, "contains 81 input tokens", id="prompt"),
        pytest.param("/v1/completions", {"prompt": [1] * 64}, 400, "contains 64 input tokens", id="no room"),
        pytest.param("/v1/completions", {"prompt": [1], "max_tokens": 65}, 400, "max_tokens=65 cannot", id="answer"),
        pytest.param("/v1/completions", {"prompt": [""]}, 400, "contains 0 input tokens", id="an empty prompt"),
    ],
)
async def test_what_is_understood_may_still_be_refused(
    path: str, body: dict[str, Any], status: int, words: str
) -> None:
    """An unknown model, and what does not fit 64 tokens: vLLM's status, and what is wrong."""
    async with replica(max_model_len=64) as server, client_of(server) as client:
        answer = await client.post(path, json=body)
        assert answer.status_code == status
        assert words in answer.json()["error"]["message"]


async def test_an_answer_is_cut_to_the_context_length() -> None:
    """Prompt 60 of 64 tokens: four tokens come, whatever `max_tokens` allows."""
    async with replica(max_model_len=64) as server, client_of(server) as client:
        body = {"prompt": [1] * 60, "max_tokens": 50, "ignore_eos": True}
        answer = (await client.post("/v1/completions", json=body)).json()
        assert answer["usage"]["completion_tokens"] == 4


ODD_BODIES = [
    pytest.param(b"", id="empty"),
    pytest.param(b"hello", id="not JSON"),
    pytest.param(b"\x00" * 1_000, id="NUL bytes"),
    pytest.param(b"null", id="null"),
    pytest.param(b'{"messages": ' + b"[" * 2_000 + b"]" * 2_000 + b"}", id="2,000 levels deep"),
    pytest.param(b'{"messages": [{"role": "user", "content": "' + b"a" * 10_000_000 + b'"}]}', id="10 MB"),
    pytest.param(
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}],'
        b'"max_tokens": 1}',
        id="an image alone",
    ),
    pytest.param(b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1}', id="a lone surrogate"),
    pytest.param(b'{"messages": [{"role": 5, "content": null, "tool_calls": [1]}], "max_tokens": 1}', id="odd types"),
    pytest.param(b'{"messages": [], "max_tokens": 1}', id="no messages"),
    pytest.param(b'{"messages": [], "max_tokens": 1e999}', id="an infinite number"),
]


@pytest.mark.parametrize("body", ODD_BODIES)
async def test_an_odd_body_is_answered_and_the_connection_lives(body: bytes) -> None:
    """200 or 400, well formed; the next request on the same connection is served."""
    async with replica() as server, connection_to(server) as (reader, writer):
        for _ in range(2):
            writer.write(post("/v1/chat/completions", body))
            head, answer = await read_response(reader)
            assert head.split()[1] in (b"200", b"400")
            json.loads(answer)
        writer.write(post("/v1/chat/completions", chat_body(max_tokens=1)))
        assert (await read_response(reader))[0].startswith(b"HTTP/1.1 200")


async def test_pipelined_generations_are_answered_in_order() -> None:
    """A stream, a whole answer, a stream, sent at once on one connection: none overtakes, none mixes."""
    async with replica() as server, connection_to(server) as (reader, writer):
        stream = post("/v1/chat/completions", chat_body(max_tokens=3, ignore_eos=True, stream=True))
        whole = post("/v1/completions", {"prompt": "x", "max_tokens": 2, "ignore_eos": True})
        writer.write(stream + whole + stream)
        for _ in range(2):
            await read_head(reader)
            assert len(await read_chunks(reader)) == 5
            if server.in_flight:
                _, body = await read_response(reader)
                assert json.loads(body)["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_its_computation(stream: bool) -> None:
    """Aborted and counted; no block stays held. The pace is slow enough that it cannot have finished."""
    async with replica(token_interval_ms=60_000) as server:
        async with connection_to(server) as (reader, writer):
            writer.write(post("/v1/chat/completions", chat_body(max_tokens=50, ignore_eos=True, stream=stream)))
            while not server.model.stats().generation_tokens:
                await asyncio.sleep(0)
            assert server.in_flight == 1
            if stream:
                await reader.readuntil(b"assistant")
        await until_idle(server)
        stats = server.model.stats()
        assert (stats.aborted, stats.running, stats.kv_usage) == (1, 0, 0.0)
        async with client_of(server) as client:
            assert 'finished_reason="abort",model_name="sim"} 1.0' in (await client.get("/metrics")).text


async def test_a_request_that_waits_for_its_first_token_can_leave_too() -> None:
    """It has not entered the engine; when its time comes nothing enters."""
    async with replica(first_token_ms=60_000) as server:
        async with connection_to(server) as (reader, writer):
            writer.write(post("/v1/chat/completions", chat_body(stream=True)))
            await read_head(reader)
            async with client_of(server) as client:
                assert (
                    'vllm:num_requests_waiting{engine="0",model_name="sim"} 1.0' in (await client.get("/metrics")).text
                )
        await until_idle(server)
        assert len(server.model) == 0


async def test_a_slow_reader_gets_everything_in_fewer_chunks() -> None:
    """The connection is full, tokens add up, and come merged when it drains: nothing lost, nothing buffered a token."""
    tokens = 40_000  # 8 MB: twice the most a kernel keeps for the sender
    async with replica() as server, connection_to(server, receive_bytes=4_096) as (reader, writer):
        writer.write(post("/v1/chat/completions", chat_body(max_tokens=tokens, ignore_eos=True, stream=True)))
        while server.model.stats().generation_tokens < tokens:
            await asyncio.sleep(0)
        await read_head(reader)
        chunks = await read_chunks(reader)
        events = events_of(b"".join(chunks).decode())
        assert sum(len(e["choices"][0]["delta"]["content"]) for e in events[:-1]) == 4 * tokens
        assert len(events) < tokens


async def test_first_tokens_come_after_the_set_time_and_the_others_at_the_set_pace() -> None:
    """The clock of the loop says no less than 20 ms + 3 x 5 ms, less a timer's grain."""
    loop = asyncio.get_running_loop()
    async with replica(first_token_ms=20, token_interval_ms=5) as server, client_of(server) as client:
        started_s = loop.time()
        body = chat_body(max_tokens=4, ignore_eos=True)
        await client.post("/v1/chat/completions", json=body)
        assert loop.time() - started_s >= 0.035 - 0.002


async def test_many_clients_at_once_get_their_own_answers() -> None:
    """64 streams, each with its own id and its own number of tokens."""
    async with replica(max_num_seqs=16) as server, client_of(server) as client:

        async def one(number: int) -> None:
            body = chat_body(f"question {number}", max_tokens=number + 1, ignore_eos=True, stream=True)
            answer = await client.post("/v1/chat/completions", json=body, headers={"x-request-id": f"r{number}"})
            events = events_of(answer.text)
            assert len(events) == 1 + number + 1 + 1
            assert {e["id"] for e in events[:-1]} == {f"chatcmpl-r{number}"}

        async with asyncio.TaskGroup() as group:
            for number in range(64):
                group.create_task(one(number))


async def test_an_answer_has_the_clients_id_or_one_of_its_own() -> None:
    """Without X-Request-Id, 32 hex digits."""
    async with replica() as server, client_of(server) as client:
        answer: httpx.Response = await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
        assert len(answer.json()["id"]) == len("cmpl-") + 32
        headers = {"X-Request-Id": "mine"}
        answer = await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}, headers=headers)
        assert answer.json()["id"] == "cmpl-mine"


@pytest.mark.parametrize(("path", "body"), APIS)
async def test_a_request_for_an_alias_is_served_and_answered_by_that_name(path: str, body: dict[str, Any]) -> None:
    """HAProxy says which model it stands for; without that the name is refused."""
    async with replica() as server, client_of(server) as client:
        asked = {**body, "model": "chat"}
        assert (await client.post(path, json=asked)).status_code == 404
        headers = {"x-pointsman-model": "sim"}
        whole = await client.post(path, json=asked, headers=headers)
        assert (whole.status_code, whole.json()["model"]) == (200, "chat")
        stream = await client.post(path, json={**asked, "stream": True}, headers=headers)
        assert b'"model":"chat"' in stream.content
        assert b'"model":"sim"' not in stream.content


@pytest.mark.parametrize(
    ("policy", "order"), [("priority", ["high", "usual", "batch"]), ("fcfs", ["batch", "usual", "high"])]
)
async def test_the_class_that_haproxy_names_counts_where_the_engine_goes_by_it(policy: str, order: list[str]) -> None:
    """One is served at a time, and three wait."""
    async with (
        replica(scheduling_policy=policy, token_interval_ms=30, max_num_seqs=1) as server,
        client_of(server) as client,
    ):
        ended: list[str] = []

        async def ask(name: str, tokens: int = 1) -> None:
            headers = {"batch": {"x-pointsman-priority": "batch"}, "high": {"x-pointsman-priority": "high"}}.get(
                name, {}
            )
            body = {"prompt": name, "max_tokens": tokens, "ignore_eos": True}
            assert (await client.post("/v1/completions", json=body, headers=headers)).status_code == 200
            ended.append(name)

        async with asyncio.TaskGroup() as group:
            for waiting, name in enumerate(["busy", "batch", "usual", "high"]):
                group.create_task(ask(name, 20 if name == "busy" else 1))
                while server.model.stats().running + server.model.stats().waiting <= waiting:
                    await asyncio.sleep(0.001)
        assert ended == ["busy", *order]
