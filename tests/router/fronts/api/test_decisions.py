"""`/v1/decisions`: the latest ones, one of them, and those that end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from ring_line import line
from router_fixture import client_of, register, running_router

from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router


class Clients:
    """Requests of clients, as HAProxy tells a router of them."""

    def __init__(self, router: Router) -> None:
        self._core, self._clock = router.core, router.clock

    def ask(self, request_id: str, **given: Any) -> str:
        return self._core.decide(RequestFeatures(request_id=request_id, **given), self._clock()).first

    def end(self, request_id: str, name: str = "a", **fields: Any) -> None:
        self._core.end_of_request.apply(line(id=request_id, srv=name, first=name, **fields), self._clock())


@asynccontextmanager
async def edge(**overrides: Any) -> AsyncIterator[tuple[Clients, httpx.AsyncClient]]:
    async with running_router(**overrides) as router, client_of(router, timeout=10) as client:
        await register(router, "a", "b")
        yield Clients(router), client


async def listed(client: httpx.AsyncClient, query: str = "") -> list[str]:
    answer = await client.get(f"/v1/decisions{query}")
    assert answer.status_code == 200, answer.text
    return [decision["id"] for decision in answer.json()["decisions"]]


async def test_decisions_are_listed_the_newest_first_and_filtered() -> None:
    async with edge() as (clients, client):
        for number in range(5):
            name = clients.ask(f"r{number}", session=f"s{number % 2}")
            clients.end(f"r{number}", name, st=503 if number == 3 else 200)
        assert await listed(client) == ["r4", "r3", "r2", "r1", "r0"]
        assert await listed(client, "?session=s1") == ["r3", "r1"]
        assert await listed(client, "?status=5xx") == ["r3"]
        assert await listed(client, "?session=s0&limit=2") == ["r4", "r2"]
        clients.ask("in flight")
        assert await listed(client, "?limit=2") == ["in flight", "r4"]
        assert await listed(client, "?limit=2&ended=true") == ["r4", "r3"]


async def test_pages_follow_each_other_while_decisions_come() -> None:
    """A page begins behind the last one's end, whatever was decided in between."""
    async with edge() as (clients, client):
        for number in range(5):
            clients.ask(f"r{number}")
        page = (await client.get("/v1/decisions?limit=2")).json()
        assert [one["id"] for one in page["decisions"]] == ["r4", "r3"]
        clients.ask("r5")
        page = (await client.get(f"/v1/decisions?limit=2&cursor={page['next']}")).json()
        assert [one["id"] for one in page["decisions"]] == ["r2", "r1"]
        page = (await client.get(f"/v1/decisions?limit=2&cursor={page['next']}")).json()
        assert [one["id"] for one in page["decisions"]] == ["r0"] and "next" not in page
        assert (await client.get("/v1/decisions?cursor=gone")).status_code == 422


async def test_one_decision_is_found_by_either_id() -> None:
    """With its candidates, which a list shows only if asked to."""
    async with edge() as (clients, client):
        name = clients.ask("edge-id", session="s")
        clients.end("edge-id", name, cid="trace/7")
        by_edge = (await client.get("/v1/decisions/edge-id")).json()
        assert by_edge["client_id"] == "trace/7" and len(by_edge["candidates"]) == 2
        by_client = await client.get("/v1/decisions?client_id=trace/7&detail=true")
        assert by_client.json()["decisions"] == [by_edge]
        clients.end("other", name, cid="mine", reason="fail-open", routed="2")
        assert (await client.get("/v1/decisions/mine")).json()["id"] == "other"
        missing = await client.get("/v1/decisions/nobody's")
        assert (missing.status_code, missing.json()["title"]) == (404, "There is no such thing")


@pytest.mark.parametrize("query", ["?status=ok", "?limit=0", "?limit=x", "?sesion=s", "?detail=maybe", "?cursor="])
async def test_wrong_parameters_are_refused(query: str) -> None:
    async with edge() as (_, client):
        assert (await client.get(f"/v1/decisions{query}")).status_code == 422


async def test_a_router_that_keeps_no_decisions_says_so() -> None:
    async with edge(decisions={"max_records": 0}) as (clients, client):
        clients.ask("r")
        for path in ("/v1/decisions", "/v1/decisions/r"):
            answer = await client.get(path)
            assert answer.status_code == 404 and "decisions.max_records" in answer.json()["detail"]


async def test_followers_see_decisions_as_they_end() -> None:
    """Those that a follower asked for, after the last few before."""
    async with edge() as (clients, client):
        clients.end("old", clients.ask("old", session="mine"))
        query = "/v1/decisions?follow=true&session=mine&limit=5"
        async with client.stream("GET", query) as answer:
            told = (json.loads(text) async for text in answer.aiter_lines() if text)
            assert (await anext(told))["id"] == "old"
            for request_id, session in (("r1", "other"), ("r2", "mine")):
                clients.end(request_id, clients.ask(request_id, session=session))
            decision = await anext(told)
            assert (decision["id"], decision["outcome"]["status"]) == ("r2", 200)


async def test_server_sent_events_name_their_kind() -> None:
    async with edge() as (clients, client):
        clients.end("r", clients.ask("r"))
        headers = {"accept": "text/event-stream"}
        async with client.stream("GET", "/v1/decisions?follow=true&limit=1", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [text async for text in _until(answer.aiter_lines(), "data:")]
        assert "event: decision" in lines and '"id":"r"' in lines[-1]


async def test_the_access_log_has_one_line_for_each_request(tmp_path) -> None:
    """The fields of the API; the last lines are written when the router stops."""
    path = tmp_path / "access.jsonl"
    async with edge(decisions={"access_log": str(path), "hash_key": "k"}) as (clients, _):
        await asyncio.sleep(0.3)
        for number in range(40):
            clients.end(f"r{number}", clients.ask(f"r{number}", session="secret"))
        clients.ask("in flight")
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert [one["id"] for one in lines] == [f"r{number}" for number in range(40)]
    assert lines[0]["outcome"]["status"] == 200 and "candidates" not in lines[0]
    assert "secret" not in path.read_text()


async def _until(lines: AsyncIterator[str], start: str) -> AsyncIterator[str]:
    async for text in lines:
        yield text
        if text.startswith(start):
            return
