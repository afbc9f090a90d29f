"""What the log of events says of replicas, edges and the policy."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from pointsman.contract.registration import Registration
from pointsman.router.core import Core
from pointsman.router.fleet.replica import Health
from pointsman.router.journal.events import EventLog
from pointsman.router.outliers.answers import Verdict
from pointsman.router.process.slices import SLICE_REPLICAS
from pointsman.router.watch.states import EACH_MAX, NAMED_MAX, StateWatch


class Watched:
    """A core with replicas, its log, and who looks."""

    def __init__(self, *replicas: str, peers: Any = None) -> None:
        self.core = Core({"policy": "least_load"}, rng=random.Random(1))
        self.events = EventLog(wall=lambda: 0.0)
        self.watch = StateWatch(self.core, self.events, peers)
        self.register(*replicas)

    def register(self, *replicas: str, ttl_s: float | None = None) -> None:
        for replica in replicas:
            registration = Registration(url="http://127.0.0.1:9", ttl_s=ttl_s)
            self.core.replicas.put(replica, registration, ("127.0.0.1", 9), 0.0)

    def look(self, *expired: str) -> list[str]:
        """What the log says since the last look."""
        seen = len(self.events)
        for _ in self.watch.look(expired):
            pass
        return [event.text for event in list(self.events)[seen:]]


def test_each_state_of_a_replica_is_said_once() -> None:
    """From its registration to its end; a look without a change says nothing."""
    watched = Watched("a", "b")
    assert watched.look() == ["a registered, up", "b registered, up"]
    assert watched.look() == []
    watched.core.replicas.set_health("a", Health.DOWN, 0.0)
    assert watched.look() == ["a is down: HAProxy's checks fail"]
    watched.core.replicas.set_health("a", Health.UP, 0.0)
    assert watched.look() == ["a is up"]
    watched.core.replicas.drain("a", 0.0)
    assert watched.look() == ["a is draining"]
    watched.core.replicas.remove("a")
    assert watched.look() == ["a left"]


def test_an_ejection_says_why_and_when_it_is_over() -> None:
    """How many answers failed and how; later, that a probe was answered."""
    watched = Watched("a", "b", "c")
    watched.look()
    outliers = watched.core.outliers
    for number in range(5):
        outliers.ended(f"r{number}", "a", Verdict.ERROR, 1.0, lasted_s=0.1)
    assert watched.look() == ["a is ejected after 5 failed answers (error)"]
    event = list(watched.events)[-1]
    assert (event.replica, event.before, event.state, event.cause) == ("a", "up", "ejected", "error")
    watched.core.replicas.set_ejected("a", False, 0.0)
    assert watched.look() == ["a is back: a probe was answered well"]


def test_a_lease_that_ended_is_the_reason_of_leaving() -> None:
    """It is the same event."""
    watched = Watched()
    watched.register("a", ttl_s=1.0)
    watched.look()
    swept = watched.core.sweep(5.0)
    assert watched.look(*swept.leases) == ["a left: its lease ended"]


def test_a_fleet_that_comes_at_once_is_one_event() -> None:
    """It does not push everything else out of the log."""
    watched = Watched(*(f"r-{number:03}" for number in range(EACH_MAX + 1)))
    (said,) = watched.look()
    assert said.startswith(f"{EACH_MAX + 1} replicas registered, up: r-000, ") and said.endswith(" and others")
    assert said.count("r-0") == NAMED_MAX
    for replica in list(watched.core.replicas):
        watched.core.replicas.set_health(replica.id, Health.DOWN, 0.0)
    (said,) = watched.look()
    assert said.startswith(f"{EACH_MAX + 1} replicas are down")


def test_a_fleet_that_does_not_change_is_not_looked_at() -> None:
    """Of one that does, each item of the iterator is one slice, so that lookups get in between."""
    watched = Watched(*(f"r-{number}" for number in range(3 * SLICE_REPLICAS)))
    assert len(list(watched.watch.look())) == 3
    assert len(list(watched.watch.look())) == 0
    watched.core.replicas.set_ejected("r-1", True, 0.0)
    assert len(list(watched.watch.look())) == 3


def test_a_policy_that_goes_live_is_an_event_at_once() -> None:
    """With its version; a dry run is none."""
    watched = Watched()
    watched.core.policy.put({"policy": "random"}, dry_run=True)
    assert len(watched.events) == 0
    watched.core.policy.put({"policy": "random"})
    (event,) = watched.events
    assert (event.kind, event.policy, event.version) == ("policy", "random", watched.core.policy.etag)


def test_edges_join_and_leave() -> None:
    """One that was met and is not heard yet has not joined; one that is forgotten says nothing more."""
    peer = SimpleNamespace(info=SimpleNamespace(edge="e2", name="edge-2"), alive=False)
    peers = [peer]
    watched = Watched(peers=peers)
    assert watched.look() == []
    peer.alive = True
    assert watched.look() == ["edge-2 joined"]
    peer.alive = False
    assert watched.look() == ["edge-2 left, or fell silent"]
    peers.clear()
    assert watched.look() == []
