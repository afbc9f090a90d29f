"""Pages of lists."""

from __future__ import annotations

import pytest
from msgspec import UNSET
from router_fixture import client_of, register, running_router
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pointsman.router.fronts.api.paging import LIMIT_MAX, paged

NAMES = ["a", "b", "c", "d", "e"]


def asked(query: str) -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": []})


def page(query: str, names: list[str] = NAMES) -> tuple[list[str], object]:
    return paged(names, asked(query), key=lambda name: name)


def test_without_a_limit_everything_is_on_one_page() -> None:
    """Clients that know nothing of pages get what they always got."""
    assert page("") == (NAMES, UNSET)
    assert page("", []) == ([], UNSET)


def test_pages_follow_each_other_to_the_end() -> None:
    """The last one has no cursor, also where it is full."""
    assert page("limit=2") == (["a", "b"], "b")
    assert page("limit=2&cursor=b") == (["c", "d"], "d")
    assert page("limit=2&cursor=d") == (["e"], UNSET)
    assert page("limit=5") == (NAMES, UNSET)
    assert page("cursor=d") == (["e"], UNSET)
    assert page("limit=1&cursor=e") == ([], UNSET)


def test_what_comes_or_goes_between_two_pages_shifts_nothing() -> None:
    """The cursor stands behind an item that may be gone."""
    assert page("limit=2&cursor=b", ["a", "bb", "c", "d"]) == (["bb", "c"], "c")
    assert page("limit=2&cursor=b", ["c", "d", "e"]) == (["c", "d"], "d")


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "", "x", "١", str(LIMIT_MAX + 1), "9" * 5000])
def test_a_limit_is_a_number_in_its_range(limit: str) -> None:
    """422, naming the range."""
    with pytest.raises(HTTPException) as refused:
        page(f"limit={limit}")
    assert refused.value.status_code == 422 and f"1 to {LIMIT_MAX}" in refused.value.detail


@pytest.mark.parametrize("cursor", ["", "x" * 257])
def test_a_cursor_has_a_length(cursor: str) -> None:
    """422."""
    with pytest.raises(HTTPException) as refused:
        page(f"cursor={cursor}")
    assert refused.value.status_code == 422


async def test_replicas_are_listed_in_pages_and_by_what_they_are() -> None:
    """By id; a filter holds for every page; without parameters all are there, as before there were pages."""
    async with running_router(scrape={"enabled": False}) as router, client_of(router) as client:
        await register(router, *"dbca", model="m")
        await register(router, "other", model="n")
        await client.post("/v1/replicas/c/drain")

        async def listed(query: str) -> tuple[list[str], str | None]:
            answer = (await client.get(f"/v1/replicas{query}")).json()
            return [replica["id"] for replica in answer["replicas"]], answer.get("next")

        assert await listed("") == (["a", "b", "c", "d", "other"], None)
        assert await listed("?model=m&limit=2") == (["a", "b"], "b")
        assert await listed("?model=m&limit=2&cursor=b") == (["c", "d"], None)
        assert await listed("?state=draining") == (["c"], None)
        assert await listed("?state=up&model=n") == (["other"], None)
        assert await listed("?pool=x") == ([], None)
        assert (await client.get("/v1/replicas?state=upp")).status_code == 422
        for path in ("/v1/pools", "/v1/edges"):
            assert (await client.get(f"{path}?limit=1")).status_code == 200
            assert (await client.get(f"{path}?limit=0")).status_code == 422
