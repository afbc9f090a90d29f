"""Pools of real vLLM on a Ray cluster of their own: tensor parallel, data parallel with experts, rolls, a dead driver.

One cluster, one edge and one fleet for all tests, in the order of the file; the last one ends the fleet. The cluster
only claims to have GPUs: workers and ranks compute on the CPU (tests/support/vllm_cpu_ray). What is measured is
printed: `-s` shows it. `make engine-cpu` installs what they need.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fleet_on_cluster import ON_CPU, Driver, Load, empty_edge, running_cluster
from vllm_fleet import MISSING, listener_of

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} is not installed (make engine-cpu)"),
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("vllm"),
]

READY_S = 400.0
"""Seven engines and nine of their workers, all at once on two cores."""

OUT_S = 2.0
"""A group with a dead rank is out of routing by then."""

SMALL = ["--max-model-len=1024", "--kv-cache-memory-bytes=16M"]
MOE = ["--enable-expert-parallel", "--all2all-backend=allgather_reducescatter", *SMALL]
POOLS: list[dict[str, Any]] = [
    {"name": "chat", "model": "tiny", "served_name": "chat", "replicas": 3, "args": SMALL, **ON_CPU},
    {"name": "tp", "model": "tiny", "served_name": "tp", "tensor_parallel_size": 2, "args": SMALL, **ON_CPU},
    {"name": "moe", "model": "tiny-moe", "served_name": "moe", "data_parallel_size": 2, "args": MOE, **ON_CPU},
    {"name": "spare", "model": "tiny-moe", "served_name": "moe", "args": SMALL, **ON_CPU},
]
REPLICAS = ("chat-1", "chat-2", "chat-3", "tp-1", "moe-1.0", "moe-1.1", "spare-1")


class Site:
    """The running parts; `driver` is the one of the moment."""

    def __init__(self, url: str, admin: str, folder: Path, environment: dict[str, str], settings: dict[str, Any]):
        self.url = url
        self.admin = admin
        self.settings = settings
        self._folder = folder
        self._environment = environment
        self.driver = self.start_driver()

    def start_driver(self) -> Driver:
        self.driver = Driver.start(self._folder, self._environment, self.settings)
        return self.driver

    def replicas(self) -> dict[str, dict[str, Any]]:
        listed = httpx.get(f"{self.admin}/v1/replicas").json()["replicas"]
        return {replica["id"]: replica for replica in listed}

    def up(self) -> set[str]:
        return {id for id, replica in self.replicas().items() if replica["state"] == "up"}

    def pool(self, name: str) -> dict[str, Any]:
        pool: dict[str, Any] = httpx.get(f"{self.admin}/v1/pools/{name}").json()
        return pool

    async def until_up(self, *replicas: str, within_s: float = READY_S) -> None:
        async with asyncio.timeout(within_s):
            while not set(replicas) <= await asyncio.to_thread(self.up):
                await asyncio.sleep(0.1)


def completion(url: str, model: str, prompt: str = "Once upon a time") -> str:
    """A greedy answer."""
    body = {"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """All replicas up."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with (
        tempfile.TemporaryDirectory(prefix="pm-", ignore_cleanup_errors=True) as name,
        running_cluster(Path(name) / "ray", environment) as address,
        empty_edge(Path(name) / "edge") as (url, admin),
    ):
        settings = {"ray_address": address, "admin": [admin], "pools": POOLS, "drain_s": 10.0}
        began_s = time.monotonic()
        site = Site(url, admin, Path(name), environment, settings)
        try:
            asyncio.run(site.until_up(*REPLICAS))
            print(f"\nall of {len(REPLICAS)} replicas up after {time.monotonic() - began_s:.1f} s")
            yield site
        except BaseException as error:
            error.add_note("\n".join(site.driver.lines.all()) + site.driver.errors[-3000:])
            raise
        finally:
            if site.driver.process.poll() is None:
                site.driver.process.terminate()
                site.driver.wait(60)


def test_tensor_parallel_workers_serve_through_rays_executor(site: Site) -> None:
    """Two workers in one placement group; the answer is that of one worker with the same weights."""
    assert completion(site.url, "tp") == completion(site.url, "chat") != ""


def test_each_rank_of_a_group_is_a_replica(site: Site) -> None:
    """Own port, own signals; both give the answer of an engine without ranks, so the experts of both took part."""
    views = site.replicas()
    ranks = [views[f"moe-1.{rank}"]["url"] for rank in (0, 1)]
    assert len(set(ranks)) == 2
    expected = completion(views["spare-1"]["url"], "moe")
    assert [completion(rank, "moe") for rank in ranks] == [expected, expected]
    assert {view["pool"] for view in views.values()} == {pool["name"] for pool in POOLS}


