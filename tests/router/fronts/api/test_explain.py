"""Explaining requests: whole ones, past ones, and bare features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from ring_line import line
from router_fixture import client_of, register, running_router

from pointsman.contract.prefix_keys import prefix_keys
from pointsman.haproxy.config import SMALL_WINDOW_BYTES
from pointsman.haproxy.lookup_arguments import PlainRequest, lookup_arguments
from pointsman.haproxy.lookup_rules import LookupRules
from pointsman.router.app import Router
from pointsman.router.fronts.api.explain import MAX_EXPLAIN_BYTES, SLICE, encode_body

CHAT = "/v1/chat/completions"
WORDS = "Where does this request go, and why does it go there? " * 100
BODY = {"model": "sim", "messages": [{"role": "user", "content": WORDS}], "max_tokens": 9}


@asynccontextmanager
async def edge(*names: str, **settings: Any) -> AsyncIterator[tuple[Router, httpx.AsyncClient]]:
    """A router with replicas of the model `sim`, and a client of its admin API."""
    async with running_router(scrape={"enabled": False}, **settings) as router, client_of(router) as client:
        await register(router, *(names or ("a", "b")), model="sim")
        yield router, client


async def explained(client: httpx.AsyncClient, **asked: Any) -> dict[str, Any]:
    answer = await client.post("/v1/explain", json=asked)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def lookup(router: Router, request_id: str, body: bytes, *headers: tuple[str, str]) -> str:
    """A lookup of HAProxy's; the first choice."""
    request = PlainRequest(CHAT, headers, body)
    arguments = lookup_arguments(request, LookupRules(), needs=6, window_bytes=114_688)
    return router.decider.lookup({"id": request_id, **arguments}).first


async def test_a_whole_request_is_explained_as_it_would_be_decided() -> None:
    """Before and after its conversation has a home; a past one is read the same."""
    headers = {"x-session-id": "s"}
    async with edge() as (router, client):
        before = await explained(client, path=CHAT, headers=headers, body=BODY)
        assert before["decision"]["reason"] == "kv-cold"
        home = lookup(router, "r1", encode_body(BODY), *headers.items())
        assert before["decision"]["first"] == home
        router.core.end_of_request.apply(line(id="r1", srv=home, first=home), router.clock())
        after = await explained(client, path=CHAT, headers=headers, body=BODY)
        assert (after["decision"]["reason"], after["decision"]["first"]) == ("kv-home", home)
        past = await explained(client, request="r1")
        assert past["features"] == after["features"] == before["features"]
        assert after["features"] == {
            "path": CHAT,
            "model": "sim",
            "session": "s",
            "body_bytes": len(encode_body(BODY)),
            "prefix_keys": len(prefix_keys(encode_body(BODY))),
            "max_tokens": 9,
            "generates": True,
        }
        assert after["resident_tokens"] == after["candidates"][0]["resident_tokens"] > 1000
        assert after["candidates"][0]["is_home"] is True and "is_home" not in after["candidates"][1]
        assert after["margin"] > 0 and after["margin_unit"] == "ms"
        assert after["would_change"].startswith(f"It leaves {home} for ")
        assert after["warnings"] == []


async def test_a_past_request_is_explained_beside_what_it_was() -> None:
    """By the edge's id or the client's; where it went, and where it would go now that this replica drains."""
    async with edge() as (router, client):
        home = lookup(router, "r1", encode_body(BODY), ("x-session-id", "s"))
        await client.post(f"/v1/replicas/{home}/drain")
        told = await explained(client, request="r1")
        assert told["then"]["id"] == "r1" and told["then"]["first"] == home
        assert told["then"]["reason"] == "kv-cold" and len(told["then"]["candidates"]) == 2
        assert told["decision"]["first"] not in ("", home) and told["excluded"] == {home: "draining"}
        assert told["assumed"] == []


def sent_by_openai(**request: Any) -> bytes:
    """The body that OpenAI's client sends."""
    sent: list[bytes] = []

    def take(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        return httpx.Response(400, json={})

    http = httpx.Client(transport=httpx.MockTransport(take))
    client = openai.OpenAI(base_url="http://edge/v1", api_key="k", http_client=http, max_retries=0)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**request)
    return sent[0]


def test_an_object_is_encoded_as_openais_client_encodes_it() -> None:
    """Byte for byte: keys hash bytes. Not ASCII, numbers, escapes, fields of one's own."""
    content = 'é 😀 \u2028 "quoted" \\ \n\t\x01 /'
    body = sent_by_openai(
        model="sim",
        messages=[{"role": "user", "content": content}],
        temperature=0.1,
        top_p=1e-7,
        seed=2**60,
        stream=True,
        stop=None,
        extra_body={"cache_salt": "ü", "nested": {"a": [1, 2.0, True, None]}},
    )
    assert encode_body(json.loads(body)) == body and b": " not in body and "é".encode() in body


