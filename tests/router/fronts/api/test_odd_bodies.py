"""Ten thousand bodies nobody should send, to all that reads one: each is taken or refused in a documented way."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from invariants import check
from router_fixture import running_router

from pointsman.contract.pools import FleetLease, PoolStatus
from pointsman.contract.registration import Role
from pointsman.router.app import Router
from pointsman.router.fronts.api.openapi import describe_api
from pointsman.router.fronts.api.table import ENDPOINTS

BODIES = 10_000
SEED = 13

OTHER_TYPES = ("text/plain", "application/msgpack", "", "application/x-www-form-urlencoded")

TARGETS: dict[tuple[str, str], tuple[str, Any]] = {
    ("PUT", "/v1/replicas/b"): (
        "/v1/replicas/{id}",
        {"url": "http://127.0.0.1:9", "model": "m", "adapters": ["x"], "ttl_s": 9, "born_ms": 5, "health_path": "/h"},
    ),
    ("POST", "/v1/replicas/a/events"): (
        "/v1/replicas/{id}/events",
        {
            "epoch": "e", "seq": 0, "snapshot": True, "stored": [7, 8], "tokens": [16, 32], "evicted": [9], "since": 0,
            "at": 1, "first": [{"id": "r", "prompt_tokens": 9, "cached_tokens": 3, "ttft_ms": 2.5}],
            "finished": [{"id": "r", "prompt_tokens": 9, "completion_tokens": 2}], "capacity_tokens": 4096,
            "load": {"running": 1, "waiting": 2, "queued_prefill_tokens": 3, "kv_usage": 0.5}, "block_tokens": 16,
            "handoffs": {"ok": 1, "leg_ms": 3}, "adapters": ["x"], "adapter_slots": 2, "born_ms": 0,
        },
    ),
    ("POST", "/v1/replicas/a/drain"): ("/v1/replicas/{id}/drain", {}),
    ("PUT", "/v1/sessions/s"): ("/v1/sessions/{key}", {"replica": "a"}),
    ("PUT", "/v1/policy"): (
        "/v1/policy",
        {"policy": "session_affinity", "ttl_s": 60, "fallback": {"policy": "kv_cost", "admission": {"limit": 1.0}}},
    ),
    ("POST", "/v1/explain"): (
        "/v1/explain",
        {"path": "/v1/completions", "model": "m", "session": "s", "body_bytes": 900, "prefix_keys": [7, 8]},
    ),
    ("PUT", "/v1/fleets/g"): (
        "/v1/fleets/{name}",
        {
            "control": "http://127.0.0.1:9", "ttl_s": 9.5, "pools": [{
                "name": "p", "model": "m", "role": "both", "replicas": 1, "replicas_max": 2, "ready": 1,
                "state": "ready", "revision": "r", "members": [
                    {"id": "p-1", "state": "ready", "revision": "r", "deaths": 0, "urls": ["http://127.0.0.1:9"]}
                ],
            }],
        },
    ),
    ("POST", "/v1/pools/chat/scale"): ("/v1/pools/{name}/scale", {"replicas": 2}),
    ("PUT", "/v1/pools/chat"): ("/v1/pools/{name}", {"model": "m"}),
}  # fmt: skip
"""What reads a body: method and path -> its path in the description, and a body it takes."""

ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, -0.0, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**70, -(2**70), 10**400,
    1e308, 1e-308, "", "x", "0", "é\u2028\U0001f600", "\x00", "../..", "x" * 30_000, [], [None], [[]], {},
    {"x": {}}, "x" * 120_000,
    {"": 0}, "http://127.0.0.1:0", "http://0:9", "http://u:p@127.0.0.1:9", "http://169.254.169.254:80", "http://[::1]:9",
    "http://[fe80::1%25lo]:9", "http://[", "http://127.0.0.1:99999", "http://127.0.0.1:9/x?y#z", "file:///etc/passwd",
    "http://" + "a" * 70 + ":9", "http://x\x00y:9", "kv_cost", "nope", list(range(300)), "\u202e" * 300,
]  # fmt: skip


def paths_in(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a document, the document itself first."""
    found = [at]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        found += paths_in(inner, (*at, key))
    return found


