"""Usage in the admin API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from router_fixture import client_of, running_router

from pointsman.router.app import Router
from pointsman.router.fronts.api import usage as front

HOUR = 494_532
"""2026-06-01 at noon, UTC."""


def count(router: Router) -> None:
    """Three hours of two tenants."""
    ledger = router.core.usage.ledger
    for hour in range(3):
        ledger._rows[HOUR + hour] = {}
        ledger.hour, ledger._now = HOUR + hour, ledger._rows[HOUR + hour]
        for tenant in ("zeta", "acme"):
            row = ledger.row(tenant, "k1", "m", "")
            row.requests += 1
            ledger.count_tokens(row, 100, 40, 10)
    row.estimated_requests, row.estimated_output_tokens = 1, 10


async def get(router: Router, **query: str) -> Any:
    async with client_of(router) as client:
        return await client.get("/v1/usage", params=query)


async def test_usage_is_added_up_by_tenant() -> None:
    """In whole hours from `from` to before `to`, in ISO 8601 or in seconds."""
    async with running_router() as router:
        count(router)
        for begin, end in (
            ("2026-06-01T12:59:00Z", "2026-06-01T13:00:01Z"),
            (str(HOUR * 3600), f"{(HOUR + 2) * 3600}.0"),
        ):
            answer = (await get(router, **{"from": begin, "to": end})).json()
            assert (answer["from"], answer["to"]) == ("2026-06-01T12:00:00Z", "2026-06-01T14:00:00Z")
            assert answer["by"] == ["tenant"] and answer["complete"]
            figures = {"requests": 2, "prompt_tokens": 200, "cached_tokens": 80, "output_tokens": 20}
            estimated = dict.fromkeys(figures, 0)
            assert answer["usage"] == [
                {"tenant": tenant, **figures, "seconds": 0.0, "estimated": estimated} for tenant in ("acme", "zeta")
            ]


async def test_usage_by_several_names() -> None:
    """As asked for; what is an estimate stands beside."""
    async with running_router() as router:
        count(router)
        answer = await get(
            router, **{"from": "2026-06-01", "to": "2026-06-02", "by": "hour,tenant,key,model,adapter,day"}
        )
        last = [row for row in answer.json()["usage"] if row["tenant"] == "acme"][-1]
        assert last["hour"] == "2026-06-01T14:00:00Z" and last["day"] == "2026-06-01T00:00:00Z"
        assert (last["key"], last["model"], last["adapter"]) == ("k1", "m", "")
        assert last["estimated"] == {"requests": 1, "prompt_tokens": 0, "cached_tokens": 0, "output_tokens": 10}


@pytest.mark.parametrize(
    ("name", "value"),
    [("by", "tenant,shoe"), ("by", ""), ("by", "tenant,tenant"), ("from", "yesterday"), ("to", "-1"), ("from", "1e99")],
)
async def test_a_wrong_value_is_named(name: str, value: str) -> None:
    """With what is expected."""
    async with running_router() as router:
        answer = await get(router, **{name: value})
        assert answer.status_code == 422 and answer.json()["key"] == name


async def test_time_does_not_run_backwards() -> None:
    """`to` before `from` is refused; by default the present month is shown."""
    async with running_router() as router:
        assert (await get(router, **{"from": "2026-06-02", "to": "2026-06-01"})).json()["key"] == "to"
        answer = (await get(router)).json()
        assert answer["from"].endswith("-01T00:00:00Z") and answer["usage"] == []
        assert (await get(router, to="2020-01-01T00:00:00 01:00")).json()["to"] == "2019-12-31T23:00:00Z"


async def test_a_report_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants more takes the export, which has every row."""
    monkeypatch.setattr(front, "MAX_LINES", 1)
    async with running_router() as router, client_of(router) as client:
        count(router)
        time = {"from": "2026-06-01", "to": "2026-06-02"}
        assert (await get(router, **time)).json()["key"] == "by"
        answer = await client.get("/v1/usage/export", params=time)
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        rows = [json.loads(row) for row in answer.text.splitlines()]
        assert [(row["hour"][11:13], row["tenant"]) for row in rows] == [
            (hour, tenant) for hour in ("12", "13", "14") for tenant in ("acme", "zeta")
        ]
