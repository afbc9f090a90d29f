"""A keeper keeps its replica alive, and knows when that is pointless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pointsman.engine.vllm.errors import ClusterError, EngineStartError, ReplicaDiedError, VllmError
from pointsman.engine.vllm.fleet.keeper import START_TRIES, Keeper, Proof
from pointsman.engine.vllm.replica.replica import Started


class FakeLife:
    """One life: what `start` and `wait` end with; an event that is never set keeps them waiting."""

    def __init__(self, *, start: VllmError | None = None, wait: VllmError | None = None, left: int = 0) -> None:
        self._start = start
        self._wait = wait
        self._left = left
        self.never = asyncio.Event()
        self.started = asyncio.Event()
        self.drained_s: float | None = None
        self.ended = self.buried = self.killed = False

    async def start(self) -> tuple[Started, ...]:
        if self._start is not None:
            raise self._start
        self.started.set()
        return (Started("r-1", "http://127.0.0.1:1", (1, 2), 0.5),)

    async def wait(self) -> None:
        if self._wait is not None:
            raise self._wait
        await self.never.wait()

    async def drain(self, drain_s: float) -> int:
        self.drained_s = drain_s
        return self._left

    async def end(self) -> None:
        self.ended = True

    async def bury(self) -> None:
        self.buried = True

    def kill(self) -> None:
        self.killed = True


class HangingLife(FakeLife):
    """One that neither starts nor stops."""

    async def start(self) -> tuple[Started, ...]:
        self.started.set()
        await self.never.wait()
        raise AssertionError

    async def drain(self, drain_s: float) -> int:
        await self.never.wait()
        return 0


class Kept:
    """A keeper over given lives, with what it said and how long it paused."""

    def __init__(self, *lives: FakeLife, start_timeout_s: float = 60.0, life_s: float = 0.0) -> None:
        self.proof = Proof()
        self.said: list[str] = []
        self.pauses: list[float] = []
        self._lives = iter(lives)
        self._now_s = 0.0
        self._life_s = life_s
        self.keeper = Keeper(
            "r-1",
            self._next,
            self.proof,
            self.said.append,
            drain_s=30.0,
            start_timeout_s=start_timeout_s,
            sleep=self._sleep,
            clock=self._clock,
        )

    def _next(self) -> FakeLife:
        return next(self._lives)

    async def _sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)

    def _clock(self) -> float:
        self._now_s += self._life_s
        return self._now_s


async def test_a_replica_serves_until_the_fleet_stops_and_is_drained_then() -> None:
    """Starting, ready, draining, stopped: one line each, and the process is ended."""
    life = FakeLife()
    kept = Kept(life)
    running = asyncio.create_task(kept.keeper.run())
    await life.started.wait()
    kept.keeper.stop()
    await running
    assert kept.said == [
        "r-1 starting",
        "ready: http://127.0.0.1:1 replica=r-1 start_s=0.5",
        "r-1 draining",
        "r-1 stopped",
    ]
    assert life.drained_s == 30.0
    assert life.killed


async def test_requests_that_were_cut_are_told() -> None:
    """A drain that ran out of time says how many requests it cost."""
    life = FakeLife(left=3)
    kept = Kept(life)
    running = asyncio.create_task(kept.keeper.run())
    await life.started.wait()
    kept.keeper.stop()
    await running
    assert "r-1 cut 3 requests that were not done in 30 s" in kept.said


async def test_a_dead_replica_starts_again_after_a_pause_that_grows() -> None:
    """1, 2, 4 seconds, and every dead life is ended for good."""
    dead = [FakeLife(wait=ReplicaDiedError("r-1: its process died")) for _ in range(3)]
    last = FakeLife()
    kept = Kept(*dead, last)
    running = asyncio.create_task(kept.keeper.run())
    await last.started.wait()
    kept.keeper.stop()
    await running
    assert kept.pauses == [1.0, 2.0, 4.0]
    assert all(life.killed for life in dead)
    assert "r-1 died: r-1: its process died; starts again in 1 s" in kept.said


async def test_a_long_life_forgives_earlier_deaths() -> None:
    """A replica that served for more than a minute starts again after the shortest pause."""
    dead = [FakeLife(wait=ReplicaDiedError("died")) for _ in range(3)]
    last = FakeLife()
    kept = Kept(*dead, last, life_s=61.0)
    running = asyncio.create_task(kept.keeper.run())
    await last.started.wait()
    kept.keeper.stop()
    await running
    assert kept.pauses == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("error", [EngineStartError("no memory"), ClusterError("name taken")])
async def test_a_first_start_that_is_refused_is_final(error: VllmError) -> None:
    """Every replica would be refused alike: the error goes up, nothing is tried again."""
    life = FakeLife(start=error)
    kept = Kept(life)
    with pytest.raises(type(error)):
        await kept.keeper.run()
    assert kept.pauses == []
    assert life.killed


async def test_once_a_replica_has_served_a_refusal_is_tried_again() -> None:
    """The configuration is proved by then: memory of a dead engine may just not be free yet."""
    last = FakeLife()
    kept = Kept(FakeLife(start=EngineStartError("no memory")), last)
    kept.proof.served = True
    running = asyncio.create_task(kept.keeper.run())
    await last.started.wait()
    kept.keeper.stop()
    await running
    assert kept.pauses == [1.0]


async def test_a_first_start_whose_process_dies_is_tried_a_few_times() -> None:
    """A process may be killed by accident, but not every time."""
    kept = Kept(*(FakeLife(start=ReplicaDiedError("killed")) for _ in range(START_TRIES)))
    with pytest.raises(ReplicaDiedError):
        await kept.keeper.run()
    assert len(kept.pauses) == START_TRIES - 1


async def test_a_start_has_a_limit() -> None:
    """A replica that gives no token in time is an error that names the setting."""
    life = HangingLife()
    with pytest.raises(ClusterError, match=r"no token within 0\.01 s \(vllm\.start_timeout_s\)"):
        await Kept(life, start_timeout_s=0.01).keeper.run()
    assert life.killed


async def test_a_keeper_that_stops_does_not_wait_for_a_start() -> None:
    """SIGTERM while the model loads ends the replica at once."""
    life = HangingLife()
    kept = Kept(life)
    running = asyncio.create_task(kept.keeper.run())
    await life.started.wait()
    kept.keeper.stop()
    await running
    assert kept.said == ["r-1 starting", "r-1 stopped"]
    assert life.killed


async def test_a_second_signal_does_not_wait_for_the_drain() -> None:
    """Asked twice to stop, the keeper ends the process under its requests."""

    class NeverDrains(FakeLife):
        async def drain(self, drain_s: float) -> int:
            ask_again()
            await self.never.wait()
            return 0

    life = NeverDrains()
    kept = Kept(life)
    ask_again: Callable[[], None] = kept.keeper.stop
    running = asyncio.create_task(kept.keeper.run())
    await life.started.wait()
    kept.keeper.stop()
    await running
    assert life.killed
    assert kept.said[-1] == "r-1 stopped"
