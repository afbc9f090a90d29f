"""Pools that are kept for some tenants, or from some."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pointsman.contract.registration import Registration
from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.fleet import tenant_pools as module

POLICIES: list[dict[str, Any]] = [{"policy": "kv_cost"}, {"policy": "round_robin"}, {"policy": "consistent_hash"}]


def fleet(policy: dict[str, Any] | None = None) -> Core:
    """Two replicas of each pool, and two of none."""
    core = Core(policy or {"policy": "least_load"}, rng=random.Random(1))
    for pool in ("gold", "shared", ""):
        for number in (1, 2):
            core.replicas.put(
                f"{pool or 'none'}-{number}",
                Registration(url="http://h:1", model="m", pool=pool),
                ("127.0.0.1", 1),
                0.0,
            )
    return core


def tenant(core: Core, name: str, **given: Any) -> None:
    core.book.write(f"tenant/{name}", {"name": name, **given})


def ask(core: Core, name: str, number: int = 0, **features: Any) -> Decision:
    return core.decide(
        RequestFeatures(request_id=f"{name}-{number}", tenant=name, model="m", session=f"s{number}", **features), 0.0
    )


def pools_of(core: Core, name: str) -> set[str]:
    """Pools of the first and second choices of many requests."""
    chosen: set[str] = set()
    for number in range(40):
        decision = ask(core, name, number)
        chosen |= {decision.first.rpartition("-")[0], decision.second.rpartition("-")[0]}
    return chosen


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy["policy"])
def test_a_reserved_pool_serves_who_reserves_it_alone(policy: dict[str, Any]) -> None:
    """As first and as second choice, under any policy; others have the rest, and who reserves it has all."""
    core = fleet(policy)
    assert pools_of(core, "b") == {"gold", "shared", "none"}, "at first all serve all"
    tenant(core, "a", reserved_pools=["gold"])
    assert pools_of(core, "b") == pools_of(core, "") == {"shared", "none"}
    assert "gold" in pools_of(core, "a")
    tenant(core, "b", reserved_pools=["gold"])
    assert "gold" in pools_of(core, "b")
    tenant(core, "a")
    tenant(core, "b")
    assert not core.pools.active


def test_an_excluded_pool_does_not_serve_who_excludes_it() -> None:
    """A tenant with a pool of its own stays there by excluding the others."""
    core = fleet()
    tenant(core, "a", reserved_pools=["gold"], excluded_pools=["shared"])
    assert pools_of(core, "a") == {"gold", "none"}
    assert pools_of(core, "b") == {"shared", "none"}


def test_a_tenant_that_no_replica_may_serve_is_refused() -> None:
    """With 503: HAProxy must not choose one of the others instead."""
    core = fleet()
    for number in (1, 2):
        core.replicas.remove(f"none-{number}")
    tenant(core, "a", excluded_pools=["gold", "shared"])
    decision = ask(core, "a")
    assert (decision.status, decision.reason, decision.first) == (503, Reason.NO_CANDIDATES, "")
    assert ask(core, "b").first


def test_a_replica_that_comes_or_goes_is_seen() -> None:
    """What is remembered is of the fleet as it is."""
    core = fleet()
    tenant(core, "a", excluded_pools=["shared", "gold"])
    assert pools_of(core, "a") == {"none"}
    core.replicas.put("late-1", Registration(url="http://h:1", model="m", pool="late"), ("127.0.0.1", 1), 0.0)
    assert pools_of(core, "a") == {"none", "late"}
    core.replicas.drain("late-1", 0.0)
    assert pools_of(core, "a") == {"none"}


def test_explaining_sees_the_same_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while nothing can be remembered."""
    monkeypatch.setattr(module, "MAX_KEPT", 0)
    monkeypatch.setattr(module, "MAX_TENANTS", 1)
    core = fleet()
    tenant(core, "a", reserved_pools=["gold"])
    for name, seen in (("a", 6), ("b", 4)):
        features = RequestFeatures(request_id="q", tenant=name, model="m")
        assert len(core.pipeline.explain(features, 0.0).candidates) == seen
        assert len(core.pipeline.gather(features, 0.0).slots) == seen
