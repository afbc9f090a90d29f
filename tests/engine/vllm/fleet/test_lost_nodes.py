"""Real vLLM on a node whose raylet is killed: its engine gives way by itself, and comes back where there is room.

What is measured is printed: `-s` shows it. `make engine-cpu` installs what this needs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from fleet_on_cluster import SMALL, Load, Site, completion, running_site
from ray_cluster import joined_node
from vllm_fleet import listener_of, real_vllm

pytestmark = [pytest.mark.marathon, *real_vllm(timeout_s=1200)]

CPUS = 40
"""Of each replica: the first node, which claims 64, has room for one."""

DRAIN_S = 20.0

POOL: dict[str, Any] = {
    "name": "chat", "model": "tiny", "served_name": "m", "replicas": 1, "device": "cpu", "num_cpus": CPUS,
    "args": SMALL,
}  # fmt: skip


def family(site: Site, replica: str) -> list[psutil.Process]:
    """The process that serves, and those of its engine."""
    serving = listener_of(site.replicas()[replica]["url"])
    return [serving, *serving.children(recursive=True)]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_site([POOL], "chat-1", drain_s=DRAIN_S) as site:
        yield site


async def test_a_replica_whose_raylet_is_killed_gives_way_and_comes_back(site: Site) -> None:
    """It leaves the routers, finishes what it was serving, and ends with its engine; another node brings it back."""
    cluster = site.settings["ray_address"], site.environment
    with joined_node(*cluster, cpus=CPUS) as node:
        httpx.post(f"{site.admin}/v1/pools/chat/scale", json={"replicas": 2}, timeout=60).raise_for_status()
        await site.until_up("chat-2")
        left = family(site, "chat-2")
        raylet = node.raylet
        assert left[0].parent() == raylet and len(left) > 1
        async with Load(site.url, "m").running() as load:
            while not load.streaming["chat-2"]:
                await asyncio.sleep(0.001)
            killed_s = time.monotonic()
            raylet.kill()
            while "chat-2" in site.up():
                await asyncio.sleep(0.02)
            out_s = time.monotonic() - killed_s
            _, alive = await asyncio.to_thread(psutil.wait_procs, left, 2 * DRAIN_S)
            ended_s = time.monotonic() - killed_s
            seen = len(load.ends)
            while len(load.ends) < seen + 5:
                await asyncio.sleep(0.05)
    print(
        f"\nraylet killed: chat-2 out of routing after {out_s:.2f} s, its {len(left)} processes ended after "
        f"{ended_s:.1f} s; {len(load.failures)} of {len(load.ends)} requests failed: "
        f"{[(round(at_s - killed_s, 2), how, replica) for at_s, how, replica in load.failures]}"
    )
    assert not alive
    assert all(replica == "chat-2" for _, _, replica in load.failures)
    with joined_node(*cluster, cpus=CPUS):
        began_s = time.monotonic()
        await site.until_up("chat-2")
        print(f"a node joined: chat-2 back after {time.monotonic() - began_s:.1f} s")
        assert completion(site.replicas()["chat-2"]["url"], "m") == completion(site.replicas()["chat-1"]["url"], "m")
        site.driver.process.terminate()  # Before the node that its replica is on.
        await asyncio.to_thread(site.driver.wait, 120)