def test_long_lists_are_encoded_in_slices_without_a_trace() -> None:
    """As many messages as there may be."""
    for count in (0, 1, SLICE, SLICE + 1, 3 * SLICE):
        body = {"messages": [{"role": "user", "content": "x"}] * count, "prompt": list(range(count)), "é": None}
        assert encode_body(body) == json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    assert encode_body({}) == b"{}"


async def test_a_string_is_taken_as_it_is() -> None:
    """Blanks between its words are bytes too, and what is no JSON is no error."""
    async with edge() as (_, client):
        spaced = json.dumps(BODY, indent=1)
        told = await explained(client, body=spaced)
        assert told["features"]["body_bytes"] == len(spaced) > len(encode_body(BODY))
        assert (await explained(client, body='{"messages": ["cut'))["features"]["model"] == "sim"
        assert (await explained(client, headers={}))["features"]["body_bytes"] == 0


async def test_what_haproxy_does_not_state_is_assumed_and_said() -> None:
    """Its defaults count; with its rules known, they do."""
    async with edge() as (router, client):
        asked = {"headers": {"x-own": "s", "x-session-id": "other"}, "body": BODY}
        told = await explained(client, **asked)
        assert told["features"]["session"] == "other"
        assert told["assumed"] == [*LookupRules.__struct_fields__, "body_window_bytes"]
        router.core.edge_health.lookup_rules = LookupRules(session_headers=("x-own",))
        router.core.edge_health.body_window_bytes = 114_688
        told = await explained(client, **asked)
        assert (told["features"]["session"], told["assumed"]) == ("s", [])


async def test_only_as_much_of_a_body_is_read_as_haproxy_sees() -> None:
    """A short window under a policy that goes by prompts: fewer keys, and two sentences that say why."""
    async with edge() as (router, client):
        router.core.edge_health.lookup_rules = LookupRules()
        router.core.edge_health.body_window_bytes = SMALL_WINDOW_BYTES
        long = BODY | {"messages": [{"role": "user", "content": WORDS * 20}]}
        told = await explained(client, body=long)
        assert told["features"]["prefix_keys"] < len(prefix_keys(encode_body(long)))
        assert told["features"]["body_bytes"] == len(encode_body(long))
        assert [warning.partition(" ")[0] for warning in told["warnings"]] == ["HAProxy", "kv_cost"]


@pytest.mark.parametrize(
    ("policy", "asked", "says"),
    [
        pytest.param("least_load", {"body": BODY}, "least_load does not look at prompts", id="policy without prompts"),
        pytest.param("kv_cost", {"body": {"messages": []}}, "shorter than 512 bytes", id="short prompt"),
        pytest.param("kv_cost", {"policy": "random"}, "override_header is off", id="policy that is not asked"),
        pytest.param("kv_cost", {"path": "/v1/embeddings", "body": BODY}, "replicas take turns", id="not asked about"),
    ],
)
async def test_what_one_might_not_expect_is_said(policy: str, asked: dict[str, Any], says: str) -> None:
    async with edge(policy={"policy": policy}) as (_, client):
        (warning,) = (await explained(client, **asked))["warnings"]
        assert says in warning


async def test_a_request_whose_model_nothing_tells_is_refused_with_advice() -> None:
    async with edge() as (router, client):
        await register(router, "c", model="other")
        told = await explained(client, body={"messages": []})
        assert (told["decision"]["status"], told["decision"]["reason"]) == (400, "no-model")
        assert "Several models are served" in told["warnings"][0]
        told = await explained(client, headers={"x-model": "other"}, body={"messages": []})
        assert told["decision"]["first"] == "c"


async def test_what_generates_nothing_goes_by_load(tmp_path: Path) -> None:
    async with edge() as (router, client):
        await register(router, "c", model="other")
        told = await explained(client, path="/v1/embeddings?x=1", body={"model": "other", "input": WORDS})
        assert (told["decision"]["first"], told["policy"]["policy"]) == ("c", "least_load")
        assert told["features"]["path"] == "/v1/embeddings"
        assert told["features"]["generates"] is False and told["warnings"] == []


