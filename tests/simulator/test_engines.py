"""Replicas on one clock: steps, fetched blocks and deaths."""

from __future__ import annotations

import pytest
from sim_trace import make_session, make_trace, make_turn

from pointsman.engine.sim.model import SimRequest, StepResult
from pointsman.engine.sim.timing import DENSE_H100
from pointsman.simulator.clock import VirtualClock
from pointsman.simulator.engines import Engines
from pointsman.simulator.replica import VirtualReplica
from pointsman.simulator.settings import FleetSettings

TRACE = make_trace(make_session("s", 0.0, make_turn(1_000, 3)))


class World:
    """One replica, and the ends of what it was asked for, in seconds."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.replica = VirtualReplica(0, FleetSettings(replicas=1, kv_tokens=4_096), TRACE)
        self.engines = Engines(self.clock, self._stepped)
        self.ended_s: dict[str, float] = {}

    def _stepped(self, replica: VirtualReplica, result: StepResult, at_s: float) -> None:
        self.ended_s |= dict.fromkeys(result.finished, at_s)

    def send(self, request_id: str, at_s: float, *, output: int = 1, kept: bool = False) -> None:
        turn = TRACE.sessions[0].turns[0]
        sent = SimRequest(request_id, turn.prompt_tokens, output, turn.blocks[:15], kept=kept)
        self.clock.at(at_s, lambda now_s: self.engines.add(self.replica, sent, now_s))


def test_a_replica_is_looked_at_when_its_step_ends() -> None:
    """A prompt of 1,000 tokens with one token of answer takes one step."""
    world = World()
    world.send("a", 2.0)
    world.clock.run()
    assert world.ended_s == {"a": pytest.approx(2.0 + DENSE_H100.prefill_s(1_000))}


def test_an_aborted_request_does_not_end() -> None:
    world = World()
    world.send("a", 0.0, output=3)
    world.clock.at(0.001, lambda now_s: world.engines.abort(world.replica, "a", now_s))
    world.clock.run()
    assert not world.ended_s


@pytest.mark.parametrize(("life", "found"), [(1, True), (2, False)])
def test_blocks_of_a_leg_are_fetched_once_from_the_engine_that_kept_them(life: int, found: bool) -> None:
    """Another life of the replica has none of them."""
    world = World()
    world.send("leg", 0.0, kept=True)
    fetched: list[bool] = []
    for at_s in (1.0, 2.0):
        world.clock.at(at_s, lambda now_s: fetched.append(world.engines.let_go(world.replica, life, "leg", now_s)))
    world.clock.run()
    assert fetched == [found, False]
