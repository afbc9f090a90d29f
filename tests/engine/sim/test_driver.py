"""The driver's sense of time, on a loop whose clock the test owns."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any, cast

from sim_model import make_model, make_request

from pointsman.engine.sim.driver import LAG_MAX_S, STEPS_A_TICK_MAX, Driver
from pointsman.engine.sim.model import StepResult
from pointsman.engine.sim.timing import Timing


class VirtualLoop:
    """The three calls a driver makes of an event loop."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._queue: list[tuple[float, int, Timer]] = []
        self._count = 0

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[[], None]) -> Timer:
        return self.call_at(self.now_s, callback)

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Timer:
        self._count += 1
        timer = Timer(callback)
        heapq.heappush(self._queue, (when_s, self._count, timer))
        return timer

    def turn(self, late_s: float = 0.0) -> bool:
        """Run the next callback, `late_s` after its time; False when there is none."""
        if not self._queue:
            return False
        when_s, _, timer = heapq.heappop(self._queue)
        self.now_s = max(self.now_s, when_s + late_s)
        if not timer.cancelled:
            timer.callback()
        return True


class Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """A driver on a virtual loop, and when it delivered what."""

    def __init__(self, step_s: float) -> None:
        self.loop = VirtualLoop()
        self.seen: list[tuple[float, list[str]]] = []
        self.model = make_model(timing=Timing(prefill_base_s=step_s, decode_base_s=step_s))
        self.driver = Driver(self.model, self._deliver, cast(asyncio.AbstractEventLoop, cast(Any, self.loop)))

    def _deliver(self, result: StepResult) -> None:
        self.seen.append((round(self.loop.now_s - 100.0, 6), result.emitted))

    def run(self, late_s: float = 0.0) -> None:
        while self.loop.turn(late_s):
            pass


def test_a_step_is_delivered_when_it_is_due() -> None:
    """Four steps of 10 ms: at 10, 20, 30 and 40 ms; then nothing is scheduled any more."""
    world = World(step_s=0.010)
    world.driver.submit(make_request("a", output=4))
    world.run()
    assert world.seen == [(0.01, ["a"]), (0.02, ["a"]), (0.03, ["a"]), (0.04, ["a"])]


def test_a_late_timer_does_not_slow_the_pace() -> None:
    """Every timer fires 3 ms late: each step is 3 ms late, and the lateness does not add up."""
    world = World(step_s=0.010)
    world.driver.submit(make_request("a", output=4))
    world.run(late_s=0.003)
    # The very first turn is late too, but the first step begins when the request was submitted.
    assert [at_s for at_s, _ in world.seen] == [0.013, 0.023, 0.033, 0.043]


def test_steps_shorter_than_a_timer_come_together() -> None:
    """Steps of 0.2 ms on timers of 5 ms: about 25 a turn, no more than the limit, none lost."""
    world = World(step_s=0.0002)
    world.driver.submit(make_request("a", output=100))
    world.run(late_s=0.005)
    assert len(world.seen) == 100
    together = [sum(at_s == when_s for at_s, _ in world.seen) for when_s in {at_s for at_s, _ in world.seen}]
    assert max(together) > 4


def test_a_process_that_stood_still_does_not_catch_up_for_ever() -> None:
    """A second of delay is not followed by a hundred steps at once: the timeline restarts at the present."""
    world = World(step_s=0.010)
    world.driver.submit(make_request("a", output=200))
    for _ in range(3):
        world.loop.turn()
    count = len(world.seen)
    world.loop.turn(late_s=1.0)
    assert len(world.seen) - count <= STEPS_A_TICK_MAX + 1
    world.run()
    assert world.seen[-1][0] >= 1.0 + 1.8 - LAG_MAX_S


def test_free_steps_leave_the_loop_a_turn_each() -> None:
    """Steps that cost nothing: one delivery a turn, so that sockets are served in between."""
    world = World(step_s=0.0)
    world.driver.submit(make_request("a", output=5))
    deliveries = []
    while world.loop.turn():
        deliveries.append(len(world.seen))
    assert deliveries[:5] == [1, 2, 3, 4, 5]


def test_a_request_that_arrives_in_a_step_is_scheduled_after_it() -> None:
    """b arrives in a's second step and gets its first token with a's third."""
    world = World(step_s=0.010)
    world.driver.submit(make_request("a", output=4))
    world.loop.turn()
    world.loop.turn()
    world.driver.submit(make_request("b", output=1))
    world.run()
    # A step with prefill and decode takes both: 20 ms.
    assert world.seen == [(0.01, ["a"]), (0.02, ["a"]), (0.04, ["a", "b"]), (0.05, ["a"])]


def test_an_idle_driver_starts_again() -> None:
    """The timeline of a later request begins when it arrives."""
    world = World(step_s=0.010)
    world.driver.submit(make_request("a", output=1))
    world.run()
    world.loop.now_s = 105.0
    world.driver.submit(make_request("b", output=1))
    world.run()
    assert world.seen[-1] == (5.01, ["b"])


def test_a_stopped_driver_says_nothing_more() -> None:
    """The step in progress is not delivered."""
    world = World(step_s=0.010)
    world.driver.submit(make_request("a", output=4))
    world.loop.turn()
    world.driver.stop()
    world.run()
    assert world.seen == []
