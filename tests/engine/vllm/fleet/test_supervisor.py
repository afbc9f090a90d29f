"""A supervisor starts its replica again and again, and ends where that is pointless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest

from pointsman.engine.vllm.errors import ClusterError, EngineStartError, ReplicaDiedError, VllmError
from pointsman.engine.vllm.fleet.environment import PoolEnvironment
from pointsman.engine.vllm.fleet.supervisor import START_TRIES, ConfigProven, ReplicaSupervisor
from pointsman.engine.vllm.replica.replica import Started


class FakeIncarnation:
    """One incarnation: what `start` and `wait` end with; an event that is never set keeps them waiting."""

    def __init__(self, *, start: VllmError | None = None, wait: VllmError | None = None, left: int = 0) -> None:
        self._start = start
        self._wait = wait
        self._left = left
        self.never = asyncio.Event()
        self.started = asyncio.Event()
        self.drained_s: float | None = None
        self.ended = self.survivors_withdrawn = self.killed = False

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

    async def withdraw_survivors(self) -> None:
        self.survivors_withdrawn = True

    def kill(self) -> None:
        self.killed = True


class HangingIncarnation(FakeIncarnation):
    """One that neither starts nor stops."""

    async def start(self) -> tuple[Started, ...]:
        self.started.set()
        await self.never.wait()
        raise AssertionError

    async def drain(self, drain_s: float) -> int:
        await self.never.wait()
        return 0


class Supervised:
    """A supervisor over given incarnations, with what it said and how long it paused."""

    def __init__(self, *incarnations: FakeIncarnation, start_timeout_s: float = 60.0, run_s: float = 0.0) -> None:
        self.proven = ConfigProven()
        self.said: list[str] = []
        self.pauses: list[float] = []
        self._incarnations = iter(incarnations)
        self._now_s = 0.0
        self._run_s = run_s
        environment = PoolEnvironment(
            incarnation=lambda config, number: self._next(),
            revision=lambda config: "",
            wait_routed=self._wait_routed,
            drain_s=30.0,
            start_timeout_s=start_timeout_s,
            say=self.said.append,
        )
        self.supervisor = ReplicaSupervisor(
            "r-1", self._next, self.proven, environment, sleep=self._sleep, clock=self._clock
        )

    async def run_until_started(self, last: FakeIncarnation) -> None:
        """Supervise, stop once this incarnation has started, and wait for the end."""
        running = asyncio.create_task(self.supervisor.run())
        await last.started.wait()
        self.supervisor.stop()
        await running

    def _next(self) -> FakeIncarnation:
        return next(self._incarnations)

    async def _wait_routed(self, replicas: Iterable[str]) -> None:
        pass

    async def _sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)

    def _clock(self) -> float:
        self._now_s += self._run_s
        return self._now_s


async def test_a_replica_serves_until_the_fleet_stops_and_is_drained_then() -> None:
    """Starting, ready, draining, stopped: one line each, and the process is ended."""
    incarnation = FakeIncarnation()
    supervised = Supervised(incarnation)
    await supervised.run_until_started(incarnation)
    assert supervised.said == [
        "r-1 starting",
        "ready: http://127.0.0.1:1 replica=r-1 start_s=0.5",
        "r-1 draining",
        "r-1 stopped",
    ]
    assert incarnation.drained_s == 30.0
    assert incarnation.killed


async def test_requests_that_were_cut_are_told() -> None:
    """A drain that ran out of time says how many requests it cost."""
    incarnation = FakeIncarnation(left=3)
    supervised = Supervised(incarnation)
    await supervised.run_until_started(incarnation)
    assert "r-1 cut 3 requests that were not done in 30 s" in supervised.said


async def test_a_dead_replica_starts_again_after_a_pause_that_grows() -> None:
    """1, 2, 4 seconds, and every dead incarnation is ended for good."""
    dead = [FakeIncarnation(wait=ReplicaDiedError("r-1: its process died")) for _ in range(3)]
    last = FakeIncarnation()
    supervised = Supervised(*dead, last)
    await supervised.run_until_started(last)
    assert supervised.pauses == [1.0, 2.0, 4.0]
    assert all(incarnation.killed for incarnation in dead)
    assert "r-1 died: r-1: its process died; starts again in 1 s" in supervised.said


async def test_a_long_life_forgives_earlier_deaths() -> None:
    """A replica that served for more than a minute starts again after the shortest pause."""
    dead = [FakeIncarnation(wait=ReplicaDiedError("died")) for _ in range(3)]
    last = FakeIncarnation()
    supervised = Supervised(*dead, last, run_s=61.0)
    await supervised.run_until_started(last)
    assert supervised.pauses == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("error", [EngineStartError("no memory"), ClusterError("name taken")])
async def test_a_first_start_that_is_refused_is_final(error: VllmError) -> None:
    """Every replica would be refused alike: the error goes up, nothing is tried again."""
    incarnation = FakeIncarnation(start=error)
    supervised = Supervised(incarnation)
    with pytest.raises(type(error)):
        await supervised.supervisor.run()
    assert supervised.pauses == []
    assert incarnation.killed


async def test_once_a_replica_has_served_a_refusal_is_tried_again() -> None:
    """The configuration is proved by then: memory of a dead engine may just not be free yet."""
    last = FakeIncarnation()
    supervised = Supervised(FakeIncarnation(start=EngineStartError("no memory")), last)
    supervised.proven.served = True
    await supervised.run_until_started(last)
    assert supervised.pauses == [1.0]


async def test_a_first_start_whose_process_dies_is_tried_a_few_times() -> None:
    """A process may be killed by accident, but not every time."""
    supervised = Supervised(*(FakeIncarnation(start=ReplicaDiedError("killed")) for _ in range(START_TRIES)))
    with pytest.raises(ReplicaDiedError):
        await supervised.supervisor.run()
    assert len(supervised.pauses) == START_TRIES - 1


async def test_a_start_has_a_limit() -> None:
    """A replica that gives no token in time is an error that names the setting."""
    incarnation = HangingIncarnation()
    with pytest.raises(ClusterError, match=r"no token within 0\.01 s \(vllm\.start_timeout_s\)"):
        await Supervised(incarnation, start_timeout_s=0.01).supervisor.run()
    assert incarnation.killed


async def test_a_supervisor_that_stops_does_not_wait_for_a_start() -> None:
    """SIGTERM while the model loads ends the replica at once."""
    incarnation = HangingIncarnation()
    supervised = Supervised(incarnation)
    await supervised.run_until_started(incarnation)
    assert supervised.said == ["r-1 starting", "r-1 stopped"]
    assert incarnation.killed


async def test_a_second_signal_does_not_wait_for_the_drain() -> None:
    """Asked twice to stop, the supervisor ends the process under its requests."""

    class NeverDrains(FakeIncarnation):
        async def drain(self, drain_s: float) -> int:
            ask_again()
            await self.never.wait()
            return 0

    incarnation = NeverDrains()
    supervised = Supervised(incarnation)
    ask_again: Callable[[], None] = supervised.supervisor.stop
    await supervised.run_until_started(incarnation)
    assert incarnation.killed
    assert supervised.said[-1] == "r-1 stopped"
