"""Versions, and changes that are made only if nobody was faster."""

from __future__ import annotations

from router_fixture import client_of, running_router

from pointsman.router.fronts.api.etag import etag_of


def test_a_tag_is_of_the_value_and_not_of_its_order() -> None:
    """Equal on every router."""
    assert etag_of({"a": 1, "b": frozenset("xy")}) == etag_of({"b": frozenset("yx"), "a": 1})
    assert etag_of({"a": 1}) != etag_of({"a": 2})
    assert etag_of([]).startswith('"') and etag_of([]).endswith('"')


async def test_a_replica_is_changed_only_in_the_version_that_was_seen() -> None:
    """Load and health are no version; a drain and another registration are. `*` is any version there is."""
    body = {"url": "http://127.0.0.1:9", "model": "m"}
    async with running_router(scrape={"enabled": False}) as router, client_of(router) as client:

        async def asked(method: str, path: str, etag: str, json: object = None) -> int:
            answer = await client.request(method, f"/v1/replicas/a{path}", json=json, headers={"if-match": etag})
            return answer.status_code

        assert await asked("PUT", "", "*", body) == 412  # there is none
        made = await client.put("/v1/replicas/a", json=body)
        first = made.headers["etag"]
        assert (await client.get("/v1/replicas/a")).headers["etag"] == first
        assert (await client.put("/v1/replicas/a", json=body)).headers["etag"] == first
        assert await asked("POST", "/drain", '"other"') == 412
        assert (await client.get("/v1/replicas/a")).json()["state"] == "up"
        assert await asked("POST", "/drain", first) == 200
        assert await asked("DELETE", "", first) == 412
        assert await asked("PUT", "", first, body | {"model": "n"}) == 412
        assert (await client.get("/v1/replicas/a")).json()["model"] == "m"
        assert await asked("DELETE", "", "*") == 204
