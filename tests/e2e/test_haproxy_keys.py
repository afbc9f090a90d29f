"""API keys that are made at the router, in the real HAProxy: in force and revoked without a reload."""

from __future__ import annotations

from pathlib import Path

import pytest
from haproxy_fixture import Edge, running_edge, until

from pointsman.haproxy.api_keys import hash_of
from pointsman.haproxy.config import KEYS_VARIABLE
from pointsman.haproxy.key_map import KeyMap, write_map
from pointsman.haproxy.render import UNKNOWN_SCOPE, WRONG_KEYS_PER_MINUTE

KEY = "pmk-aaaaaaaaaaaa-secret"
OWNER = "acme/aaaaaaaaaaaa"


def told(edge: Edge) -> tuple[str, str]:
    """Tenant and key of the last lookup, whichever way it came."""
    texts = (edge.router.asked[-1].get(name) or "" for name in ("tenant", "key"))
    tenant, key = (text.decode() if isinstance(text, bytes) else str(text) for text in texts)
    return tenant, key


def the_map(edge: Edge) -> KeyMap:
    return KeyMap(edge.api, edge.config.keys_map)


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_a_key_is_in_force_and_revoked_at_once(tmp_path: Path, lookup: str) -> None:
    """In either header; the router hears of tenant and key, the replica of no key."""
    async with running_edge(tmp_path, lookup=lookup, keys_map=str(tmp_path / "keys.map")) as edge:
        keys = the_map(edge)
        await keys.replace({})
        headers = [("authorization", f"Bearer {KEY}")]
        refused = await edge.ask(headers=headers)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.json()["error"]["message"] == "The API key is missing or not known."
        await keys.change({hash_of(KEY): OWNER})
        for shown in (headers, [("x-api-key", KEY)]):
            assert (await edge.ask(headers=shown)).status == 200
            assert told(edge) == ("acme", "aaaaaaaaaaaa")
        served = [request for replica in edge.replicas.values() for request in replica.received]
        assert served
        assert all(one.header(name) is None for one in served for name in ("authorization", "x-api-key"))
        await keys.change({hash_of(KEY): None})
        assert (await edge.ask(headers=headers)).status == 401
        assert (await edge.ask()).status == 401
        assert "reload" not in edge.process.log_file.read_text().lower()


async def test_until_it_is_told_the_keys_a_new_haproxy_refuses_no_key_for_good(tmp_path: Path) -> None:
    """An unknown key is answered 503 until then; those in the file are in force from the first request on."""
    write_map(tmp_path / "keys.map", {hash_of(KEY): OWNER})
    async with running_edge(tmp_path, keys_map=str(tmp_path / "keys.map")) as edge:
        unknown = await edge.ask(headers=[("x-api-key", "another")])
        assert (unknown.status, unknown.headers["retry-after"]) == (503, "1")
        assert (await edge.ask(headers=[("x-api-key", KEY)])).status == 200
        await the_map(edge).replace({hash_of("another"): "b/bbbbbbbbbbbb"})
        assert await edge.api.get_variable(KEYS_VARIABLE) == "1"
        assert (await edge.ask(headers=[("x-api-key", "another")])).status == 200
        assert (await edge.ask(headers=[("x-api-key", KEY)])).status == 401


async def test_who_tries_many_keys_is_slowed_and_who_has_one_is_not(tmp_path: Path) -> None:
    """Beyond so many a minute 429, of which the router hears nothing; a good key from the same address goes on."""
    async with running_edge(tmp_path, keys_map=str(tmp_path / "keys.map")) as edge:
        await the_map(edge).replace({hash_of(KEY): OWNER})
        wrong = [await edge.ask(headers=[("x-api-key", f"guess-{n}")]) for n in range(WRONG_KEYS_PER_MINUTE + 5)]
        statuses = [answer.status for answer in wrong]
        assert statuses.count(401) == WRONG_KEYS_PER_MINUTE
        assert statuses[-5:] == [429] * 5
        assert wrong[-1].headers["retry-after"] == "60"
        assert (await edge.ask(headers=[("x-api-key", KEY)])).status == 200

        async def all_told() -> bool:
            return edge.router.lines[-1]["st"] == 200 if edge.router.lines else False

        await until(all_told)
        assert [line["reason"] for line in edge.router.lines].count("unknown-key") == WRONG_KEYS_PER_MINUTE
        assert {line["st"] for line in edge.router.lines} == {401, 200}


async def test_a_key_of_the_file_and_one_of_the_router_are_both_taken(tmp_path: Path) -> None:
    """A file that reloads carry on beside keys that need none."""
    (tmp_path / "old.map").write_text(f"{hash_of('old')} olds\n")
    maps = {"keys_map": str(tmp_path / "keys.map"), "api_keys_map": str(tmp_path / "old.map")}
    async with running_edge(tmp_path, **maps) as edge:
        await the_map(edge).replace({hash_of(KEY): OWNER})
        seen = []
        for key in ("old", KEY):
            assert (await edge.ask(headers=[("x-api-key", key)])).status == 200
            seen.append(told(edge))
        assert seen == [("olds", ""), ("acme", "aaaaaaaaaaaa")]


