"""A pool of real vLLM on a Ray cluster that was there before it: kills, a roll under load, a clean end.

One pool of three replicas for all tests, in the order of the file; the last one ends it. What is measured is printed:
`-s` shows it. `make engine-cpu` installs what they need.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from fleet_on_cluster import ON_CPU, SMALL, UP_S, Load, Site, running_site
from vllm_fleet import listener_of, real_vllm

pytestmark = [pytest.mark.marathon, *real_vllm(timeout_s=1800)]

OUT_S = 2.0
"""A killed replica is out of routing by then."""

CHAT: dict[str, Any] = {"name": "chat", "model": "tiny", "served_name": "m", "replicas": 3, "args": SMALL, **ON_CPU}
IDS = ("chat-1", "chat-2", "chat-3")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_site([CHAT], *IDS) as site:
        yield site


async def test_a_killed_actor_comes_back_as_itself(site: Site) -> None:
    """kill -9 under load: what it was serving is cut, all else is served by the others."""
    replica = listener_of(site.replicas()["chat-2"]["url"])
    async with Load(site.url, "m").running() as load:
        while "chat-2" not in load.served_by:
            await asyncio.sleep(0.05)
        killed_s = time.monotonic()
        replica.kill()
        while "chat-2" in site.up():
            await asyncio.sleep(0.02)
        out_s = time.monotonic() - killed_s
        await site.until_up("chat-2")
        back_s = time.monotonic() - killed_s
    print(
        f"\nactor killed: out after {out_s:.2f} s, back after {back_s:.1f} s; "
        f"{len(load.failures)} of {len(load.ends)} requests failed: "
        f"{[(round(at_s - killed_s, 2), how, replica) for at_s, how, replica in load.failures]}"
    )
    assert all(end[2] in ("chat-2", "") and end[0] < killed_s + OUT_S for end in load.failures)


async def test_a_killed_driver_is_replaced_and_nobody_notices(site: Site) -> None:
    """Detached replicas go on; the driver that comes after takes all of them over, without a restart."""
    before = {id: view["url"] for id, view in site.replicas().items()}
    async with Load(site.url, "m").running() as load:
        while len(load.ends) < 5:
            await asyncio.sleep(0.05)
        site.driver.process.kill()
        site.driver.wait(10)
        began_s = time.monotonic()
        driver = site.start_driver()
        for replica in IDS:
            await asyncio.to_thread(driver.lines.wait, lambda line, id=replica: line == f"{id} adopted", 60)
        await asyncio.to_thread(driver.wait_ready, "chat-3", 60)
        adopted_s = time.monotonic() - began_s
        seen = len(load.ends)
        while len(load.ends) < seen + 5:
            await asyncio.sleep(0.05)
    print(f"\ndriver killed: taken over {adopted_s:.1f} s after the next was started; {len(load.ends)} requests")
    assert not load.failures
    assert {id: view["url"] for id, view in site.replicas().items()} == before


async def test_a_pool_is_rolled_under_load(site: Site) -> None:
    """Three replicas get another configuration one by one: no request fails, no stream is cut."""
    before = {id: view["url"] for id, view in site.replicas().items()}
    async with Load(site.url, "m", tokens=64).running() as load:
        began_s = time.monotonic()
        changed = {**CHAT, "args": [*SMALL, "--max-num-seqs=32"]}
        answer = httpx.put(f"{site.admin}/v1/pools/chat", json=changed)
        assert (answer.status_code, answer.json()["state"]) == (202, "rolling")
        async with asyncio.timeout(UP_S):
            while (await asyncio.to_thread(site.pool, "chat"))["state"] != "ready":
                await asyncio.sleep(0.2)
        rolled_s = time.monotonic() - began_s
        served = load.served_by
    print(f"\nrolled 3 replicas in {rolled_s:.1f} s: {len(load.ends)} requests, {len(load.failures)} failed")
    assert not load.failures, load.failures
    after = {id: view["url"] for id, view in site.replicas().items()}
    assert len(after) == 3 and not set(after.values()) & set(before.values())
    assert set(after) <= set(served)


async def test_sigterm_ends_every_replica(site: Site) -> None:
    """A clean stop leaves no engine, wherever it was detached to."""
    family = [
        process
        for view in site.replicas().values()
        for listener in [listener_of(view["url"])]
        for process in [listener, *listener.children(recursive=True)]
    ]
    began_s = time.monotonic()
    site.driver.process.terminate()
    assert await asyncio.to_thread(site.driver.wait, 60) == 0
    _, alive = psutil.wait_procs(family, 10)
    assert not alive
    assert not site.replicas()
    assert httpx.get(f"{site.admin}/v1/pools").json() == {"pools": []}
    print(f"\nended in {time.monotonic() - began_s:.1f} s")
