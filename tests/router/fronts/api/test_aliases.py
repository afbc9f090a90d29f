"""Aliases in the admin API: made, shown with how their versions fare, and taken through the steps of a rollout."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from ring_line import line
from router_fixture import client_of, running_router

from pointsman.policies.request import RequestFeatures
from pointsman.router.app import Router

VERSIONS = [{"model": "m-v1", "weight": 90}, {"model": "m-v2", "weight": 10}]


@asynccontextmanager
async def running(**replicas: tuple[str, bool]) -> AsyncIterator[tuple[Router, httpx.AsyncClient]]:
    """A router with replicas by id: their model, and whether they rename it."""
    async with running_router(scrape={"enabled": False}) as router, client_of(router) as client:
        for number, (replica, (model, renames)) in enumerate(replicas.items(), 1):
            body = {"url": f"http://127.0.0.1:{number}", "model": model, "renames_model": renames}
            assert (await client.put(f"/v1/replicas/{replica}", json=body)).status_code == 201
        yield router, client


def versions(view: dict[str, Any], field: str) -> dict[str, Any]:
    return {version["model"]: version[field] for version in view["versions"]}


async def test_an_alias_is_made_changed_shown_and_removed() -> None:
    """Each change is the next version, with author and reason, and an event."""
    async with running(a=("m-v1", True), b=("m-v2", True)) as (_, client):
        assert (await client.get("/v1/aliases")).json() == {"aliases": []}
        made = await client.put("/v1/aliases/chat?why=ten", json={"versions": VERSIONS})
        assert made.status_code == 201
        view = made.json()
        assert (view["version"], view["why"], view["warnings"]) == (1, "ten", [])
        assert versions(view, "share") == {"m-v1": 0.9, "m-v2": 0.1}
        assert versions(view, "stable") == {"m-v1": True, "m-v2": False}
        assert versions(view, "replicas") == {"m-v1": ["a"], "m-v2": ["b"]}
        changed = await client.put("/v1/aliases/chat", json={"versions": VERSIONS[:1]})
        assert (changed.status_code, changed.json()["version"]) == (200, 2)
        assert (await client.get("/v1/aliases/chat")).json() == changed.json()
        assert (await client.get("/v1/aliases")).json() == {"aliases": [changed.json()]}
        assert (await client.delete("/v1/aliases/chat")).status_code == 204
        assert (await client.get("/v1/aliases/chat")).status_code == 404
        texts = [event["text"] for event in (await client.get("/v1/events?kind=alias")).json()["events"]]
        assert texts == [
            "alias chat stands for m-v1 90 %, m-v2 10 % (ten)",
            "alias chat stands for m-v1 100 %",
            "alias chat is removed",
        ]
        audited = (await client.get("/v1/events?kind=audit")).json()["events"]
        assert [event["operation"] for event in audited][-3:] == ["putAlias", "putAlias", "deleteAlias"]


async def test_the_steps_of_a_rollout_are_one_call_each() -> None:
    """Paused, resumed, promoted, rolled back."""
    async with running(a=("m-v1", True), b=("m-v2", True)) as (_, client):
        await client.put("/v1/aliases/chat", json={"versions": VERSIONS})
        steps = [
            ("pause", {"why": "errors"}, {"m-v1": 1.0, "m-v2": 0.0}),
            ("resume", {}, {"m-v1": 0.9, "m-v2": 0.1}),
            ("promote", {}, {"m-v2": 1.0, "m-v1": 0.0}),
            ("promote", {"model": "m-v1"}, {"m-v1": 1.0, "m-v2": 0.0}),
            ("rollback", {}, {"m-v1": 1.0, "m-v2": 0.0}),
        ]
        for step, body, shares in steps:
            answer = await client.post(f"/v1/aliases/chat/{step}", json=body)
            assert answer.status_code == 200, answer.text
            assert versions(answer.json(), "share") == shares, step
        assert versions(answer.json(), "withdrawn") == {"m-v1": False, "m-v2": True}


async def test_two_people_do_not_undo_each_others_changes() -> None:
    """A change under an ETag that is no longer the version is refused, and nothing changes."""
    async with running() as (_, client):
        first = await client.put("/v1/aliases/chat", json={"versions": VERSIONS})
        etag = first.headers["etag"]
        assert (await client.post("/v1/aliases/chat/pause", headers={"if-match": etag})).status_code == 200
        for method, path in (("POST", "/promote"), ("POST", "/rollback"), ("POST", "/resume"), ("DELETE", "")):
            refused = await client.request(method, f"/v1/aliases/chat{path}", headers={"if-match": etag})
            assert refused.status_code == 412
        refused = await client.put("/v1/aliases/chat", json={"versions": VERSIONS}, headers={"if-match": etag})
        assert refused.status_code == 412
        assert (await client.get("/v1/aliases/chat")).json()["version"] == 2


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("PUT", "/v1/aliases/chat", {"versions": []}, 422, "versions"),
        ("PUT", "/v1/aliases/chat", {"versions": [{"model": "m", "wieght": 1}]}, 422, "wieght"),
        ("PUT", "/v1/aliases/chat", {"versions": [{"model": "chat"}]}, 422, "cannot stand for itself"),
        ("PUT", "/v1/aliases/chat", {"versions": [{"model": "known"}]}, 422, "a model, not an alias"),
        ("PUT", "/v1/aliases/a%20b", {"versions": VERSIONS}, 422, "name"),
        ("PUT", "/v1/aliases/chat", {"versions": VERSIONS, "stop": {"ttft_p99_ratio": 0}}, 422, "ttft_p99_ratio"),
        ("POST", "/v1/aliases/known/promote", {}, 422, "model"),
        ("POST", "/v1/aliases/known/promote", {"model": "other"}, 422, "no version of the alias known"),
        ("POST", "/v1/aliases/known/rollback", {"model": "m-v1"}, 422, "besides the stable one"),
        ("POST", "/v1/aliases/unknown/pause", {}, 404, "there are: known"),
        ("DELETE", "/v1/aliases/unknown", None, 404, "not known"),
    ],
)
async def test_what_does_not_fit_is_refused_in_words(method: str, path: str, body: Any, status: int, said: str) -> None:
    """And changes nothing."""
    async with running() as (_, client):
        await client.put("/v1/aliases/known", json={"versions": [*VERSIONS, {"model": "m-v3"}]})
        refused = await client.request(method, path, json=body)
        assert refused.status_code == status
        assert said in refused.json()["detail"]
        assert len((await client.get("/v1/aliases")).json()["aliases"]) == 1


async def test_replicas_that_do_not_list_the_alias_are_named() -> None:
    """They get no requests for it; a model that an alias hides is named too."""
    async with running(a=("m-v1", True), plain=("m-v1", False), old=("chat", True)) as (_, client):
        view = (await client.put("/v1/aliases/chat", json={"versions": VERSIONS})).json()
        assert versions(view, "replicas") == {"m-v1": ["a"], "m-v2": []}
        assert versions(view, "refusing") == {"m-v1": ["plain"], "m-v2": []}
        assert view["warnings"] == [
            "plain: do not list chat among their models, and get no requests for it",
            "no replica takes requests for m-v2 by the name chat",
            "old: serve a model called chat, which requests cannot name any more",
        ]


async def test_requests_and_sessions_are_shown_by_version() -> None:
    """Errors and times to first token beside each other, and what a rollback moved."""
    async with running(a=("m-v1", True), b=("m-v2", True)) as (router, client):
        await client.put("/v1/aliases/chat", json={"versions": VERSIONS})
        core, now_s = router.core, router.clock()
        for number, (model, replica, status, ttft) in enumerate(
            [("m-v1", "a", 200, "40"), ("m-v1", "a", 200, "60"), ("m-v2", "b", 502, "-")]
        ):
            request_id = f"request-{number}"
            asked = RequestFeatures(request_id=request_id, model=model, alias="chat", session=f"s{number}")
            core.decide(asked, now_s)
            ended = line(id=request_id, srv=replica, first=replica, st=status, ttft=ttft)
            core.end_of_request.apply(ended, now_s)
        view = (await client.get("/v1/aliases/chat")).json()
        assert versions(view, "requests") == {"m-v1": 2, "m-v2": 1}
        assert versions(view, "error_share") == {"m-v1": 0.0, "m-v2": 1.0}
        assert versions(view, "sessions") == versions(view, "sessions_begun") == {"m-v1": 2, "m-v2": 1}
        assert versions(view, "ttft_ms") == {"m-v1": {"p50": 60.0, "p95": 60.0, "p99": 60.0}, "m-v2": None}
        await client.post("/v1/aliases/chat/rollback")
        core.decide(RequestFeatures(request_id="again", model="m-v1", alias="chat", session="s2"), now_s)
        view = (await client.get("/v1/aliases/chat")).json()
        assert (view["sessions_moved"], versions(view, "sessions")) == (1, {"m-v1": 3, "m-v2": 0})


async def test_the_fleets_list_of_models_has_the_alias() -> None:
    """As a card like that of its stable model, while a replica serves any of its models."""
    async with running(a=("m-v1", True)) as (router, client):
        await client.put("/v1/aliases/chat", json={"versions": VERSIONS})
        await client.put("/v1/aliases/gone", json={"versions": [{"model": "nobody"}]})
        async with client_of(router, "lookup") as haproxy:
            cards = {card["id"]: card for card in (await haproxy.get("/v1/models")).json()["data"]}
        assert set(cards) == {"chat", "m-v1"}
        assert {**cards["chat"], "id": "m-v1"} == cards["m-v1"]


async def test_versions_of_sessions_outlive_the_router(tmp_path: Any) -> None:
    """With a state file they are there again after a start, whatever the weights are by then."""
    state = {"state_file": str(tmp_path / "state.json"), "scrape": {"enabled": False}}
    async with running_router(**state) as router:
        router.core.aliases.placed("chat", "s", "m-v2", router.clock())
    async with running_router(**state) as router:
        weighed = [{"model": "m-v1"}, {"model": "m-v2", "weight": 0}]
        router.core.book.write("alias/chat", {"name": "chat", "versions": weighed})
        assert router.core.aliases.choose("chat", "s", (), "") == "m-v1"  # no replica of m-v2 is there
        router.core.aliases.has_replicas = lambda model, name: True
        assert router.core.aliases.choose("chat", "s", (), "") == "m-v2"
        assert router.core.aliases.choose("chat", "t", (), "") == "m-v1"