async def test_ten_thousand_keys(tmp_path: Path) -> None:
    """Told in one go, changed one by one, compared with what HAProxy has."""
    entries = {hash_of(f"key-{number}"): f"t{number % 50}/{number:012d}" for number in range(10_000)}
    async with running_edge(tmp_path, keys_map=str(tmp_path / "keys.map")) as edge:
        keys = the_map(edge)
        await keys.replace(entries)
        for number in (0, 9_999):
            assert (await edge.ask(headers=[("x-api-key", f"key-{number}")])).status == 200
        del entries[hash_of("key-0")]
        fresh = the_map(edge)  # of a router that restarted
        await fresh.replace(entries)
        assert (await edge.ask(headers=[("x-api-key", "key-0")])).status == 401
        assert (await edge.ask(headers=[("x-api-key", "key-1")])).status == 200


LEFT = {"rates": "60/5/1/6000/200/4"}
LEFT_HEADERS = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "5",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-limit-tokens": "6000",
    "x-ratelimit-remaining-tokens": "200",
    "x-ratelimit-reset-tokens": "4s",
}


@pytest.mark.parametrize("lookup", ["spoe", "lua"])
async def test_who_is_over_a_limit_is_told_which_and_for_how_long(tmp_path: Path, lookup: str) -> None:
    """In OpenAI's headers, on answers of replicas too; a forbidden model is named."""
    async with running_edge(tmp_path, lookup=lookup, keys_map=str(tmp_path / "keys.map")) as edge:
        await the_map(edge).replace({hash_of(KEY): OWNER})
        headers = [("x-api-key", KEY)]

        edge.router.answer = lambda asked: {"reason": "least-load", "first": "r1", **LEFT}
        served = await edge.ask(headers=headers)
        assert served.status == 200
        assert served.headers.items() >= LEFT_HEADERS.items()

        edge.router.answer = lambda asked: {"reason": "least-load", "first": "r1", "rates": "///6000/200/4"}
        half = await edge.ask(headers=headers)
        assert {name for name in half.headers if name.startswith("x-ratelimit")} == {
            name for name in LEFT_HEADERS if name.endswith("-tokens")
        }

        over = {"reason": "limit", "status": 429, "retry_after": 7, "limit": "tokens_per_minute of tenant/acme"}
        edge.router.answer = lambda asked: {**over, **LEFT}
        refused = await edge.ask(headers=headers)
        assert (refused.status, refused.headers["retry-after"]) == (429, "7")
        assert refused.headers.items() >= LEFT_HEADERS.items()
        error = refused.json()["error"]
        assert error["code"] == "rate_limit_exceeded"
        assert error["message"] == "Rate limit reached: tokens_per_minute of tenant/acme. Try again in 7 s."

        edge.router.answer = lambda asked: {**over, "limit": 'requests_per_minute of tenant/acme/a"b'}
        assert 'tenant/acme/a"b' in (await edge.ask(headers=headers)).json()["error"]["message"]

        edge.router.answer = lambda asked: {"reason": "model-forbidden", "status": 403, "model": 'a"b'}
        forbidden = await edge.ask(headers=headers)
        assert (forbidden.status, forbidden.json()["error"]["message"]) == (
            403,
            'The API key may not use the model `a"b`.',
        )
        assert not any(name.startswith("x-ratelimit") for name in forbidden.headers)
        assert sum(len(replica.received) for replica in edge.replicas.values()) == 2


@pytest.mark.parametrize("whole", [True, False])
async def test_an_isolated_tenant_stays_apart_while_the_router_is_away(tmp_path: Path, whole: bool) -> None:
    """Its session ids are hashed apart, and its replica is told whose KV it is; all tenants, or one of them."""
    keys = {hash_of("a"): "acme/aaaaaaaaaaaa/i", hash_of("b"): "b/bbbbbbbbbbbb", hash_of("c"): "c/cccccccccccc"}
    shown = {"isolate_tenants": whole, "keys_map": str(tmp_path / "keys.map")}
    async with running_edge(tmp_path, replicas=4, **shown) as edge:
        await the_map(edge).replace(keys)
        await edge.router.stop()
        homes: dict[str, list[int]] = {}
        scopes: dict[str, set[str | None]] = {}
        for key in "abc":
            for session in range(12):
                answer = await edge.ask(headers=[("x-api-key", key), ("x-session-id", f"s{session}")])
                assert answer.status == 200
                await edge.idle()
            received = [(len(replica.received), replica) for replica in edge.replicas.values()]
            homes[key] = [count for count, _ in received]
            scopes[key] = {one.header("x-pointsman-scope") for _, replica in received for one in replica.received}
            for _, replica in received:
                replica.received.clear()
        assert scopes["a"] == {f"{UNKNOWN_SCOPE} acme"}
        assert scopes["b"] == ({f"{UNKNOWN_SCOPE} b"} if whole else {None})
        assert (homes["b"] == homes["c"]) is not whole
        assert homes["a"] != homes["b"]
