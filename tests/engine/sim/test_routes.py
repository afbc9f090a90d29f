"""The routes of a replica besides generation: health, version, load, models, echo."""

from __future__ import annotations

import hashlib
import json

import pytest
from sim_replica import chat_body, client_of, connection_to, post, read_head, read_response, replica


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        pytest.param("GET", "/health", 200, b"", id="health"),
        pytest.param("GET", "/version", 200, b'{"version":"0.32.0+sim"}', id="version"),
        pytest.param("GET", "/load", 200, b'{"server_load":0}', id="load"),
        pytest.param("GET", "/nope", 404, b'{"detail":"Not Found"}', id="no such path"),
        pytest.param("GET", "/v1/chat/completions", 405, b'{"detail":"Method Not Allowed"}', id="not that way"),
        pytest.param("HEAD", "/health", 405, b"", id="no HEAD"),
        pytest.param("GET", "/echo", 404, b'{"detail":"Not Found"}', id="echo is off"),
        pytest.param("POST", "/sim/fault", 404, b'{"detail":"Not Found"}', id="faults are off"),
    ],
)
async def test_a_route_answers_as_vllm_does(method: str, path: str, status: int, body: bytes) -> None:
    """Status and body, byte for byte."""
    async with replica() as server, client_of(server) as client:
        answer = await client.request(method, path)
        assert (answer.status_code, answer.content) == (status, body)
        assert answer.headers["server"] == "uvicorn"


async def test_a_method_that_is_not_allowed_is_told_which_is() -> None:
    """405 names POST."""
    async with replica() as server, client_of(server) as client:
        assert (await client.get("/v1/completions")).headers["allow"] == "POST"


async def test_the_model_is_listed_with_its_context_length() -> None:
    """One card, vLLM's fields."""
    async with replica(model="tiny", max_model_len=4_096) as server, client_of(server) as client:
        (card,) = (await client.get("/v1/models")).json()["data"]
        assert (card["id"], card["root"], card["max_model_len"], card["owned_by"]) == ("tiny", "tiny", 4_096, "vllm")


async def test_load_counts_what_is_being_served() -> None:
    """One stream under way."""
    async with replica(token_interval_ms=60_000) as server, connection_to(server) as (reader, writer):
        writer.write(post("/v1/chat/completions", chat_body(stream=True)))
        await read_head(reader)
        async with client_of(server) as client:
            assert (await client.get("/load")).json() == {"server_load": 1}


async def test_echo_says_what_arrived() -> None:
    """Method, path and query undecoded, every header in order and by lower-case name, length and digest of the body."""
    body = bytes(range(256)) * 100
    async with replica(echo=True, replica_id="r7") as server, connection_to(server) as (reader, writer):
        head = b"PATCH /echo/a%2Fb?x=%20&y HTTP/1.1\r\nHost: h\r\nX-Two: 1\r\nx-two: 2\r\nContent-Length: 25600\r\n\r\n"
        writer.write(head + body)
        _, answer = await read_response(reader)
        assert json.loads(answer) == {
            "method": "PATCH",
            "path": "/echo/a%2Fb",
            "query": "x=%20&y",
            "headers": [["host", "h"], ["x-two", "1"], ["x-two", "2"], ["content-length", "25600"]],
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "body_bytes": 25_600,
            "replica": "r7",
        }
