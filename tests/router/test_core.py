"""The router without sockets: what it wires, and what a sweep ends."""

from __future__ import annotations

import random

import pytest
from invariants import check

from pointsman.contract.events import EngineEvents, Finished, FirstToken
from pointsman.contract.registration import Registration
from pointsman.policies.decision import Reason
from pointsman.policies.errors import PolicyError
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import (
    EVENTS_INTERVAL_MS,
    IDLE_EVENTS_INTERVAL_MS,
    STALL_S,
    Core,
    CoreConfig,
)
from pointsman.router.settings import LimitSettings


def make_core(policy: str = "kv_cost", *, config: CoreConfig | None = None) -> Core:
    return Core({"policy": policy}, rng=random.Random(1), config=config or CoreConfig())


def register(core: Core, name: str, *, now_s: float = 0.0, ttl_s: float | None = None, born_ms: int = 0) -> int:
    registration = Registration(url="http://10.0.0.1:1", ttl_s=ttl_s, born_ms=born_ms)
    return core.replicas.put(name, registration, ("10.0.0.1", 1), now_s).slot


def report(core: Core, name: str, seq: int = 0, *, now_s: float = 0.0, born_ms: int = 0, **events: object):
    message = EngineEvents(epoch="e", seq=seq, snapshot=not seq, born_ms=born_ms, **events)  # type: ignore[arg-type]
    return core.engine_events(name, message, now_s)


def test_a_request_lives_from_its_decision_to_its_line() -> None:
    """Reserved and in front of others, computed, answered, over: each table hears of each step."""
    core = make_core()
    slot = register(core, "a")
    report(core, "a", capacity_tokens=10_000)
    decision = core.decide(RequestFeatures(request_id="r", session="s", body_bytes=4000), 0.0)
    assert decision.first == "a"
    assert (core.load.in_flight[slot], core.kv.columns.signals.waiting[slot]) == (1, 1000)
    report(core, "a", 1, now_s=1.0, first=[FirstToken("r", 900, 0, 30.0)])
    assert (core.load.in_flight[slot], core.kv.columns.signals.waiting[slot]) == (1, 0)
    report(core, "a", 2, now_s=2.0, finished=[Finished("r", 900, 50)])
    assert core.load.in_flight[slot] == 1, "until HAProxy's line"
    core.end_of_request.apply(b'{"ev":"end","id":"r","srv":"a","first":"a","st":200,"tr":1,"ta":9,"routed":"1"}', 2.0)
    assert core.load.in_flight[slot] == 0 and len(core.requests) == 0
    known = core.kv.conversations.by_name.get("s")
    assert known is not None and (known.slot, known.tokens) == (slot, 950)
    check(core)


def test_whoever_follows_a_slot_sees_it_whole() -> None:
    """Added once every table has it, removed while every table still has it."""
    core, seen = make_core(), []
    core.on_slot_added.append(lambda slot: seen.append(("added", len(core.kv.cursors[slot].past))))
    core.on_slot_removed.append(lambda slot: seen.append(("removed", int(core.load.in_flight[slot]))))
    slot = register(core, "a")
    core.decide(RequestFeatures(request_id="r"), 0.0)
    core.replicas.remove("a")
    assert seen == [("added", 0), ("removed", 1)]
    assert core.load.in_flight[slot] == 0
    core.requests.end("r", 1.0)
    check(core)


def test_changes_of_registry_and_policy_are_called_out() -> None:
    """To all that asked, each on its own list."""
    core, calls = make_core(), []
    core.on_registry_changed.append(lambda: calls.append("registry"))
    core.on_policy_changed += [lambda: calls.append("policy"), lambda: calls.append("policy again")]
    register(core, "a")
    core.policy.put({"policy": "random"})
    assert calls == ["registry", "policy", "policy again"]


def test_a_message_renews_the_lease_and_is_answered_with_its_pace() -> None:
    """Often while the policy goes by KV; not of an earlier incarnation, and not of a stranger."""
    core = make_core()
    core.feed_port = 7
    register(core, "a", ttl_s=10.0, born_ms=5)
    answer = report(core, "a", now_s=8.0, born_ms=5)
    assert answer is not None
    assert (answer.resync, answer.interval_ms, answer.feed_port, answer.renewed) == (False, EVENTS_INTERVAL_MS, 7, True)
    core.policy.put({"policy": "random"})
    late = report(core, "a", 1, now_s=9.0, born_ms=4)
    assert late is not None and (late.interval_ms, late.renewed) == (IDLE_EVENTS_INTERVAL_MS, False)
    assert report(core, "stranger") is None
    assert core.sweep(17.9).leases == [] and core.sweep(18.0).leases == ["a"]


def test_a_sweep_ends_what_is_overdue() -> None:
    """Leases unless somebody vouches for the replica, and requests whose end never arrived."""
    core = make_core(config=CoreConfig(limits=LimitSettings(reservation_ttl_s=5.0)))
    register(core, "a", ttl_s=1.0)
    for request, at_s in (("r", 0.0), ("q", 1.0)):
        core.decide(RequestFeatures(request_id=request), at_s)
    swept = core.sweep(1.0, lambda replica: replica.id == "a")
    assert (swept.leases, swept.reservations) == ([], 0)
    for at_s, ended in ((2.0, 0), (3.0, 0), (4.0, 0), (5.0, 1), (6.0, 1)):
        assert core.sweep(at_s, lambda replica: True).reservations == ended
    assert (len(core.requests), core.load.expired) == (0, 2)
    assert core.sweep(7.0).leases == ["a"]
    check(core)


def test_a_process_that_was_stopped_takes_no_replica_for_dead() -> None:
    """Heartbeats of that time lie unread: leases last as much longer as nothing was swept."""
    core = make_core()
    register(core, "a", ttl_s=10.0)
    core.sweep(0.0)
    stopped_s = 10.0 + STALL_S
    ended = {at_s: core.sweep(at_s).leases for at_s in (stopped_s + after_s for after_s in range(11))}
    assert [at_s for at_s, leases in ended.items() if leases] == [10.0 + stopped_s]


def test_a_document_of_no_policy_is_refused() -> None:
    """Before anything is wired to it; policies that are not installed may be handed over."""
    with pytest.raises(PolicyError):
        make_core("none such")
    core = make_core("round_robin")
    assert core.decide(RequestFeatures(request_id="r"), 0.0).reason is Reason.NO_CANDIDATES
