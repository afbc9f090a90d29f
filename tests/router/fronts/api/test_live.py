"""`/v1/live`: an edge at this moment, and once a second."""

from __future__ import annotations

import asyncio
import json

from router_fixture import client_of, register, running_router


async def test_the_figures_of_this_moment() -> None:
    async with running_router() as router, client_of(router) as client:
        await register(router, "a", "b", model="m")
        answer = await client.get("/v1/live")
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
        assert [(row["id"], row["state"], row["model"]) for row in answer.json()["replicas"]] == [
            ("a", "up", "m"),
            ("b", "up", "m"),
        ]


async def test_a_follower_gets_the_figures_at_once_and_then_again() -> None:
    """With what changed in between, and nothing is made once nobody follows."""
    async with running_router() as router, client_of(router, timeout=10) as client:
        await register(router, "a")
        async with client.stream("GET", "/v1/live?follow=true") as answer:
            lines = (json.loads(line) async for line in answer.aiter_lines() if line)
            first = await anext(lines)
            assert first["replicas"][0]["state"] == "up"
            router.core.replicas.drain("a", router.clock())
            later = await anext(lines)
            assert later["replicas"][0]["state"] == "draining" and later["at"] > first["at"]
        while router.live.followers:
            await asyncio.sleep(0.01)


async def test_server_sent_events_are_called_live() -> None:
    async with running_router() as router, client_of(router) as client:
        headers = {"accept": "text/event-stream"}
        async with client.stream("GET", "/v1/live?follow=true", headers=headers) as answer:
            assert await anext(answer.aiter_lines()) == "event: live"


async def test_a_misspelt_parameter_is_refused() -> None:
    async with running_router() as router, client_of(router) as client:
        assert (await client.get("/v1/live?folow=true")).status_code == 422
