"""Engines of several processes, real vLLM on the CPU: tensor parallel workers, and a group of ranks that share experts.

One fleet on a cluster that only claims to have GPUs: workers and ranks compute on the CPU
(tests/support/vllm_cpu_ray). What is measured is printed: `-s` shows it. `make engine-cpu` installs what they need.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from fleet_on_cluster import ON_CPU, SMALL, Load, Site, completion, running_site
from vllm_fleet import listener_of, real_vllm

pytestmark = real_vllm(timeout_s=1200)

OUT_S = 20.0
"""How long a group or a replica that lost a part may stay in routing before it counts as forgotten. The time it took is
printed: about half a second on a quiet machine, where the aim is two."""

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


def engine_of_a_rank(site: Site) -> list[psutil.Process]:
    """What the actor of a rank runs."""
    return listener_of(site.replicas()["moe-1.1"]["url"]).children(recursive=True)


def second_worker(site: Site) -> list[psutil.Process]:
    """A worker of vLLM's Ray executor: an actor of its own, beside the replica's under the node's raylet."""
    raylet = listener_of(site.replicas()["tp-1"]["url"]).parent()
    assert raylet is not None
    workers = [process for process in raylet.children() if "RayWorkerProc" in " ".join(process.cmdline())]
    assert len(workers) == 2, workers
    return workers[1:]


@pytest.mark.parametrize(
    ("victims", "ids"),
    [
        pytest.param(engine_of_a_rank, GROUP, id="rank"),
        pytest.param(second_worker, {"tp-1"}, id="worker"),
    ],
)
async def test_a_dead_part_takes_the_whole_out_and_it_returns(
    site: Site, victims: Callable[[Site], list[psutil.Process]], ids: set[str]
) -> None:
    """kill -9 of a rank's engine or of a tensor parallel worker, under load. What was inside the group or the replica
    may fail; nothing else does, neither at once nor when it is back."""
    async with Load(site.url, "m", clients=6).running() as load:
        killed = victims(site)
        while not any(load.streaming[replica] for replica in ids):
            await asyncio.sleep(0.001)
        assert not load.failures
        killed_s = time.monotonic()
        for process in killed:
            process.kill()
        while ids & site.up():
            await asyncio.sleep(0.02)
        out_s = time.monotonic() - killed_s
        seen = len(load.ends)
        while len(load.ends) < seen + 20:
            await asyncio.sleep(0.05)
    # What starts again shares the cores with what serves: one client that takes its time leaves it most of them.
    async with Load(site.url, "m", clients=1, pause_s=0.2).running() as quiet:
        await site.until_up(*ids)
        back_s = time.monotonic() - killed_s
        while not all(quiet.served_by[replica] for replica in ids):
            await asyncio.sleep(0.05)
    print(
        f"\n{', '.join(sorted(ids))} lost a part: out of routing after {out_s:.2f} s, back after {back_s:.1f} s; "
        f"{len(load.failures)} of {len(load.ends) + len(quiet.ends)} requests failed: "
        f"{[(round(at_s - killed_s, 2), how, replica) for at_s, how, replica in load.failures]}"
    )
    assert out_s < OUT_S
    assert not [end for end in load.failures if end[0] > killed_s + OUT_S]
    assert all(replica in ids for _, _, replica in load.failures)
    assert not quiet.failures