async def test_the_tenant_is_that_of_the_api_key(tmp_path: Path) -> None:
    """As HAProxy's map has it; what a person says counts before."""
    keys = tmp_path / "keys.map"
    keys.write_text(f"{hashlib.sha256(b'sk-1').hexdigest()} acme\n")
    async with edge() as (router, client):
        router.core.edge_health.lookup_rules = LookupRules(api_keys_map=str(keys))

        async def found(**asked: Any) -> tuple[str | None, str]:
            told = await explained(client, body=BODY, **asked)
            return told["features"].get("tenant"), " ".join(told["warnings"])

        assert await found(headers={"authorization": "Bearer sk-1"}) == ("acme", "")
        assert await found(headers={"authorization": "Bearer sk-1"}, tenant="beta") == ("beta", "")
        assert await found(tenant="beta") == ("beta", "")
        for headers, says in (({"x-api-key": "sk-2"}, "not known"), ({}, "without an API key")):
            tenant, warning = await found(headers=headers)
            assert tenant is None and says in warning and "401" in warning
        keys.unlink()
        tenant, warning = await found(headers={"x-api-key": "sk-1"})
        assert tenant is None and "cannot be read" in warning


async def test_sessions_are_shown_as_in_records() -> None:
    """Hashed where they are hashed there."""
    async with edge(decisions={"hash_key": "k"}) as (router, client):
        lookup(router, "r1", encode_body(BODY), ("x-session-id", "secret"))
        answer = await client.post("/v1/explain", json={"request": "r1"})
        assert "secret" not in answer.text
        told = answer.json()
        assert told["features"]["session"] == told["then"]["session"]


@pytest.mark.parametrize(
    ("asked", "key", "says"),
    [
        pytest.param({"messages": []}, "messages", '"body": {...}', id="a body alone"),
        pytest.param({"bodi": {}}, "bodi", "did you mean 'body'", id="misspelt"),
        pytest.param({"request": "r", "body": {}}, "body", "given beside request", id="past and whole"),
        pytest.param({"request": "r", "session": "s"}, "session", "given beside request", id="past and features"),
        pytest.param({"headers": {}, "session": "s"}, "session", "given beside headers", id="whole and features"),
        pytest.param({"headers": {"a b": ""}}, "headers", "", id="no header name"),
        pytest.param({"headers": {"a": "x\ny"}}, "headers.a", "", id="a line end in a header"),
        pytest.param({"body": []}, "body", "an object", id="a list"),
        pytest.param({"request": "x" * 129}, "request", "128", id="an id too long"),
        pytest.param({"policy": "nope"}, "policy", "kv_cost", id="no policy"),
    ],
)
async def test_what_does_not_fit_is_refused(asked: dict[str, Any], key: str, says: str) -> None:
    """422, with the field and what is expected of it."""
    async with edge() as (_, client):
        answer = await client.post("/v1/explain", json=asked)
        assert answer.status_code == 422, answer.text
        assert answer.json()["key"] == key and says in answer.json()["detail"]


async def test_requests_that_nobody_decided_here_cannot_be_explained() -> None:
    """An id that is not known, one that HAProxy placed alone, and any where no decisions are kept."""
    async with edge() as (router, client):
        answer = await client.post("/v1/explain", json={"request": "nobody's"})
        assert answer.status_code == 404 and "nobody's" in answer.json()["detail"]
        router.core.end_of_request.apply(line(id="alone", srv="a", reason="fail-open", routed="2"), router.clock())
        answer = await client.post("/v1/explain", json={"request": "alone"})
        assert answer.status_code == 422 and "HAProxy placed that one alone" in answer.json()["detail"]
    async with edge(decisions={"max_records": 0}) as (_, client):
        assert (await client.post("/v1/explain", json={"request": "r"})).status_code == 404
        assert (await explained(client, body=BODY))["features"]["model"] == "sim"


async def test_prompts_may_be_longer_than_other_bodies() -> None:
    """Up to a limit of its own."""
    async with edge(admin={"port": 0, "max_body_bytes": 1024}) as (_, client):
        long = {"model": "sim", "prompt": "x" * 2_000_000}
        assert (await explained(client, path="/v1/completions", body=long))["features"]["body_bytes"] > 2_000_000
        answer = await client.post("/v1/explain", json={"body": "x" * MAX_EXPLAIN_BYTES})
        assert answer.status_code == 413 and str(MAX_EXPLAIN_BYTES) in answer.json()["detail"]


async def test_explaining_leaves_no_trace() -> None:
    """No reservation, no pin, no record, no count."""
    async with edge() as (router, client):
        for _ in range(3):
            await explained(client, headers={"x-session-id": "s"}, body=BODY)
        assert len(router.core.load) == len(router.core.kv.conversations.by_name) == 0
        assert router.core.decisions is not None and len(router.core.decisions) == 0
        assert not router.core.decision_metrics.by_reason
