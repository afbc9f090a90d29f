"""Sessions in the admin API: found, moved, forgotten, whatever their names."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest
from other_task import another_task
from router_fixture import client_of, register, running_router

from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router
from pointsman.router.decide.features import MAX_SESSION_BYTES
from pointsman.router.fronts.api.sessions import SLICE_NAMES

ODD = ["a/b", "../x", "a b", "ü", "?#%", "sess:1;x=y", "/", "%2F", "a" * MAX_SESSION_BYTES]
"""Session ids that clients may send."""


def ask(router: Router, session: str, request: str = "", **more: Any) -> Decision:
    """One request of a session, answered at once unless it has an id."""
    features = RequestFeatures(
        request_id=request or "q", session=session, body_bytes=4000, prefix_keys=(1, 2, 3), **more
    )
    decision = router.core.decide(features, router.clock())
    if not request:
        router.core.requests.end("q", router.clock(), served=True)
    return decision


async def view_of(client: httpx.AsyncClient, key: str, query: str = "") -> dict[str, Any]:
    answer = await client.get(f"/v1/sessions/{quote(key, safe='')}{query}")
    assert answer.status_code == 200, answer.text
    view: dict[str, Any] = answer.json()
    return view


async def keys_of(client: httpx.AsyncClient, query: str = "") -> list[str]:
    answer = await client.get(f"/v1/sessions{query}")
    assert answer.status_code == 200, answer.text
    return [session["key"] for session in answer.json()["sessions"]]


async def test_a_conversation_shows_where_it_lives_and_for_how_long() -> None:
    """While a request is under way, and after it."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        ask(router, "s", request="q1")
        under_way = await view_of(client, "s")
        assert (under_way["state"], under_way["in_flight"], under_way["replica"]) == ("under-way", 1, "a")
        assert under_way["idle_timeout_left_s"] is None and under_way["forgotten_in_s"] is None
        router.core.requests.end("q1", router.clock(), served=True)
        view = await view_of(client, "s")
        assert (view["state"], view["in_flight"], view["turns"], view["tokens"]) == ("pausing", 0, 1, 1000)
        assert (view["pinned"], view["moving"], view["tenant"]) == (False, False, "")
        assert 0 < view["idle_timeout_left_s"] <= view["forgotten_in_s"] <= 120
        assert view["last_active"].endswith("Z") and view["idle_s"] >= 0


async def test_a_pin_shows_where_it_leads() -> None:
    """Under a policy that pins sessions and looks at no prompt."""
    async with (
        running_router(policy={"policy": "session_affinity", "ttl_s": 600}) as router,
        client_of(router) as client,
    ):
        await register(router, "a")
        ask(router, "s")
        view = await view_of(client, "s")
        assert (view["state"], view["pinned"], view["replica"]) == ("pinned", True, "a")
        assert (view["tokens"], view["turns"], view["in_flight"], view["idle_timeout_left_s"]) == (None,) * 4
        assert 590 < view["forgotten_in_s"] <= 600
        # The pin stays for the policy's return, and leads nowhere meanwhile.
        await client.put("/v1/policy", json={"policy": "least_load"})
        assert (await client.get("/v1/sessions/s")).status_code == 404
        assert await keys_of(client) == []


@pytest.mark.parametrize("policy", ["kv_cost", "session_affinity"])
async def test_a_session_moves_with_its_next_request(policy: str) -> None:
    """To the replica that was named; until then it is on its way."""
    async with running_router(policy={"policy": policy}) as router, client_of(router) as client:
        await register(router, "a", "b")
        target = "b" if ask(router, "s").first == "a" else "a"
        moved = await client.put("/v1/sessions/s", json={"replica": target})
        assert (moved.status_code, moved.json()["replica"], moved.json()["moving"]) == (200, target, True)
        decision = ask(router, "s")
        assert (decision.first, decision.reason) == (target, Reason.SESSION_MOVED_ORDER)
        view = await view_of(client, "s")
        assert (view["replica"], view["moving"]) == (target, False)
        new = await client.put("/v1/sessions/new", json={"replica": "b"})
        assert (new.status_code, new.json()["state"], new.json()["moving"]) == (200, "pinned", True)
        assert ask(router, "new").first == "b"


@pytest.mark.parametrize("policy", ["kv_cost", "session_affinity"])
async def test_a_session_that_is_forgotten_is_gone(policy: str) -> None:
    """Twice is 404, and its next request is that of a new session."""
    async with running_router(policy={"policy": policy}) as router, client_of(router) as client:
        await register(router, "a")
        for _ in range(3):
            ask(router, "s")
        assert (await client.delete("/v1/sessions/s")).status_code == 204
        assert (await client.delete("/v1/sessions/s")).status_code == 404
        assert (await client.get("/v1/sessions/s")).status_code == 404
        assert await keys_of(client) == []
        ask(router, "s")
        assert (await view_of(client, "s"))["turns"] in (1, None)


@pytest.mark.parametrize("session", ODD)
async def test_a_session_id_may_hold_any_character(session: str) -> None:
    """Percent-encoded in the path it is found, moved and forgotten."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        ask(router, session)
        assert await keys_of(client) == [session]
        assert (await view_of(client, session))["key"] == session
        path = f"/v1/sessions/{quote(session, safe='')}"
        assert (await client.put(path, json={"replica": "a"})).json()["key"] == session
        assert (await client.delete(path)).status_code == 204
        assert await keys_of(client) == []


async def test_a_conversation_without_a_session_id_is_named_by_its_prompt() -> None:
    """It is shown and forgotten; it cannot be moved, since nothing in its next request names it."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a")
        ask(router, "")
        (key,) = await keys_of(client)
        assert key == "#0000000000000002"
        assert (await view_of(client, key))["turns"] == 1
        refused = await client.put(f"/v1/sessions/{quote(key)}", json={"replica": "a"})
        assert refused.status_code == 409 and "no session id" in refused.text
        assert (await client.delete(f"/v1/sessions/{quote(key)}")).status_code == 204
        assert await keys_of(client) == []