def replaced(document: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """The document with what stands at a path changed."""
    if not path:
        return change(document)
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = replaced(copy[path[0]], path[1:], change)
    return copy


def nested(depth: int, open_: str, inner: str, close: str) -> bytes:
    return (open_ * depth + inner + close * depth).encode()


def odd_body(rng: random.Random, good: Any) -> bytes:
    """A body that is wrong in one way or several; now and then a good one."""
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice([
            b"", b"{", b"\xff\xfe{}", b"\x00", b"nul", b"NaN", b"[1e999]", b'"\xed\xa0\x80"', b'"\\ud800"', b"9" * 5000,
            nested(5000, "[", "", "]"), nested(5000, '{"fallback":', "1", "}"), rng.randbytes(rng.randrange(1, 200)),
            nested(200, '{"policy": "session_affinity", "fallback": ', '{"policy": "random"}', "}"),
        ])  # fmt: skip
    document = good
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        path = rng.choice(paths_in(document))
        value = rng.choice(ODD)
        if kind < 7:
            document = replaced(document, path, lambda _, value=value: value)
        elif kind == 7:  # one key more
            extra = rng.choice(["x", "ttl", "", "policy", "\u0000", "__class__"])
            document = replaced(
                document, path, lambda was, e=extra, v=value: {**was, e: v} if isinstance(was, dict) else was
            )
        elif path:  # one less
            document = replaced(
                document,
                path[:-1],
                lambda was, key=path[-1]: (
                    {k: v for k, v in was.items() if k != key} if isinstance(was, dict) else was[:-1]
                ),
            )
    raw = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode()
    if rng.random() < 0.1:  # cut, or a byte that is no UTF-8
        at = rng.randrange(len(raw))
        raw = raw[:at] if rng.random() < 0.5 else raw[:at] + b"\xff" + raw[at + 1 :]
    return raw


def as_msgpack(raw: bytes) -> bytes:
    try:
        return msgspec.msgpack.encode(msgspec.json.decode(raw))
    except (ValueError, RecursionError, OverflowError):
        return raw


def documented() -> dict[tuple[str, str], set[int]]:
    paths = describe_api(ENDPOINTS, "1")["paths"]
    return {
        (method.upper(), path): {int(code) for code in operation["responses"]}
        for path, item in paths.items()
        for method, operation in item.items()
        if method != "parameters"
    }


async def prepare(client: httpx.AsyncClient) -> None:
    """A replica that engines' messages are about, and a pool whose driver is away."""
    status = PoolStatus(
        name="chat", model="m", role=Role.BOTH, replicas=2, replicas_max=8, ready=2, state="ready", revision="r"
    )
    lease = msgspec.to_builtins(FleetLease(control="http://127.0.0.1:9", ttl_s=86_400.0, pools=[status]))
    assert (await client.put("/v1/replicas/a", json={"url": "http://127.0.0.1:9"})).is_success
    assert (await client.put("/v1/fleets/f", json=lease)).is_success


def check_whole(router: Router) -> None:
    """What bodies could have half changed agrees with itself, and can be saved and measured."""
    check(router.core.replicas)
    check(router.core.adapters)
    msgspec.json.encode([router.core.replicas.saved(), router.core.policy.document])
    assert list(router.metrics())


@pytest.mark.system
async def test_ten_thousand_odd_bodies_are_refused_as_documented() -> None:
    """No 5xx but for a driver that is away, no exception, no undocumented status; the state stays whole."""
    rng = random.Random(SEED)
    answers = documented()
    seen: Counter[int] = Counter()
    async with running_router(scrape={"enabled": False}, admin={"port": 0, "max_body_bytes": 100_000}) as router:
        # In process, so that an exception is this test's and not a line in a log.
        transport = httpx.ASGITransport(router.admin.app(), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await prepare(client)
            targets = list(TARGETS.items())
            for number in range(BODIES):
                (method, path), (described, good) = targets[number % len(targets)]
                body = odd_body(rng, good)
                media_type = "application/json"
                if path.endswith("/events") and rng.random() < 0.5:
                    media_type, body = "application/msgpack", as_msgpack(body)
                if rng.random() < 0.01:
                    media_type = rng.choice(OTHER_TYPES)
                answer = await client.request(method, path, content=body, headers={"content-type": media_type})
                said = f"SEED={SEED} body {number}: {method} {path} {body[:300]!r}: {answer.status_code} {answer.text}"
                assert answer.status_code in answers[method, described], said
                assert answer.status_code < 500 or "cannot be reached" in answer.text, said
                if answer.is_error:
                    problem = answer.json()
                    assert problem["status"] == answer.status_code and problem["detail"], said
                seen[answer.status_code] += 1
                if number % 1000 == 0:
                    check_whole(router)
            check_whole(router)
    # The bodies are odd, not hopeless: every way out was taken.
    assert {200, 201, 204, 400, 413, 415, 422} <= set(seen), seen


@pytest.mark.parametrize("size", ["9" * 15_000, str(2**63), "-1", "1e9", "0x10"])
async def test_a_size_that_is_no_number_of_bytes_is_refused(size: str) -> None:
    """400 with one sentence, on both routes of the lookup listener; nothing is reserved."""
    async with running_router() as router:
        async with httpx.AsyncClient(base_url=f"http://{router.addresses['lookup']}") as client:
            for route in ("/lookup", "/hold"):
                answer = await client.post(route, content=f"id=boom&size={size}")
                assert (answer.status_code, answer.text[:5]) == (400, "size:")
        assert len(router.core.load) == 0
