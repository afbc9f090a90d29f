"""Tenants of a simulated fleet in virtual time: limits on several edges, pools, classes, isolation, report."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from sim_trace import arrivals, make_conversation, make_merged, make_session, make_trace, make_turn

from pointsman.router.tenancy.records import Limits, Tenant
from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.fleet import VirtualFleet
from pointsman.simulator.measure import Summary
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.tenants import NO_TENANTS, TenantSet
from pointsman.simulator.trace import Session, Trace

PER_MINUTE = 100_000

FIVE_MINUTES_S = 300.0

BURST = PER_MINUTE // 10

QUEUE = {"policy": "least_load", "admission": {"running": 8, "wait_s": 300.0}}


def play(
    *sessions: list[Session], tenants: tuple[Tenant, ...] = (), policy: str = "least_load", **given: Any
) -> tuple[VirtualFleet, Summary]:
    """All of them on a fleet, and what came of it."""
    return run(make_merged(*sessions), tenants, policy=policy, **given)


def run(
    trace: Trace, tenants: tuple[Tenant, ...], *, policy: str = "least_load", **given: Any
) -> tuple[VirtualFleet, Summary]:
    settings = FleetSettings(**{"replicas": 4, "kv_tokens": 200_000} | given)
    fleet = VirtualFleet(trace, {"policy": policy}, settings, seed=3, tenants=TenantSet("set", tenants))
    return fleet, fleet.run()


@pytest.mark.parametrize("routers", [1, 2, 4])
def test_a_limit_holds_on_several_edges_within_its_burst(routers: int) -> None:
    """100,000 tokens a minute, offered five times that for five minutes: it gets its minutes and one burst, and at
    most a request of each edge beyond: 2 % more by what the engines spent. Who has no limit is not refused."""
    limited = arrivals(
        "limited", 5 * PER_MINUTE / 60 / 1_500, seed=1, length_s=FIVE_MINUTES_S, prompt=1_200, output=300
    )
    free = arrivals("free", 1.0, seed=1, length_s=FIVE_MINUTES_S)
    limits = Limits(tokens_per_minute=PER_MINUTE)
    _, found = play(limited, free, tenants=(Tenant(name="limited", limits=limits),), routers=routers)
    got, share = found.tenants["limited"].tokens, 5 * PER_MINUTE
    assert share < got <= share + BURST + routers * 2_250
    assert found.tenants["limited"].refused["tokens_per_minute"] > 1_000
    assert found.tenants["free"].refused == {}
    assert found.tenants["free"].requests == len(free)


def test_what_engines_spend_counts_and_not_what_was_expected() -> None:
    """Answers of 1,000 tokens, each expected to have 256: without the engines' reports it would get twice as much."""
    sessions = arrivals("t", 2.0, seed=2, length_s=FIVE_MINUTES_S, output=1_000)
    _, found = play(sessions, tenants=(Tenant(name="t", limits=Limits(tokens_per_minute=30_000)),))
    # What runs when the limit is reached is taken from the time after.
    assert found.tenants["t"].tokens == pytest.approx(5 * 30_000, rel=0.1)


def test_a_limit_of_requests_at_one_time_holds_on_two_edges() -> None:
    """Four at a time; each edge may let one more in before it hears of the other's."""
    sessions = arrivals("t", 20.0, seed=4, length_s=30.0, output=200)
    fleet, found = play(
        sessions, tenants=(Tenant(name="t", limits=Limits(concurrent_requests=4)),), routers=2, sync_s=0.01
    )
    moments = sorted([(one.first_s, 1) for one in fleet.served] + [(one.end_s, -1) for one in fleet.served])
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    assert most <= 5
    assert found.tenants["t"].refused["concurrent_requests"] > 100


def test_a_refused_request_is_given_up_with_its_session() -> None:
    """One request a minute: the second turn is refused, and the third is never asked for."""
    trace = make_trace(replace(make_conversation("s", 0.0, [100, 200, 300]), tenant="t"))
    _, found = run(trace, (Tenant(name="t", limits=Limits(requests_per_minute=1)),))
    of = found.tenants["t"]
    assert (of.requests, of.abandoned, of.unasked, of.refused) == (1, 1, 1, {"requests_per_minute": 1})
    assert (found.refused, found.abandoned) == (1, 1)


def test_a_client_that_asks_again_is_served_once_the_limit_has_room() -> None:
    """After `Retry-After`, a minute later at most; the wait is in its time to first token."""
    trace = make_trace(replace(make_conversation("s", 0.0, [100, 200, 300]), tenant="t"))
    fleet, found = run(trace, (Tenant(name="t", limits=Limits(requests_per_minute=1)),), retry_limited=True)
    assert (found.requests, found.abandoned, found.tenants["t"].unasked) == (3, 0, 0)
    assert found.tenants["t"].refused == {"requests_per_minute": 2}
    assert 50.0 < fleet.served[1].ttft_s < 61.0


def test_a_reserved_pool_serves_its_tenant_alone() -> None:
    """Two of four replicas are paid for: others never reach them, their tenant reaches all."""
    offered = [arrivals(tenant, 10.0, seed=5, length_s=20.0) for tenant in ("paid", "free")]
    fleet, _ = play(*offered, tenants=(Tenant(name="paid", reserved_pools=("gold",)),), pools=("gold", "all"))
    reached = {name: {one.replica for one in fleet.served if one.tenant == name} for name in ("paid", "free")}
    assert reached == {"paid": {0, 1, 2, 3}, "free": {1, 3}}


def test_a_pool_without_replicas_is_an_error() -> None:
    """It names the tenant and the key."""
    trace = make_trace(make_session())
    tenants = TenantSet("set", (Tenant(name="paid", excluded_pools=("gld",)),))
    with pytest.raises(ExperimentError, match=r"tenants\.paid\.excluded_pools: got 'gld', expected one of gold"):
        VirtualFleet(trace, {"policy": "least_load"}, FleetSettings(pools=("gold",)), seed=1, tenants=tenants)


