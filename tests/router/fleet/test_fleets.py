"""Leases of pools: who may hold one, and when it is over."""

from __future__ import annotations

import pytest

from pointsman.contract.pools import FleetLease, PoolStatus
from pointsman.contract.registration import Role
from pointsman.router.errors import LimitError, RegistrationError
from pointsman.router.fleet.fleets import FleetTable


def lease(*pools: str, control: str = "http://127.0.0.1:1", ttl_s: float = 10.0) -> FleetLease:
    return FleetLease(
        control=control,
        ttl_s=ttl_s,
        pools=[
            PoolStatus(
                name=name, model="m", role=Role.BOTH, replicas=1, replicas_max=512, ready=1, state="ready", revision="r"
            )
            for name in pools
        ],
    )


def test_a_pool_is_found_while_its_lease_lasts() -> None:
    """The lease counts from its renewal; afterwards the pool has no owner."""
    table = FleetTable()
    assert table.put("f", lease("a", "b"), 0.0)
    assert not table.put("f", lease("a", "b"), 5.0)
    owner = table.owner("b", 14.9)
    assert owner is not None and owner.name == "f"
    assert table.owner("b", 15.0) is None
    assert table.pools(15.0) == []


def test_a_pool_has_one_owner() -> None:
    """Another fleet cannot take it, until the first one leaves or its lease ends."""
    table = FleetTable()
    table.put("f", lease("a"), 0.0)
    with pytest.raises(RegistrationError, match="'a' belongs to the fleet 'f'"):
        table.put("g", lease("a"), 1.0)
    assert table.put("g", lease("a"), 10.0)
    assert table.remove("g")
    assert not table.remove("g")


def test_there_is_a_limit() -> None:
    """A fleet that is known may still renew."""
    table = FleetTable(max_fleets=1)
    table.put("f", lease("a"), 0.0)
    table.put("f", lease("a"), 1.0)
    with pytest.raises(LimitError, match="max_fleets: 1"):
        table.put("g", lease("b"), 1.0)
