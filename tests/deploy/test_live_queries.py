"""Every expression of dashboards, rules and alerts, asked of a real Prometheus that scrapes a fleet under load."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import pytest
from deploy_files import alert_queries, dashboard_queries, recording_queries
from edge import until
from mixed_load import POLICY, MixedFleet, mixed_fleet
from otlp_receiver import running_collector
from prometheus_server import Prometheus, moved, needs_prometheus, running_prometheus
from promql import fill_in, read

from deploy.grafana.source.build import POLICY_CHANGES

WORK_S = 6.0
"""Before and after the failure and the change of policy: every replica is scraped with traffic several times."""

ABSENT = {
    "a part that is degraded",
    "a tenant over its limit",
    "a shared store that fails",
    "a task of the router that fails",
    "requests that pass no edge",
}
"""Events that queries wait for and this load does not have. Any other query without a series is broken."""


async def scraping(fleet: MixedFleet) -> dict[str, Any]:
    """deploy/prometheus/prometheus.yml on this fleet."""
    names = [f"edge-{number}" for number, _ in enumerate(fleet.edges, 1)]
    admin = [edge.admin_url.removeprefix("http://") for edge in fleet.edges]
    targets = {
        "pointsman-router": dict(zip(names, admin, strict=True)),
        "pointsman-haproxy": dict(zip(names, fleet.haproxy_addresses(), strict=True)),
    }
    return moved(targets, await fleet.replica_addresses())


async def live(fleet: MixedFleet, seconds: float = WORK_S) -> None:
    """Load; then, under load, a replica that fails, one that is full, and two changes of policy, one refused.

    Policies are tried from the start. The change of the live policy ends the rollout, and another one begins.
    """
    await fleet.report_pools()
    await fleet.set_alias()
    await fleet.try_policies()
    await fleet.work(seconds)
    await fleet.fail("chat-2", error_status=500, error_count=10_000)
    await fleet.fail("chat-3", error_status=503, error_count=10)
    assert await fleet.change_policy(POLICY | {"overload": 0.0}) == 200
    assert await fleet.change_policy({"policy": "kv_cots"}) == 422
    await fleet.try_policies()
    await fleet.work(seconds)


async def answered(prometheus: Prometheus, text: str, begin_s: float) -> bool:
    """Whether an expression had a number at any time since `begin_s`; NaN is none."""
    found = await prometheus.span(fill_in(text), begin_s, time.time(), 1.0)
    return any(not math.isnan(float(value)) for series in found for _, value in series["values"])


@needs_prometheus
@pytest.mark.e2e
@pytest.mark.system
@pytest.mark.timeout(300)
async def test_a_real_prometheus_answers_every_expression(tmp_path: Path) -> None:
    """All are valid. Those of panels and rules have values, or wait for an event that the load does not have."""
    async with (
        running_collector() as spans,
        mixed_fleet(tmp_path, traces_to=spans.url) as fleet,
        running_prometheus(tmp_path, await scraping(fleet)) as prometheus,
    ):
        begin_s = time.time()
        await live(fleet)
        assert {401, 404, 429, 500} <= fleet.answers.keys(), fleet.answers

        async def has_seen_the_failure() -> bool:
            return await answered(prometheus, 'pointsman_replica_failing{replica="chat-2"}', begin_s)

        await until(has_seen_the_failure)
        queries = dashboard_queries()
        found = await asyncio.gather(*(answered(prometheus, query.text, begin_s) for query in queries))
        empty = [query for query, is_there in zip(queries, found, strict=True) if not is_there]
        assert not [f"{query.where}: {query.text}" for query in empty if query.waits_for not in ABSENT]
        assert await answered(prometheus, POLICY_CHANGES, begin_s)
        for query in recording_queries():
            assert await answered(prometheus, query.where, begin_s), query
        exported = {series["metric"]["__name__"] for series in await prometheus.query('{__name__=~".+"}')}
        for query in alert_queries():
            await prometheus.query(query.text)
            assert read(query.text).metrics.keys() <= exported, query
        assert {series["value"][1] for series in await prometheus.query("up")} == {"1"}
