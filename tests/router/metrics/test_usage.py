"""Usage on the page of metrics."""

from __future__ import annotations

from router_fixture import client_of, running_router


async def test_tokens_are_counted_by_tenant_and_kind() -> None:
    """With the part that is an estimate in families of its own."""
    async with running_router() as router, client_of(router) as client:
        ledger = router.core.usage.ledger
        row = ledger.row("acme", "k1", "m", "")
        row.requests, row.seconds = 2, 1.5
        row.estimated_requests, row.estimated_output_tokens = 1, 4
        ledger.count_tokens(row, 100, 40, 10)
        page = (await client.get("/metrics")).text
        for sample in (
            'pointsman_usage_requests_total{tenant="acme"} 2.0',
            'pointsman_usage_tokens_total{kind="prompt",tenant="acme"} 100.0',
            'pointsman_usage_tokens_total{kind="cached",tenant="acme"} 40.0',
            'pointsman_usage_tokens_total{kind="output",tenant="acme"} 10.0',
            'pointsman_usage_estimated_requests_total{tenant="acme"} 1.0',
            'pointsman_usage_estimated_tokens_total{kind="output",tenant="acme"} 4.0',
            'pointsman_usage_seconds_total{tenant="acme"} 1.5',
            "pointsman_usage_open_requests 0.0",
            "pointsman_usage_write_errors_total 0.0",
        ):
            assert sample in page, page[page.find("pointsman_usage") :][:2000]
