"""Routers of a fleet: what reaches each, and when."""

from __future__ import annotations

import pytest
from sim_trace import make_session, make_trace, make_turn

from pointsman.contract.events import EngineEvents
from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.requests.hold_queue import Held
from pointsman.simulator.clock import VirtualClock
from pointsman.simulator.edge import Placed
from pointsman.simulator.replica import VirtualReplica
from pointsman.simulator.routers import VirtualRouters
from pointsman.simulator.settings import FleetSettings

TRACE = make_trace(make_session("s", 0.0, make_turn(1_000, 24)))
FEATURES = RequestFeatures(request_id="q1", session="s", body_bytes=4_000)


class World:
    """Some routers over two replicas."""

    def __init__(self, **given: object) -> None:
        settings = FleetSettings(replicas=2, kv_tokens=100_000, **given)  # type: ignore[arg-type]
        self.clock = VirtualClock()
        self.replicas = [VirtualReplica(index, settings, TRACE) for index in range(2)]
        self.routers = VirtualRouters({"policy": "least_load"}, self.replicas, settings, self.clock, self._late, seed=1)

    def _late(self, held: Held, decision: Decision, now_s: float) -> None:
        raise AssertionError("nothing is held")

    def loads_at(self, at_s: float) -> list[list[int]]:
        """Loads that routers count at a moment, filled in once the clock has run."""
        seen: list[list[int]] = []
        self.clock.at(at_s, lambda now_s: seen.extend([len(edge.load)] for edge in self.routers.edges))
        return seen


@pytest.mark.parametrize(("sync_s", "other"), [(0.01, 1), (None, 0)])
def test_a_decision_reaches_other_routers_after_the_delay(sync_s: float | None, other: int) -> None:
    """At once at the router that decides, never at the others where nothing is shared."""
    world = World(routers=2, sync_s=sync_s)
    decision = world.routers.ask(0, FEATURES, 0.0)
    assert isinstance(decision, Decision)
    world.routers.placed(0, Placed(FEATURES, int(decision.first[1:]), decision.first), 0.0)
    before, after = world.loads_at(0.005), world.loads_at(0.02)
    world.clock.at(0.03, lambda now_s: world.routers.ended(0, "q1", now_s))
    ended, everywhere = world.loads_at(0.035), world.loads_at(0.05)
    world.clock.run()
    assert (before, after) == ([[1], [0]], [[1], [other]])
    assert (ended, everywhere) == ([[0], [other]], [[0], [0]])


def test_reports_of_an_engine_that_died_do_not_arrive() -> None:
    """A report under way when the replica restarts belongs to a life that is over."""
    world = World(routers=1, event_lag_s=1.0)
    replica = world.replicas[0]
    world.routers.report(replica, EngineEvents(epoch="1", seq=1, stored=[7]), 0.0)
    replica.restart()
    world.routers.back(replica, 0.5)
    world.clock.run()
    assert len(world.routers.edges[0].kv.index) == 0


def test_a_replica_that_is_down_is_not_named() -> None:
    """Until its check passes again."""
    world = World(routers=1)
    world.routers.down(world.replicas[0], 0.0)
    named = {world.routers.ask(0, RequestFeatures(request_id=f"q{n}"), 0.0).first for n in range(8)}  # type: ignore[union-attr]
    assert named == {"r1"}
    world.routers.back(world.replicas[0], 1.0)
    assert world.routers.ask(0, RequestFeatures(request_id="last"), 1.0).first == "r0"  # type: ignore[union-attr]
