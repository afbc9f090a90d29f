"""What `POST /v1/explain` says of a request is what a whole edge then does with it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from edge import SHARING, RunningEdge, SharedEdges, until
from golden import HAPROXY, body_of, load_cases

pytestmark = [pytest.mark.e2e, SHARING, pytest.mark.system]

CHAT = "/v1/chat/completions"
SEED = 20261202
FUZZED = 60


async def explained(edge: RunningEdge, **asked: Any) -> dict[str, Any]:
    answer = await edge.admin.post("/v1/explain", json=asked)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def agrees(edge: RunningEdge, path: str, headers: dict[str, str], body: str, said: str) -> dict[str, Any]:
    """Explain a request, then send it: reason, prompt and all that was read are the same. The explanation."""
    await until(edge.idle)
    told = await explained(edge, path=path, headers=headers, body=body)
    assert told["assumed"] == [], said
    answer = await edge.client.post(path, content=body.encode(), headers=headers)
    request_id = answer.headers["x-request-id"]
    past = await explained(edge, request=request_id)
    assert past["features"] == told["features"], said
    record = (await edge.admin.get(f"/v1/decisions/{request_id}")).json()
    assert past["then"]["reason"] == record["reason"] == told["decision"]["reason"], said
    assert record.get("prompt_tokens", 0) == told["prompt_tokens"], said

    async def reported() -> bool:
        """Whether the engine has said all of it: that teaches how many bytes a token has."""
        return "output_tokens" in (await edge.admin.get(f"/v1/decisions/{request_id}")).json().get("outcome", {})

    if path == CHAT and answer.status_code == 200:
        await until(reported)
    if told.get("margin", 0) > 1:
        assert record["first"] == told["decision"]["first"], said
    return told


async def test_golden_bodies_are_explained_as_they_are_decided(shared: SharedEdges) -> None:
    """Those that a JSON string can carry."""
    async with shared.up(2, "--lookup", "spoe") as edge:
        await edge.put_policy({"policy": "kv_cost"})
        for name in ("prefix_keys.json", "body_fields.json"):
            for case, values in load_cases(HAPROXY / name).items():
                body = body_of(values)
                if len(body) < 100_000 and body.isascii():
                    await agrees(edge, CHAT, {}, body.decode(), f"{name}: {case}")


async def test_requests_of_clients_are_explained_as_they_are_decided(shared: SharedEdges) -> None:
    """Conversations that grow, sessions in headers and in bodies, blanks and none between the keys."""
    rng = random.Random(SEED)
    prompts: dict[str, list[dict[str, str]]] = {}
    reasons = set()
    async with shared.up(2, "--lookup", "spoe") as edge:
        await edge.put_policy({"policy": "kv_cost"})
        for number in range(FUZZED):
            session = rng.choice("abcdef")
            messages = prompts.setdefault(session, [{"role": "system", "content": "Be short. é " * 300}])
            messages.append({"role": "user", "content": f"{number} {'x' * rng.randrange(3000)}"})
            fields: dict[str, Any] = {"model": "sim", "messages": messages, "max_tokens": rng.randrange(1, 9)}
            headers = {"content-type": "application/json"}
            where = rng.choice(("header", "body", "nowhere"))
            if where == "header":
                headers[rng.choice(("x-session-id", "Session_ID", "thread-id"))] = session
            elif where == "body":
                fields["user"] = session
            order = rng.sample(sorted(fields), len(fields))
            body = json.dumps({name: fields[name] for name in order}, ensure_ascii=rng.random() < 0.5)
            told = await agrees(edge, CHAT, headers, body, f"SEED={SEED} number={number}")
            reasons.add(told["decision"]["reason"])
    assert {"kv-cold", "kv-home", "kv-prefix"} <= reasons


async def test_an_object_is_explained_as_openais_client_sends_it(shared: SharedEdges) -> None:
    """httpx encodes as OpenAI's client does."""
    async with shared.up(2, "--lookup", "spoe") as edge:
        await edge.put_policy({"policy": "kv_cost"})
        body = {"messages": [{"role": "user", "content": "é 😀" * 900}], "model": "sim", "max_tokens": 2, "top_p": 0.1}
        told = await explained(edge, headers={"x-session-id": "object"}, body=body)
        answer = await edge.client.post(CHAT, json=body, headers={"x-session-id": "object"})
        past = await explained(edge, request=answer.headers["x-request-id"])
        assert past["features"] == told["features"] and told["features"]["prefix_keys"] > 5


async def test_a_prompt_longer_than_the_window_is_explained_as_far_as_it_is_seen(shared: SharedEdges) -> None:
    """One key more or less, and a sentence."""
    async with shared.up(2, "--lookup", "spoe") as edge:
        await edge.put_policy({"policy": "kv_cost"})
        body = json.dumps({"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "x " * 100_000}]})
        headers = {"content-type": "application/json", "x-session-id": "long"}
        told = await explained(edge, headers=headers, body=body)
        answer = await edge.client.post(CHAT, content=body, headers=headers)
        past = await explained(edge, request=answer.headers["x-request-id"])
        assert abs(told["features"].pop("prefix_keys") - past["features"].pop("prefix_keys")) <= 4
        assert told["features"] == past["features"]
        assert any("body_window_bytes" in warning for warning in told["warnings"])


async def test_an_edge_of_its_own_kind_is_explained_by_its_own_rules(shared: SharedEdges) -> None:
    """Session headers, paths and models as HAProxy's section has them, over the other transport."""
    haproxy = {
        "session_headers": ["x-own"],
        "generation_paths": ["/v1/completions", CHAT],
        "path_models": {"/v1/completions": "sim"},
    }
    async with shared.up(2, "--lookup", "lua", haproxy=haproxy) as edge:
        await edge.put_policy({"policy": "kv_cost"})
        headers = {"content-type": "application/json", "x-own": "mine", "x-session-id": "not asked for"}
        body = json.dumps({"prompt": "x" * 2000, "max_tokens": 2})
        told = await agrees(edge, "/v1/completions", headers, body, "completions")
        assert (told["features"]["session"], told["features"]["model"]) == ("mine", "sim")
