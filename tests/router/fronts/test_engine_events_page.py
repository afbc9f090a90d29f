"""docs/engine-events.md: its worked example, played against a real router, is answered as the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import msgspec
from residency import holds
from router_fixture import client_of, running_router

from pointsman.contract.events import (
    MAX_EVENT_KEYS,
    MAX_EVENT_REQUESTS,
    MAX_EVENTS_BYTES,
    EngineEvents,
    EngineLoad,
    EventsAnswer,
    Finished,
    FirstToken,
)
from pointsman.contract.feed import FeedHello, FeedReply
from pointsman.contract.prefix_keys import prefix_keys, scope_of, scoped
from pointsman.contract.registration import Registration
from pointsman.router.app import Router

PAGE = (Path(__file__).parents[3] / "docs" / "engine-events.md").read_text()
BLOCKS: list[tuple[str, Any]] = [
    (kind, msgspec.json.decode(text)) for kind, text in re.findall(r"^```json (\w+)\n(.*?)^```", PAGE, re.M | re.S)
]


async def post(client: httpx.AsyncClient, message: dict[str, Any]) -> EventsAnswer:
    answer = await client.post("/v1/replicas/chat-1/events", json=message)
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=EventsAnswer, strict=True)


def resident(router: Router, *keys: int) -> list[bool]:
    return [holds(router.core.kv.index, 0, key) for key in keys]


async def test_the_example_is_answered_as_the_page_says() -> None:
    """Each message gets the answer that follows it on the page; keys come, go, and are right again after the gap."""
    (_, registration), *steps = BLOCKS
    first, second = scoped(
        prefix_keys(b'{"model":"tiny","prompt":"' + b"a" * 1100 + b'","max_tokens":2}'), scope_of("tiny")
    )
    async with running_router(policy={"policy": "kv_cost"}) as router, client_of(router) as client:
        missing = await client.post("/v1/replicas/chat-1/events", json=steps[0][1])
        assert missing.status_code == 404, "a message before the registration"
        msgspec.convert(registration, Registration)
        assert (await client.put("/v1/replicas/chat-1", json=registration)).status_code == 201
        states = []
        for (kind, document), (after, expected) in zip(steps, [*steps[1:], ("", None)], strict=True):
            if kind != "message":
                continue
            answer = await post(client, document)
            states.append(resident(router, first, second, 9))
            assert answer.renewed and answer.feed_port > 0
            assert answer.resync is (expected["resync"] if after == "answer" else False)
            if after == "answer":
                assert (answer.interval_ms, answer.renewed) == (expected["interval_ms"], expected["renewed"])
        assert states == [
            [False, False, False],
            [True, True, False],
            [True, False, False],
            [True, False, False],
            [True, False, True],
        ]


def test_the_keys_of_the_example_are_those_of_its_body() -> None:
    """Unscoped and scoped, and the scope itself."""
    keys = prefix_keys(b'{"model":"tiny","prompt":"' + b"a" * 1100 + b'","max_tokens":2}')
    for number in (*keys, *scoped(keys, scope_of("tiny")), f"{scope_of('tiny'):016x}"):
        assert str(number) in PAGE


def test_each_field_of_a_message_is_explained() -> None:
    """None is left out, and the limits are those of the code."""
    structs = (EngineEvents, FirstToken, Finished, EngineLoad, EventsAnswer, FeedHello, FeedReply)
    for field in {name for struct in structs for name in struct.__struct_fields__}:
        assert f"`{field}`" in PAGE or f'"{field}"' in PAGE, field
    for limit in (f"{MAX_EVENT_KEYS:,} each", f"{MAX_EVENT_REQUESTS:,} each", f"{MAX_EVENTS_BYTES >> 20} MiB"):
        assert limit in PAGE