def test_nothing_is_measured_where_nothing_is_served() -> None:
    """A limit of zero for the only tenant."""
    trace = make_trace(replace(make_session(), tenant="t"))
    with pytest.raises(ExperimentError, match="nothing was served"):
        run(trace, (Tenant(name="t", limits=Limits(requests_per_minute=0)),))


def test_isolated_tenants_share_no_block_and_no_session() -> None:
    """The same prompts under the same session id: the cache of the one that is isolated begins empty."""
    blocks = list(range(1, 260))
    asked = [
        replace(make_session("s", at_s, make_turn(1_000, 4, blocks=blocks)), tenant=tenant)
        for at_s, tenant in enumerate(("one", "two", "alone", "alone"))
    ]
    trace = make_trace(*asked)
    together, _ = run(trace, (), replicas=1)
    assert [one.cached_tokens > 0 for one in together.served] == [False, True, True, True]
    apart, _ = run(trace, (Tenant(name="alone", isolated=True),), replicas=1)
    assert [one.cached_tokens > 0 for one in apart.served] == [False, True, False, True]


def test_a_class_counts_only_as_far_as_the_tenant_may_name_it() -> None:
    """Requests that name `critical`: of a tenant that may, and of one that may not."""
    asked = [replace(make_session("", 0.0), tenant=name, priority="critical") for name in ("may", "may-not")]
    fleet, _ = run(make_trace(*asked), (Tenant(name="may", max_priority="critical"),))
    assert {one.tenant: one.priority for one in fleet.served} == {"may": 4, "may-not": 2}


def test_limits_of_a_model_are_those_of_requests_for_it() -> None:
    """A tenant that may send one request a minute to one model, and any number to others."""
    asked = [replace(make_session("", float(at)), tenant="t", model=model) for at, model in enumerate("abab")]
    _, found = run(make_trace(*asked), (Tenant(name="t", model_limits={"a": Limits(requests_per_minute=1)}),))
    assert (found.tenants["t"].requests, found.tenants["t"].abandoned) == (3, 1)


def test_tenants_add_up_to_the_whole() -> None:
    """Requests, refusals, what was given up, and tokens; shares of tokens and of weights to one."""
    offered = [arrivals(name, per_s, seed=6, length_s=20.0) for name, per_s in (("a", 20.0), ("b", 5.0), ("", 5.0))]
    tenants = (Tenant(name="a", weight=3, limits=Limits(tokens_per_minute=20_000)), Tenant(name="b"))
    fleet, found = play(*offered, tenants=tenants)
    parts = found.tenants.values()
    assert set(found.tenants) == {"a", "b", ""}
    assert sum(one.requests for one in parts) == found.requests
    assert sum(one.abandoned for one in parts) == found.abandoned > 0
    assert sum(one.refused.get("tokens_per_minute", 0) for one in parts) == found.refused == found.abandoned
    assert sum(one.requests + one.abandoned + one.unasked for one in parts) == sum(map(len, offered))
    assert sum(one.tokens for one in parts) == sum(one.tokens for one in fleet.served)
    assert sum(one.share for one in parts) == pytest.approx(1.0)
    assert found.tenants["a"].weight_share == pytest.approx(0.6)


def test_a_trace_without_tenants_has_no_parts() -> None:
    """Its report is as it was."""
    _, found = play(arrivals("", 5.0, seed=7, length_s=5.0))
    assert found.tenants == {}


def test_shares_in_the_report_are_those_of_weights_where_all_want_more() -> None:
    """Within 5 %, at twice of what two replicas can serve."""
    weights = {"a": 1.0, "b": 2.0, "c": 4.0}
    offered = [arrivals(name, 18.0, seed=9, length_s=40.0) for name in weights]
    trace = make_merged(*offered)
    tenants = TenantSet("set", tuple(Tenant(name=name, weight=weight) for name, weight in weights.items()))
    settings = FleetSettings(replicas=2, kv_tokens=200_000)
    found = VirtualFleet(trace, QUEUE, settings, seed=3, tenants=tenants).run().tenants
    for name in weights:
        assert found[name].share == pytest.approx(found[name].weight_share, rel=0.05), name


def test_who_waits_longer_in_the_queue_is_seen_in_the_report() -> None:
    """A tenant that asks for more than its half is held; the one within its half hardly is."""
    offered = [arrivals(name, per_s, seed=8, length_s=30.0) for name, per_s in (("greedy", 60.0), ("modest", 4.0))]
    trace = make_merged(*offered)
    settings = FleetSettings(replicas=2, kv_tokens=200_000)
    found = VirtualFleet(trace, QUEUE, settings, seed=3, tenants=NO_TENANTS).run().tenants
    assert found["greedy"].waited_ms.p50 > 1_000
    assert found["modest"].waited_ms.p99 < 500
    assert found["greedy"].waited_ms.p99 <= found["greedy"].ttft_ms.p99


def test_a_router_counts_the_usage_of_each_tenant_to_the_token() -> None:
    """By the reports of two replicas that decode and of one that prefills for them."""
    offered = [arrivals(name, 3.0, seed=10, length_s=20.0, prompt=4_000) for name in ("a", "b")]
    fleet, found = play(*offered, policy="kv_cost", replicas=2, prefill_replicas=1)
    assert found.handed_over > 0
    counted = Counter[str]()
    for row in fleet.edges[0].core.usage.ledger:
        counted[row.key.names.tenant] += row.prompt_tokens + row.output_tokens
    assert counted == {name: one.tokens for name, one in found.tenants.items()}
