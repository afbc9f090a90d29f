"""Metrics of pools, as their drivers reported."""

from __future__ import annotations

from pointsman.contract.pools import FleetLease, PoolMember, PoolStatus
from pointsman.contract.registration import Role
from pointsman.router.fleet.fleets import FleetTable
from pointsman.router.metrics.exposition import render
from pointsman.router.metrics.families import collect_all
from pointsman.router.metrics.pools import PoolCollector


def member(name: str, state: str, deaths: int = 0) -> PoolMember:
    return PoolMember(id=name, state=state, revision="r1", deaths=deaths, urls=[])


async def test_a_pool_is_what_its_driver_reported_last() -> None:
    """Wanted, by state, deaths; nothing once the driver's lease ended."""
    fleets, now_s = FleetTable(), 0.0
    pool = PoolStatus(
        name="chat",
        model="m",
        role=Role.BOTH,
        replicas=3,
        replicas_max=8,
        ready=1,
        state="scaling",
        revision="r1",
        members=[member("chat-0", "ready", 2), member("chat-1", "dead", 1), member("chat-2", "starting")],
    )
    fleets.put("f", FleetLease(control="http://10.0.0.1:1", ttl_s=10.0, pools=[pool]), now_s)
    collect = collect_all(PoolCollector(fleets, lambda: now_s))
    page = (await render(collect)).decode().splitlines()
    assert [line for line in page if not line.startswith("#")] == [
        'pointsman_pool_replicas{pool="chat",state="starting"} 1.0',
        'pointsman_pool_replicas{pool="chat",state="ready"} 1.0',
        'pointsman_pool_replicas{pool="chat",state="dead"} 1.0',
        'pointsman_pool_replicas{pool="chat",state="draining"} 0.0',
        'pointsman_pool_replicas{pool="chat",state="stopped"} 0.0',
        'pointsman_pool_replicas_wanted{pool="chat"} 3.0',
        'pointsman_pool_deaths_total{pool="chat"} 3.0',
    ]
    now_s = 11.0
    assert all(line.startswith("#") for line in (await render(collect)).decode().splitlines())
