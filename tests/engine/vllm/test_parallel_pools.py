"""Engines of several processes, real vLLM on the CPU: tensor parallel workers, and a group of ranks that share experts.

One fleet on a cluster that only claims to have GPUs: workers and ranks compute on the CPU
(tests/support/vllm_cpu_ray). What is measured is printed: `-s` shows it. `make engine-cpu` installs what they need.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fleet_on_cluster import ON_CPU, SMALL, Load, Site, completion, running_site
from vllm_fleet import MISSING, listener_of

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} is not installed (make engine-cpu)"),
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("vllm"),
]

OUT_S = 2.0
"""A group with a dead rank is out of routing by then."""

GROUP = {"moe-1.0", "moe-1.1"}
MOE = ["--enable-expert-parallel", "--all2all-backend=allgather_reducescatter", *SMALL]
POOLS: list[dict[str, Any]] = [
    {"name": "one", "model": "tiny", "served_name": "m", "args": SMALL, **ON_CPU},
    {"name": "tp", "model": "tiny", "served_name": "m", "tensor_parallel_size": 2, "args": SMALL, **ON_CPU},
    {"name": "moe", "model": "tiny-moe", "served_name": "m", "data_parallel_size": 2, "args": MOE, **ON_CPU},
    {"name": "spare", "model": "tiny-moe", "served_name": "m", "args": SMALL, **ON_CPU},
]
"""All under one name, so that each can serve what another one cannot."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_site(POOLS, "one-1", "tp-1", "moe-1.0", "moe-1.1", "spare-1") as site:
        yield site


def test_tensor_parallel_workers_serve_through_rays_executor(site: Site) -> None:
    """Two workers in one placement group; the answer is that of one worker with the same weights."""
    views = site.replicas()
    assert completion(views["tp-1"]["url"], "m") == completion(views["one-1"]["url"], "m") != ""


def test_each_rank_of_a_group_is_a_replica(site: Site) -> None:
    """Own port, own signals; both give the answer of an engine without ranks, so the experts of both took part."""
    views = site.replicas()
    ranks = [views[f"moe-1.{rank}"]["url"] for rank in (0, 1)]
    assert len(set(ranks)) == 2
    expected = completion(views["spare-1"]["url"], "m")
    assert [completion(rank, "m") for rank in ranks] == [expected, expected]
    assert {view["pool"] for view in views.values()} == {pool["name"] for pool in POOLS}


async def test_a_dead_rank_takes_its_group_out_and_the_group_returns(site: Site) -> None:
    """kill -9 of one rank's engine under load. What was inside the group may fail; nothing else does."""
    views = site.replicas()
    engine = listener_of(views["moe-1.1"]["url"]).children(recursive=True)
    async with Load(site.url, "m", clients=6).running() as load:
        while not set(load.served_by) >= GROUP:
            await asyncio.sleep(0.05)
        assert not load.failures
        killed_s = time.monotonic()
        for process in engine:
            process.kill()
        while GROUP & site.up():
            await asyncio.sleep(0.02)
        out_s = time.monotonic() - killed_s
        seen = len(load.ends)
        while len(load.ends) < seen + 20:
            await asyncio.sleep(0.05)
        await site.until_up(*GROUP)
        back_s = time.monotonic() - killed_s
        served = load.served_by.copy()
        while not all(load.served_by[rank] > served[rank] for rank in GROUP):
            await asyncio.sleep(0.05)
    late = [end for end in load.failures if end[0] > killed_s + OUT_S]
    print(
        f"\nrank killed: group out of routing after {out_s:.2f} s, back after {back_s:.1f} s; "
        f"{len(load.failures)} of {len(load.ends)} requests failed: {[how for _, how, _ in load.failures]}"
    )
    assert out_s < OUT_S
    assert not late
    assert all(replica.startswith("moe-1.") for _, _, replica in load.failures)