async def test_sessions_of_tenants_are_apart() -> None:
    """The same id of two tenants is two sessions; a tenant is named beside the id."""
    async with running_router(isolate_tenants=True) as router, client_of(router) as client:
        await register(router, "a", "b")
        for tenant in ("blue", "red"):
            router.decider.lookup({"id": tenant, "session": "s/1", "tenant": tenant, "size": 400, "seen": 400})
        listed = (await client.get("/v1/sessions")).json()["sessions"]
        assert [(one["tenant"], one["key"]) for one in listed] == [("blue", "s/1"), ("red", "s/1")]
        assert await keys_of(client, "?tenant=red") == ["s/1"]
        assert (await client.get(f"/v1/sessions/{quote('s/1', safe='')}")).status_code == 404
        assert (await view_of(client, "s/1", "?tenant=blue"))["tenant"] == "blue"
        path = f"/v1/sessions/{quote('s/1', safe='')}?tenant=blue"
        assert (await client.put(path, json={"replica": "b"})).json()["tenant"] == "blue"
        lookup = router.decider.lookup({"id": "q", "session": "s/1", "tenant": "blue", "size": 400, "seen": 400})
        assert (lookup.first, lookup.reason) == ("b", Reason.SESSION_MOVED_ORDER)
        assert (await client.delete(path)).status_code == 204
        assert await keys_of(client, "?tenant=blue") == []
        assert await keys_of(client) == ["s/1"]


async def test_sessions_are_listed_in_pages_by_where_they_live() -> None:
    """By key, each once; by replica and by the model that the replica serves."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "a", model="qwen")
        await client.put("/v1/replicas/b", json={"url": "http://127.0.0.1:9", "model": "llama"})
        for number in range(25):
            ask(router, f"s{number:02d}", model="qwen" if number % 5 else "llama")
        every = [f"s{number:02d}" for number in range(25)]
        assert await keys_of(client) == every
        seen: list[str] = []
        query = "?limit=10"
        while query:
            page = (await client.get(f"/v1/sessions{query}")).json()
            assert len(page["sessions"]) <= 10
            seen += [session["key"] for session in page["sessions"]]
            query = f"?limit=10&cursor={page['next']}" if "next" in page else ""
        assert seen == every
        at_b = every[::5]
        assert await keys_of(client, "?replica=b") == await keys_of(client, "?model=llama") == at_b
        assert await keys_of(client, "?replica=b&limit=2") == at_b[:2]
        assert await keys_of(client, "?replica=nobody") == []


async def test_a_session_with_a_pin_and_a_conversation_is_one() -> None:
    """Of a policy that pins, over one that goes by KV; where it is pinned is where it lives."""
    policy = {"policy": "session_affinity", "fallback": {"policy": "kv_cost"}}
    async with running_router(policy=policy) as router, client_of(router) as client:
        await register(router, "a")
        ask(router, "s")
        assert await keys_of(client) == ["s"]
        view = await view_of(client, "s")
        assert (view["pinned"], view["turns"], view["state"]) == (True, 1, "pausing")


async def test_a_long_list_lets_lookups_through() -> None:
    """Whoever reads a page goes through the whole table, slice by slice."""
    async with running_router(policy={"policy": "session_affinity"}) as router, client_of(router) as client:
        await register(router, "a")
        for number in range(8 * SLICE_NAMES):
            router.core.sessions.pin(f"s{number:06d}", "a", router.clock())
        async with another_task() as turns:
            assert await keys_of(client, "?limit=3&cursor=s000100") == ["s000101", "s000102", "s000103"]
        assert turns.count >= 8


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        pytest.param("PUT", "/v1/sessions/s", {"replica": "nobody"}, 422, "registered replica", id="unknown replica"),
        pytest.param("PUT", "/v1/sessions/s", {"replica": "drained"}, 409, "Drained", id="drained replica"),
        pytest.param("PUT", "/v1/sessions/s", {"replica": "p"}, 409, "computes prompts", id="prefill replica"),
        pytest.param("PUT", "/v1/sessions/s", {"replicas": "a"}, 422, "replica", id="misspelt"),
        pytest.param("PUT", "/v1/sessions/" + "x" * 257, {"replica": "a"}, 422, "256", id="longer than any id"),
        pytest.param("GET", "/v1/sessions/", None, 422, "session id", id="no id"),
        pytest.param("GET", "/v1/sessions/s?tenant=" + "x" * 129, None, 422, "128", id="tenant too long"),
        pytest.param("GET", "/v1/sessions?limit=0", None, 422, "limit", id="limit"),
        pytest.param("GET", "/v1/sessions?sort=age", None, 422, "replica", id="unknown parameter"),
        pytest.param("DELETE", "/v1/sessions/nobody?tenant=t", None, 404, "tenant", id="unknown session"),
    ],
)
async def test_what_cannot_be_is_refused(
    method: str, path: str, body: dict[str, str] | None, status: int, says: str
) -> None:
    """With a sentence that says what to do, and nothing changed."""
    async with running_router() as router, client_of(router) as client:
        await register(router, "p", role="prefill")
        await register(router, "a", "drained")
        await client.post("/v1/replicas/drained/drain")
        answer = await client.request(method, path, json=body)
        assert answer.status_code == status and says in answer.text, answer.text
        assert not router.core.sessions.ordered
