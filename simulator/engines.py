"""Engines of a fleet on one clock: each is looked at again when its next step ends.

Whoever asks an engine for something plays its steps up to that moment first, so that the answer is that of the moment.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pointsman.engine.sim.model import SimRequest, StepResult
from pointsman.simulator.clock import VirtualClock
from pointsman.simulator.replica import VirtualReplica

Stepped = Callable[[VirtualReplica, StepResult, float], None]
"""Told of each step: replica, outcome and end of the step in seconds."""


class Engines:
    """The clock of a fleet's replicas."""

    def __init__(self, clock: VirtualClock, stepped: Stepped) -> None:
        self._clock = clock
        self._stepped = stepped

    def add(self, replica: VirtualReplica, sent: SimRequest, now_s: float) -> None:
        """Send a request to a replica."""
        self.play(replica, now_s)
        replica.add(sent, now_s)
        self._wake(replica)

    def abort(self, replica: VirtualReplica, request_id: str, now_s: float) -> None:
        """Drop a request, or the blocks that are kept for it."""
        self.play(replica, now_s)
        replica.abort(request_id, now_s)
        self._wake(replica)

    def let_go(self, replica: VirtualReplica, life: int, request_id: str, now_s: float) -> bool:
        """Fetch the blocks that an engine keeps for a leg; False when they, or the engine of that life, are gone."""
        self.play(replica, now_s)
        kept = replica.lives == life and replica.let_go(request_id, now_s)
        self._wake(replica)
        return kept

    def play(self, replica: VirtualReplica, now_s: float) -> None:
        """Play the steps of a replica that end by now."""
        for outcome in replica.advance(now_s):
            self._stepped(replica, outcome.result, outcome.at_s)

    def _wake(self, replica: VirtualReplica) -> None:
        """Look at the replica again when its next step ends."""
        next_s = replica.next_s
        if next_s != float("inf") and (replica.wake_s is None or next_s < replica.wake_s):
            replica.wake_s = next_s
            self._clock.at(next_s, partial(self._look, replica))

    def _look(self, replica: VirtualReplica, now_s: float) -> None:
        if replica.wake_s == now_s:
            replica.wake_s = None
        if replica.up:
            self.play(replica, now_s)
            self._wake(replica)
