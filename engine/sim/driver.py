"""Runs the model in real time: one step after the other, results delivered when they are due.

Steps follow each other on the model's own timeline: a step begins when the last one ended, not when a timer happened to
fire, so a pace of 5 ms a token stays 5 ms on a loop with 1 ms timers. Steps that are due together are delivered
together. A process that cannot keep up moves the timeline instead of bursting for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pointsman.engine.sim.model import EngineModel, SimRequest, StepResult

TIMER_SLACK_S = 0.0006
"""Delivered early rather than late by this much: event-loop timers count whole milliseconds."""
LAG_MAX_S = 0.1
"""Further behind than this, the timeline restarts at the present."""
STEPS_A_TICK_MAX = 16
"""Steps delivered before the loop may look at its sockets again."""


class Driver:
    """Owns the model's time. `deliver` is called with each step's result, in order, on the event loop."""

    def __init__(
        self, model: EngineModel, deliver: Callable[[StepResult], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._model = model
        self._deliver = deliver
        self._loop = loop
        self.slowness = 1.0
        """Fault: every step lasts so many times longer than modelled."""
        self._pending: StepResult | None = None
        self._due_s = 0.0
        self._timer: asyncio.Handle | None = None

    def submit(self, request: SimRequest) -> None:
        """Queue a request; it is scheduled when the step in progress ends."""
        self._model.add(request)
        if self._timer is None:
            self._due_s = self._loop.time()
            self._timer = self._loop.call_soon(self._tick)

    def stop(self) -> None:
        """No more steps, no more results."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pending = None

    def _tick(self) -> None:
        now_s = self._loop.time()
        if now_s - self._due_s > LAG_MAX_S:
            self._due_s = now_s
        if self._pending is not None:
            result, self._pending = self._pending, None
            self._deliver(result)
        for _ in range(STEPS_A_TICK_MAX):
            result = self._model.step()
            if not result.steps:
                self._timer = None
                return
            self._due_s += result.duration_s * self.slowness
            if self._due_s > now_s + TIMER_SLACK_S:
                self._pending = result
                self._timer = self._loop.call_at(self._due_s, self._tick)
                return
            self._deliver(result)
            if not result.duration_s:
                # Steps that cost nothing: one a turn of the loop, so that reading and writing keep up.
                break
        self._timer = self._loop.call_soon(self._tick)
