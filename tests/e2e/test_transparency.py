"""What a client sends is what a replica gets, and what a replica answers is what the client gets, however odd."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from edge import SHARING, RunningEdge, SharedEdges

pytestmark = [pytest.mark.e2e, SHARING, pytest.mark.system]

BIG = random.Random(0).randbytes(10_000_000)

ECHO = {"timing": "fast", "echo": True}
"""Simulated replicas that say at /echo what they received."""


async def echoed(
    edge: RunningEdge, method: str, target: str, headers: list[tuple[str, str]], body: bytes
) -> dict[str, Any]:
    """One request written by hand, byte for byte; what the replica says it received."""
    host, port = edge.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{method} {target} HTTP/1.1", "Host: edge", *(f"{name}: {value}" for name, value in headers)]
    if body or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body)
    await writer.drain()
    head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200"), head
    return json.loads(answer) if answer else {}


async def test_any_request_reaches_the_replica_as_it_was_sent(shared: SharedEdges) -> None:
    """Methods, paths, queries, header values and bodies, the odd ones too; our own headers cannot be forged."""
    async with shared.up(2, "--lookup", "spoe", engine=ECHO) as edge:
        cases = [
            ("GET", "/echo", [], b""),
            ("GET", "/echo/a%2Fb/%7Ec//d/../e?x=%20&x&y=1;2&empty=", [], b""),
            ("POST", "/echo/v1/audio?a=b", [("Content-Type", "multipart/form-data; boundary=x")], b"--x\r\n\0\xff"),
            ("PUT", "/echo", [("Content-Type", "application/octet-stream")], bytes(range(256)) * 300),
            ("PATCH", "/echo", [("X-Odd", "  spaced, commas; \"quotes\" =?utf-8?  ")], b"{}"),
            ("DELETE", "/echo/v1/responses/resp_1", [("Authorization", "Bearer sk-secret"), ("X-Api-Key", "k")], b""),
            ("OPTIONS", "/echo", [("Origin", "http://x"), ("Access-Control-Request-Method", "POST")], b""),
            ("POST", "/echo", [("session_id", "under_score"), ("X-Twice", "1"), ("X-Twice", "2")], b"x"),
            ("POST", "/echo", [("X-Long", "v" * 6000)], BIG),
        ]  # fmt: skip
        for method, target, headers, body in cases:
            forged = [("X-Pointsman-Replica", "forged"), ("x-pointsman-anything", "1"), ("X-Request-Id", "forged")]
            got = await echoed(edge, method, target, headers + forged, body)
            path, _, query = target.partition("?")
            assert (got["method"], got["path"], got["query"]) == (method, path, query)
            assert got["body_bytes"] == len(body) and got["body_sha256"] == hashlib.sha256(body).hexdigest()
            received = [(name.lower(), value) for name, value in got["headers"]]
            for name, value in headers:
                assert (name.lower(), value.strip()) in received, (name, received)
            assert not [name for name, _ in received if name.startswith("x-pointsman-")]
            ids = [value for name, value in received if name == "x-request-id"]
            assert len(ids) == 1 and ids != ["forged"]


async def test_answers_pass_unchanged_but_for_our_headers(shared: SharedEdges) -> None:
    """Status, headers and body through the edge are those of the replica itself."""
    async with shared.up(2, "--lookup", "spoe", engine=ECHO) as edge, httpx.AsyncClient() as direct:
        url = (await edge.replicas())["sim-1"]["url"]
        for method, path in (("GET", "/version"), ("GET", "/nope"), ("DELETE", "/v1/models")):
            through, plain = await edge.client.request(method, path), await direct.request(method, url + path)
            ours = {"x-pointsman-replica", "x-pointsman-request-id", "x-request-id", "date"}
            assert (through.status_code, through.content) == (plain.status_code, plain.content)
            assert {k: v for k, v in through.headers.items() if k not in ours} == {
                k: v for k, v in plain.headers.items() if k not in ours
            }
            assert through.headers["x-pointsman-replica"] in ("sim-1", "sim-2")
            assert "x-pointsman-reason" not in through.headers, "balanced requests have no decision"


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


ODD_BODIES = {
    "empty": (b"", 400),
    "not JSON": (b"hello", 400),
    "cut JSON": (b'{"model": "sim", "messages": [{"role": "user", "con', 400),
    "NUL bytes": (b"\0" * 1000, 400),
    "NUL in a string": (b'{"model": "s\0im", "user": "a\0b", "messages": []}', 400),
    "a list": (b"[1, 2, 3]", 400),
    "2,000 deep": (nested(2000), 400),
    "no messages": (b'{"model": "sim"}', 400),
    "session of a wrong type": (
        b'{"user": {"x": 1}, "session_id": 5, "max_tokens": 2, "model": "sim",'
        b' "messages": [{"role": "user", "content": "x"}]}',
        200,
    ),
    "images only": (
        json.dumps({"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}]}]}).encode(),
        200,
    ),
    "10 MB": (
        b'{"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "' + b"x" * 10_000_000 + b'"}]}',
        400,
    ),
}  # fmt: skip
"""Bodies of chat requests and what the replica itself says to them."""


@pytest.mark.parametrize("lookup", ["spoe", pytest.param("lua", marks=pytest.mark.soak)])
async def test_odd_bodies_get_the_replicas_own_answer(lookup: str, shared: SharedEdges) -> None:
    """Whatever the body, the router decides and the replica answers; the edge makes no error of its own.

    Without a session header the session policy has HAProxy read each of these bodies.
    """
    async with shared.up(2, "--lookup", lookup, engine=ECHO) as edge:
        json_type = {"content-type": "application/json"}
        for name, (body, status) in ODD_BODIES.items():
            answer = await edge.client.post("/v1/chat/completions", content=body, headers=json_type)
            assert answer.status_code == status, (name, answer.status_code, answer.text[:200])
            assert answer.headers["x-pointsman-replica"] in ("sim-1", "sim-2"), name

        async def chunks(body: bytes) -> AsyncIterator[bytes]:
            for at in range(0, len(body), 50_000):
                yield body[at : at + 50_000]

        for name in ("images only", "cut JSON", "2,000 deep"):
            body, status = ODD_BODIES[name]
            answer = await edge.client.post("/v1/chat/completions", content=chunks(body), headers=json_type)
            assert answer.status_code == status, f"{name}, chunked"
        for prompt in ([1, 2, 3], [[1, 2], [3]], "", ["a", "b"]):
            body = json.dumps({"model": "sim", "prompt": prompt, "max_tokens": 2})
            answer = await edge.client.post("/v1/completions", content=body, headers=json_type)
            assert answer.status_code in (200, 400) and "x-pointsman-reason" in answer.headers, prompt
        metrics = await edge.metrics()
        assert metrics["pointsman_lookup_errors_total"] == 0
        assert metrics["pointsman_spop_protocol_errors_total"] == 0
