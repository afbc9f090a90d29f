"""`/v1/events`: what is kept, what comes, and who made it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from router_fixture import client_of, register, running_router

from pointsman.router.app import Router
from pointsman.router.journal.events import EventKind


@asynccontextmanager
async def edge_with_events(*texts: str, **overrides: Any) -> AsyncIterator[tuple[Router, httpx.AsyncClient]]:
    async with running_router(**overrides) as router, client_of(router) as client:
        for text in texts:
            router.events.add(EventKind.EDGE, text)
        yield router, client


async def listed(client: httpx.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/events{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()["events"]


async def test_the_newest_events_are_listed_last() -> None:
    """A limit leaves out older ones; a kind leaves out others."""
    async with edge_with_events("one", "two", "three") as (router, client):
        router.events.add(EventKind.POLICY, "four")
        assert [event["text"] for event in await listed(client)] == ["one", "two", "three", "four"]
        assert [event["text"] for event in await listed(client, "?limit=2")] == ["three", "four"]
        assert [event["text"] for event in await listed(client, "?kind=edge&limit=1")] == ["three"]


async def test_a_cursor_continues_where_the_reader_was() -> None:
    """Page by page, and again after the end when something has come."""
    async with edge_with_events("one", "two", "three") as (router, client):
        first = (await listed(client))[0]
        answer = (await client.get(f"/v1/events?cursor={first['id']}&limit=1")).json()
        assert [event["text"] for event in answer["events"]] == ["two"]
        answer = (await client.get(f"/v1/events?cursor={answer['next']}&limit=1")).json()
        assert [event["text"] for event in answer["events"]] == ["three"] and "next" not in answer
        last = answer["events"][0]["id"]
        assert await listed(client, f"?cursor={last}") == []
        router.events.add(EventKind.EDGE, "four")
        assert [event["text"] for event in await listed(client, f"?cursor={last}")] == ["four"]


@pytest.mark.parametrize("query", ["?kind=replicas", "?cursor=x", "?cursor=" + "9" * 17, "?limit=0", "?follow=maybe"])
async def test_wrong_parameters_are_refused(query: str) -> None:
    """422."""
    async with edge_with_events() as (_, client):
        assert (await client.get(f"/v1/events{query}")).status_code == 422


async def test_events_are_followed_as_they_happen() -> None:
    """Lines of JSON; a limit begins with the last ones; a kind holds for those to come, too."""
    async with (
        edge_with_events("one", "two") as (router, client),
        client.stream("GET", "/v1/events?follow=true&kind=edge&limit=1") as answer,
    ):
        lines = (json.loads(line) async for line in answer.aiter_lines() if line)
        assert (await anext(lines))["text"] == "two"
        router.events.add(EventKind.POLICY, "unwanted")
        router.events.add(EventKind.EDGE, "three")
        assert (await anext(lines))["text"] == "three"


async def test_a_browser_that_connects_again_misses_nothing() -> None:
    """It says which event it saw last."""
    async with edge_with_events("one", "two", "three") as (_, client):
        last = (await listed(client))[0]["id"]
        headers = {"accept": "text/event-stream", "last-event-id": str(last)}
        async with client.stream("GET", "/v1/events?follow=true", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            data = (json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: "))
            assert [(await anext(data))["text"] for _ in range(2)] == ["two", "three"]


async def test_a_stream_ends_when_the_router_stops() -> None:
    """At once, not when uvicorn loses its patience."""
    async with (
        running_router() as router,
        client_of(router) as client,
        client.stream("GET", "/v1/events?follow=true") as answer,
    ):
        router.streams.close()
        assert [line async for line in answer.aiter_lines() if line] == []


async def test_changes_name_their_author() -> None:
    """A person on this machine by the header; without a well-formed one, `local`."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        for author in ("ann", "Bob <b@x>", ""):
            await client.post("/v1/replicas/a/drain", headers={"x-pointsman-author": author} if author else {})
        events = await listed(client, "?kind=audit")
        assert [(event["author"], event["text"]) for event in events] == [
            ("local", "replica a was registered"),
            ("ann", "replica a drains"),
            ("local", "replica a drains"),
            ("local", "replica a drains"),
        ]
        assert events[1]["operation"] == "drainReplica" and events[1]["path"] == "/v1/replicas/a/drain"
        assert events[1]["status"] == 200 and events[1]["at"].endswith("Z")
        assert (await client.get("/v1/whoami", headers={"x-pointsman-author": "ann"})).json()["name"] == "ann"


async def test_refused_changes_are_recorded_and_dry_runs_are_not() -> None:
    """Somebody tried; nobody changed anything."""
    async with running_router() as router, client_of(router) as client:
        await client.put("/v1/policy?dry_run=true", json={"policy": "random"})
        await client.put("/v1/policy", json={"policy": "random"}, headers={"if-match": '"old"'})
        await client.post("/v1/explain", json={})
        (event,) = await listed(client, "?kind=audit")
        assert (event["operation"], event["status"]) == ("putPolicy", 412)
        assert event["text"].startswith("putPolicy refused: If-Match")
        assert await listed(client, "?kind=policy") == []


async def test_heartbeats_and_calls_of_replicas_themselves_are_not_recorded() -> None:
    """A thousand replicas would push everything else out."""
    async with running_router() as router, client_of(router) as client:
        plain = {"url": "http://127.0.0.1:9"}
        for _ in range(3):
            await client.put("/v1/replicas/plain", json=plain)
        own = {"url": "http://127.0.0.1:8", "born_ms": 5, "ttl_s": 60}
        await client.put("/v1/replicas/own", json=own)
        await client.put("/v1/replicas/own", json=own | {"born_ms": 3})  # refused: 409
        await client.put("/v1/replicas/leased", json={"url": "http://127.0.0.1:7", "ttl_s": 60})
        await client.post("/v1/replicas/own/drain?born_ms=5")
        await client.delete("/v1/replicas/own?born_ms=5")
        assert [event["text"] for event in await listed(client, "?kind=audit")] == ["replica plain was registered"]
