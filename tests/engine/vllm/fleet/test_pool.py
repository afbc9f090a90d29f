"""A pool becomes what is wanted: steps decided from what stands, and carried out on incarnations without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fake_incarnations import FakeCluster, FakeIncarnation
from hypothesis import given
from hypothesis import strategies as st

from pointsman.engine.vllm.errors import EngineStartError, ReplicaDiedError, VllmConfigError
from pointsman.engine.vllm.fleet.config import PoolConfig
from pointsman.engine.vllm.fleet.pool import Pool, Standing, Steps, next_steps


def fresh(number: int, *, serves: bool = True, leaving: bool = False) -> Standing:
    return Standing(number, True, serves, leaving)


def stale(number: int, *, serves: bool = True, leaving: bool = False) -> Standing:
    return Standing(number, False, serves, leaving)


@pytest.mark.parametrize(
    ("wanted", "standing", "surge", "steps"),
    [
        pytest.param(3, [], True, Steps(start=(1, 2, 3)), id="all start at once"),
        pytest.param(3, [fresh(2, serves=False)], True, Steps(start=(1, 3)), id="free numbers first"),
        pytest.param(1, [fresh(1), fresh(2), fresh(3)], True, Steps(retire=(3, 2)), id="the highest leave"),
        pytest.param(1, [fresh(1, serves=False), fresh(2)], True, Steps(retire=(1,)), id="what serves stays"),
        pytest.param(2, [stale(1), stale(2)], True, Steps(start=(3,)), id="a roll adds one"),
        pytest.param(2, [stale(1), stale(2), fresh(3, serves=False)], True, Steps(), id="and waits until it serves"),
        pytest.param(2, [stale(1), stale(2), fresh(3)], True, Steps(retire=(1,)), id="then one leaves"),
        pytest.param(2, [stale(1, leaving=True), stale(2), fresh(3)], True, Steps(), id="and is gone"),
        pytest.param(2, [stale(2), fresh(3)], True, Steps(start=(1,)), id="before the next is added"),
        pytest.param(2, [stale(1), stale(2, serves=False), fresh(3)], True, Steps(retire=(2,)), id="the dead first"),
        pytest.param(2, [stale(1), stale(2)], False, Steps(retire=(1,)), id="without room one leaves first"),
        pytest.param(2, [stale(1, leaving=True), stale(2)], False, Steps(start=(3,)), id="and one is added for it"),
        pytest.param(2, [stale(2), fresh(1, serves=False)], False, Steps(), id="which must serve first"),
        pytest.param(1, [fresh(1)], True, Steps(), id="all is well"),
    ],
)
def test_the_next_steps(wanted: int, standing: list[Standing], surge: bool, steps: Steps) -> None:
    """From what stands to what is done at once."""
    assert next_steps(wanted, standing, surge=surge) == steps


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=8),
    st.booleans(),
)
def test_steps_end_where_they_should(wanted: int, drawn: list[tuple[bool, bool, bool]], surge: bool) -> None:
    """Carried out again and again, with each start ending well, they come to rest at `wanted` fresh replicas.

    On the way a roll never takes one that serves away while fewer than wanted do, unless there is no room for more.
    """
    standing = {n: Standing(n, is_fresh, serves, leaving) for n, (is_fresh, serves, leaving) in enumerate(drawn, 1)}
    for _ in range(200):
        steps = next_steps(wanted, standing.values(), surge=surge)
        if surge and any(not one.fresh for one in standing.values()):
            serving = sum(one.serves and not one.leaving for one in standing.values())
            taken = sum(standing[n].serves for n in steps.retire)
            assert not taken or serving - taken >= min(wanted, serving - 1)
        for number in steps.start:
            assert number not in standing
            standing[number] = fresh(number, serves=False)
        for number in steps.retire:
            standing[number] = Standing(number, standing[number].fresh, False, True)
        if not steps.start and not steps.retire:
            waiting = [n for n, one in standing.items() if one.leaving or not one.serves]
            if not waiting:
                break
            number = waiting[0]
            if standing[number].leaving:
                del standing[number]
            else:
                standing[number] = Standing(number, standing[number].fresh, True)
    assert len(standing) == wanted
    assert all(one.fresh and one.serves for one in standing.values())


@asynccontextmanager
async def running(cluster: FakeCluster, **settings: Any) -> AsyncIterator[Pool]:
    """A pool that runs while the context is open, ready."""
    pool = Pool(PoolConfig(name="p", **{"model": "a", "replicas": 2, **settings}), cluster.environment)
    task = asyncio.create_task(pool.run())
    try:
        await cluster.until(lambda: pool.status().state == "ready")
        yield pool
    finally:
        pool.stop()
        await task
        assert not cluster.running()


async def test_a_pool_comes_up_and_tells_how_far_it_is() -> None:
    """One line for each step of progress."""
    cluster = FakeCluster()
    async with running(cluster) as pool:
        assert cluster.running() == ["p-1 a", "p-2 a"]
        assert [line for line in cluster.said if line.startswith("pool")][-1] == "pool p: 2 of 2 ready"
        status = pool.status()
        assert (status.ready, status.replicas, status.state) == (2, 2, "ready")
        assert [member.urls for member in status.members] == [["http://127.0.0.1:1/p-1"], ["http://127.0.0.1:1/p-2"]]


async def test_scaling_adds_and_drains() -> None:
    """Up to three, down to one; the drained are asked first."""
    cluster = FakeCluster()
    async with running(cluster) as pool:
        pool.scale(3)
        assert pool.status().state == "scaling"
        await cluster.until(lambda: pool.status().state == "ready")
        assert cluster.running() == ["p-1 a", "p-2 a", "p-3 a"]
        pool.scale(1)
        await cluster.until(lambda: pool.status().state == "ready")
        assert cluster.running() == ["p-1 a"]
        assert all(incarnation.drained for incarnation in cluster.incarnations if incarnation.killed)
        with pytest.raises(VllmConfigError, match="replicas: got 513, expected 1 to 512"):
            pool.scale(513)


async def test_a_roll_replaces_one_by_one() -> None:
    """Never fewer than wanted serve, never more than one too many live."""
    cluster = FakeCluster()
    async with running(cluster) as pool:
        counts: set[int] = set()
        pool.put(PoolConfig(name="p", model="b", replicas=2))
        assert pool.status().state == "rolling"

        def done() -> bool:
            counts.add(sum(not incarnation.killed and not incarnation.drained for incarnation in cluster.incarnations))
            return pool.status().state == "ready"

        await cluster.until(done)
        assert cluster.running() == ["p-1 b", "p-3 b"]
        assert counts <= {2, 3}


async def test_a_roll_waits_until_requests_come_to_the_added_one() -> None:
    """Ready is not enough: routers must have it up before another leaves."""
    cluster = FakeCluster()
    async with running(cluster) as pool:
        cluster.unrouted = {"p-3"}
        pool.put(PoolConfig(name="p", model="b", replicas=2))
        await cluster.until(lambda: pool.status().ready == 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(incarnation.drained for incarnation in cluster.incarnations)
        cluster.unrouted = set()
        await cluster.until(lambda: pool.status().state == "ready")


async def test_a_roll_that_is_refused_is_given_up() -> None:
    """What served goes on and is wanted again; the reason stays to be read."""
    cluster = FakeCluster()
    async with running(cluster) as pool:
        cluster.refuse["b"] = EngineStartError("no such model")
        pool.put(PoolConfig(name="p", model="b", replicas=2))
        await cluster.until(lambda: pool.status().error != "")
        assert (pool.status().error, pool.config.model) == ("no such model", "a")
        assert cluster.running() == ["p-1 a", "p-2 a"]
        assert not any(incarnation.drained for incarnation in cluster.incarnations)


async def test_a_first_configuration_that_is_refused_ends_the_pool() -> None:
    """Nothing served: the error goes up."""
    cluster = FakeCluster()
    cluster.refuse["a"] = EngineStartError("no such model")
    with pytest.raises(EngineStartError):
        await Pool(PoolConfig(name="p", model="a"), cluster.environment).run()
    assert not cluster.running()


async def test_a_refused_pool_beside_others_waits_for_another_configuration() -> None:
    """Where it must not take the fleet down, it says so and stays."""
    cluster = FakeCluster()
    cluster.refuse["a"] = EngineStartError("no such model")
    pool = Pool(PoolConfig(name="p", model="a"), cluster.environment, must_start=False)
    task = asyncio.create_task(pool.run())
    await cluster.until(lambda: pool.status().state == "refused")
    pool.put(PoolConfig(name="p", model="b"))
    await cluster.until(lambda: pool.status().state == "ready")
    pool.stop()
    await task


async def test_an_adopted_replica_is_not_started_again() -> None:
    """Of the wanted configuration it stays; of another it is rolled; one that drains goes on to."""
    cluster = FakeCluster()
    pool = Pool(PoolConfig(name="p", model="a", replicas=2), cluster.environment)
    same, other, leaving = FakeIncarnation("p-1"), FakeIncarnation("p-2"), FakeIncarnation("p-7")
    pool.adopt(1, "a", same, stopping=False)
    pool.adopt(2, "old", other, stopping=False)
    pool.adopt(7, "a", leaving, stopping=True)
    task = asyncio.create_task(pool.run())
    await cluster.until(lambda: pool.status().state == "ready")
    assert not same.killed and other.killed and other.drained and leaving.killed
    assert cluster.running() == ["p-3 a"]
    pool.stop()
    await task
    assert same.drained


async def test_replicas_left_alone_live_on() -> None:
    """A driver that leaves kills and drains nobody."""
    cluster = FakeCluster()
    pool = Pool(PoolConfig(name="p", model="a", replicas=2), cluster.environment)
    task = asyncio.create_task(pool.run())
    await cluster.until(lambda: pool.status().state == "ready")
    pool.leave_alone()
    task.cancel()
    await asyncio.wait({task})
    assert cluster.running() == ["p-1 a", "p-2 a"]
    assert not any(incarnation.drained for incarnation in cluster.incarnations)
    for incarnation in cluster.incarnations:
        incarnation.kill()


async def test_a_death_is_buried_and_counted() -> None:
    """Routers are told, what is left of the incarnation leaves before it is ended; the next begins after a pause."""
    cluster = FakeCluster()
    async with running(cluster, replicas=1) as pool:
        cluster.incarnations[0].die(ReplicaDiedError("p-1: the engine died"))
        await cluster.until(lambda: pool.status().members[0].deaths == 1)
        assert cluster.incarnations[0].survivors_withdrawn and cluster.incarnations[0].killed
        assert pool.status().members[0].state == "dead"
        assert cluster.deregistered == ["p-1"]
