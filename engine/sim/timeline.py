"""The modelled engine in virtual time, for simulations of whole fleets.

A `Timeline` plays one `EngineModel` as if it ran without pause. Somebody else owns the clock: `next_s` is when this
engine has something to say, `advance` plays up to a moment, `add` and `abort` happen at one. Stretches in which every
running sequence only gets one more token are planned as a whole and played in one go; a request that arrives within
such a stretch cuts it at the end of the step in progress, where the scheduler would first see it. The outcome is the
one of single steps; what the model reports of itself within a stretch is its state at the stretch's beginning.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import msgspec

from pointsman.engine.sim.model import EngineModel, SimRequest, StepResult


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The result of one step, and when it became visible."""

    at_s: float
    result: StepResult


class Timeline:
    """One engine in virtual time. Times are seconds on the caller's clock and never go back."""

    def __init__(self, model: EngineModel) -> None:
        self.model = model
        self.next_s = math.inf
        """When `advance` has something to do; inf while the engine is idle."""
        self._start_s = 0.0
        self._ends: list[float] = []
        self._result: StepResult | None = None

    def add(self, request: SimRequest, now_s: float) -> None:
        """A request arrives. `advance(now_s)` must have been played."""
        self._interrupt(now_s)
        self.model.add(request)
        if self.next_s == math.inf:
            self._begin(now_s)

    def abort(self, request_id: str, now_s: float) -> bool:
        """A request is dropped; False when it is not in the engine. `advance(now_s)` must have been played."""
        self._interrupt(now_s)
        return self.model.abort(request_id)

    def let_go(self, request_id: str, now_s: float) -> bool:
        """Blocks kept for a finished request are fetched, or not wanted; False when none are. `advance(now_s)` must
        have been played."""
        self._interrupt(now_s)
        found = self.model.let_go(request_id)
        if self.next_s == math.inf:
            self._begin(now_s)
        return found

    def advance(self, now_s: float) -> list[Outcome]:
        """Play all that ends by `now_s`. Steps that only bring one more token to everyone running are not reported,
        unless they changed what is resident."""
        outcomes: list[Outcome] = []
        while self.next_s <= now_s:
            at_s = self.next_s
            if self._ends:
                result = self.model.run_quiet(len(self._ends))
                self._ends = []
                if result.events:
                    outcomes.append(Outcome(at_s, result))
            elif self._result is not None:
                outcomes.append(Outcome(at_s, self._result))
                self._result = None
            self._begin(at_s)
        return outcomes

    def _begin(self, at_s: float) -> None:
        """Start what comes next."""
        self._start_s = at_s
        self._ends = self.model.quiet_steps()
        if self._ends:
            self.next_s = at_s + self._ends[-1]
            return
        result = self.model.step()
        self._result = result if result.steps else None
        self.next_s = at_s + result.duration_s if result.steps else math.inf

    def _interrupt(self, now_s: float) -> None:
        """Shorten a planned stretch to the steps that have begun by now."""
        if self._ends:
            del self._ends[bisect_right(self._ends, now_s - self._start_s) + 1 :]
            self.next_s = self._start_s + self._ends[-1]
