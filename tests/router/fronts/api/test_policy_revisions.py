"""Revisions of the live policy: who put what and why, what differs, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from router_fixture import client_of, running_router

LEAST = {"policy": "least_load"}
BY_TOKENS = {"policy": "least_load", "by": "tokens"}
STICKY = {"policy": "session_affinity", "ttl_s": 60, "fallback": {"policy": "power_of_two"}}


async def put(client: httpx.AsyncClient, document: dict[str, Any], why: str = "", author: str = "ann") -> None:
    answer = await client.put(
        "/v1/policy", json=document, params={"why": why} if why else {}, headers={"x-pointsman-author": author}
    )
    assert answer.status_code == 200, answer.text


async def listed(client: httpx.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/policy/revisions{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()["revisions"]


async def test_every_change_has_its_number_author_and_reason() -> None:
    """The newest first; the one that is live is marked, and its ETag is that of the live policy."""
    async with running_router(policy=LEAST) as router, client_of(router) as client:
        await put(client, BY_TOKENS, "long prompts", "ann")
        await put(client, STICKY, "", "bob")
        revisions = await listed(client)
        assert [(one["revision"], one["author"], one["why"], one["active"]) for one in revisions] == [
            (3, "bob", "", True),
            (2, "ann", "long prompts", False),
            (1, "configuration", "the router started with it", False),
        ]
        live = await client.get("/v1/policy")
        assert (revisions[0]["etag"], revisions[0]["document"]) == (live.headers["etag"], live.json())
        assert live.headers["x-pointsman-revision"] == "3"
        assert all(one["at"].endswith("Z") for one in revisions)
        assert (await client.get("/v1/policy/revisions/2")).json() == revisions[1]


async def test_revisions_are_paged() -> None:
    """Backwards from the newest, and none twice."""
    async with running_router(policy=LEAST) as router, client_of(router) as client:
        await put(client, BY_TOKENS)
        await put(client, STICKY)
        first = (await client.get("/v1/policy/revisions?limit=2")).json()
        assert [one["revision"] for one in first["revisions"]] == [3, 2]
        second = (await client.get(f"/v1/policy/revisions?limit=2&cursor={first['next']}")).json()
        assert [one["revision"] for one in second["revisions"]] == [1] and "next" not in second


async def test_the_live_document_again_is_no_revision() -> None:
    """A tool that puts its file every hour does not push out what people want to go back to."""
    async with running_router(policy=LEAST) as router, client_of(router) as client:
        await put(client, BY_TOKENS, "long prompts")
        await put(client, BY_TOKENS, "again")
        assert [one["why"] for one in await listed(client)] == ["long prompts", "the router started with it"]


async def test_a_diff_names_each_value_that_differs() -> None:
    """By its path; a value that is on one side only is absent on the other. Without numbers: the last change."""
    async with running_router(policy=LEAST) as router, client_of(router) as client:
        await put(client, STICKY)
        await put(client, STICKY | {"ttl_s": 90})
        assert (await client.get("/v1/policy/diff")).json() == {
            "from": 2,
            "to": 3,
            "changes": [{"key": "ttl_s", "from": 60.0, "to": 90.0}],
        }
        whole = {one.pop("key"): one for one in (await client.get("/v1/policy/diff?from=1&to=2")).json()["changes"]}
        assert whole["policy"] == {"from": "least_load", "to": "session_affinity"}
        assert whole["by"] == {"from": "requests"}
        assert whole["fallback.policy"] == {"to": "power_of_two"}


async def test_a_rollback_puts_an_earlier_document_live_as_a_new_revision() -> None:
    """Without a number the one that was live before; the way there is a way back, too."""
    async with running_router(policy=LEAST) as router, client_of(router) as client:
        await put(client, BY_TOKENS)
        answer = await client.post("/v1/policy/rollback", json={"why": "slower"}, headers={"x-pointsman-author": "bob"})
        assert answer.status_code == 200 and answer.json() == {"policy": "least_load", "by": "requests"}
        newest = (await listed(client))[0]
        assert (newest["revision"], newest["author"], newest["why"]) == (3, "bob", "back to revision 1: slower")
        assert newest["etag"] == answer.headers["etag"] == (await client.get("/v1/policy")).headers["etag"]
        again = await client.post("/v1/policy/rollback", json={"revision": 2})
        assert again.json()["by"] == "tokens" and again.headers["x-pointsman-revision"] == "4"


async def test_of_two_people_who_saw_the_same_version_the_second_is_told_what_is_live() -> None:
    """412 with the live ETag, the revision and its author, for changes and for rollbacks."""
    async with running_router(policy=LEAST) as router, client_of(router) as client:
        seen = (await client.get("/v1/policy")).headers["etag"]
        await put(client, BY_TOKENS, "long prompts", "ann")
        live = (await client.get("/v1/policy")).headers["etag"]
        for late in (
            await client.put("/v1/policy", json=STICKY, headers={"if-match": seen}),
            await client.put("/v1/policy?dry_run=1", json=STICKY, headers={"if-match": seen}),
            await client.post("/v1/policy/rollback", json={}, headers={"if-match": seen}),
        ):
            assert (late.status_code, late.headers["etag"]) == (412, live)
            assert "revision 2 by ann: long prompts" in late.json()["detail"]
        assert (await client.get("/v1/policy")).headers["etag"] == live
        assert (await client.post("/v1/policy/rollback", json={}, headers={"if-match": live})).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/v1/policy/revisions/9", None, 404, "revision 9 is not kept: those from 1 to 1 are"),
        ("GET", "/v1/policy/revisions/one", None, 422, "the number of a revision"),
        ("GET", "/v1/policy/revisions?cursor=x", None, 422, "the number of a revision"),
        ("GET", "/v1/policy/diff?from=0", None, 422, "the number of a revision"),
        ("GET", "/v1/policy/diff", None, 404, "no revision before 1"),
        ("POST", "/v1/policy/rollback", {}, 404, "no revision before 1"),
        ("POST", "/v1/policy/rollback", {"revision": 7}, 404, "revision 7 is not kept"),
        ("POST", "/v1/policy/rollback", {"revison": 1}, 422, "did you mean 'revision'?"),
        ("PUT", f"/v1/policy?why={'x' * 501}", {"policy": "random"}, 422, "at most 500 characters"),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_refused(method: str, path: str, body: Any, status: int, says: str) -> None:
    """In a sentence that says what would, and nothing changes."""
    async with running_router() as router, client_of(router) as client:
        answer = await client.request(method, path, json=body)
        assert answer.status_code == status and says in answer.json()["detail"], answer.text
        assert len(await listed(client)) == 1


async def test_events_name_author_reason_and_revision() -> None:
    """The event about the policy, and the call that made it."""
    async with running_router(policy=LEAST) as router, client_of(router) as client:
        await put(client, BY_TOKENS, "long prompts", "ann")
        (event,) = (await client.get("/v1/events?kind=policy")).json()["events"]
        assert event["text"] == "policy least_load is live, revision 2 by ann: long prompts"
        assert (event["author"], event["revision"]) == ("ann", 2)
        (call,) = (await client.get("/v1/events?kind=audit")).json()["events"]
        assert call["text"].startswith("policy least_load is live, revision 2, version ")
        assert call["text"].endswith("(long prompts)")


async def test_revisions_survive_a_restart(tmp_path: Path) -> None:
    """Numbers go on; the live one is the same, and so are records of who and why."""
    state_file = str(tmp_path / "state.json")
    async with running_router(state_file=state_file, policy=LEAST) as router, client_of(router) as client:
        await put(client, BY_TOKENS, "long prompts", "ann")
        before = await listed(client)
    async with running_router(state_file=state_file, policy=LEAST) as router, client_of(router) as client:
        assert await listed(client) == before
        await put(client, STICKY)
        assert (await listed(client))[0]["revision"] == 3


async def test_a_changed_configuration_is_a_revision(tmp_path: Path) -> None:
    """Whoever edits the file and restarts is found in the history as well; an unchanged file adds nothing."""
    state_file = str(tmp_path / "state.json")
    async with running_router(state_file=state_file, policy=LEAST):
        pass
    for _ in range(2):
        async with running_router(state_file=state_file, policy=STICKY) as router, client_of(router) as client:
            assert [(one["revision"], one["author"], one["active"]) for one in await listed(client)] == [
                (2, "configuration", True),
                (1, "configuration", False),
            ]
            assert router.core.pipeline.policy.name == "session_affinity"