async def test_a_dead_rank_takes_its_group_out_and_the_group_returns(site: Site) -> None:
    """kill -9 of one rank's engine under load. What was inside the group may fail; nothing else does."""
    views = site.replicas()
    engine = listener_of(views["moe-1.1"]["url"]).children(recursive=True)
    async with Load(site.url, "moe").running() as load:
        while not {"moe-1.0", "moe-1.1", "spare-1"} <= set(load.served_by):
            await asyncio.sleep(0.05)
        assert not load.failures
        killed_s = time.monotonic()
        for process in engine:
            process.kill()
        while {"moe-1.0", "moe-1.1"} & site.up():
            await asyncio.sleep(0.02)
        out_s = time.monotonic() - killed_s
        seen = len(load.ends)
        while len(load.ends) < seen + 20:
            await asyncio.sleep(0.05)
        await site.until_up("moe-1.0", "moe-1.1")
        back_s = time.monotonic() - killed_s
        served = load.served_by.copy()
        while not all(load.served_by[rank] > served[rank] for rank in ("moe-1.0", "moe-1.1")):
            await asyncio.sleep(0.05)
    late = [end for end in load.failures if end[0] > killed_s + OUT_S]
    print(
        f"\nrank killed: group out of routing after {out_s:.2f} s, back after {back_s:.1f} s; "
        f"{len(load.failures)} of {len(load.ends)} requests failed: {[how for _, how, _ in load.failures]}"
    )
    assert out_s < OUT_S
    assert not late
    assert all(replica.startswith("moe-1.") for _, _, replica in load.failures)


async def test_a_killed_actor_comes_back_as_itself(site: Site) -> None:
    """kill -9 under load: what it was serving is cut, all else is served by the others."""
    replica = listener_of(site.replicas()["chat-2"]["url"])
    async with Load(site.url, "chat").running() as load:
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
        f"{len(load.failures)} of {len(load.ends)} requests failed: {[how for _, how, _ in load.failures]}"
    )
    assert all(end[2] in ("chat-2", "") and end[0] < killed_s + OUT_S for end in load.failures)


async def test_a_killed_driver_is_replaced_and_nobody_notices(site: Site) -> None:
    """Detached replicas go on; the driver that comes after takes all of them over, without a restart."""
    before = {id: view["url"] for id, view in site.replicas().items()}
    async with Load(site.url, "chat").running() as load:
        while len(load.ends) < 5:
            await asyncio.sleep(0.05)
        site.driver.process.kill()
        site.driver.wait(10)
        began_s = time.monotonic()
        driver = site.start_driver()
        for replica in ("chat-1", "chat-2", "chat-3", "tp-1", "moe-1", "spare-1"):
            await asyncio.to_thread(driver.lines.wait, lambda line, id=replica: line == f"{id} adopted", 60)
        await asyncio.to_thread(driver.wait_ready, "spare-1", 60)
        adopted_s = time.monotonic() - began_s
        seen = len(load.ends)
        while len(load.ends) < seen + 5:
            await asyncio.sleep(0.05)
    print(f"\ndriver killed: taken over {adopted_s:.1f} s after the next was started; {len(load.ends)} requests")
    assert not load.failures
    assert {id: view["url"] for id, view in site.replicas().items()} == before


async def test_a_pool_is_rolled_under_load(site: Site) -> None:
    """Three replicas get another configuration one by one: no request fails, no stream is cut."""
    before = {id: view["url"] for id, view in site.replicas().items() if view["pool"] == "chat"}
    spec = next(pool for pool in POOLS if pool["name"] == "chat")
    async with Load(site.url, "chat", tokens=64).running() as load:
        began_s = time.monotonic()
        changed = {**spec, "args": [*SMALL, "--max-num-seqs=32"]}
        answer = httpx.put(f"{site.admin}/v1/pools/chat", json=changed)
        assert (answer.status_code, answer.json()["state"]) == (202, "rolling")
        async with asyncio.timeout(READY_S):
            while (await asyncio.to_thread(site.pool, "chat"))["state"] != "ready":
                await asyncio.sleep(0.2)
        rolled_s = time.monotonic() - began_s
        served = load.served_by
    print(f"\nrolled 3 replicas in {rolled_s:.1f} s: {len(load.ends)} requests, {len(load.failures)} failed")
    assert not load.failures, load.failures
    after = {id: view["url"] for id, view in site.replicas().items() if view["pool"] == "chat"}
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
