"""A policy that decides beside the live one: what it sees, what it keeps, and what it cannot do."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from invariants import check
from recorded_fleet import CHAIN, RecordedFleet

from pointsman.contract.registration import Role
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.registry import build_policy, build_policy_set
from pointsman.router.decide.dry_run import DryRun
from pointsman.router.decide.shadow import MAX_ERRORS, Shadow, ShadowPhase


def shadow_of(fleet: RecordedFleet, policy: str | dict[str, Any], sample: float = 1.0) -> Shadow:
    document = {"policy": policy} if isinstance(policy, str) else policy
    return fleet.core.trials.start_shadow(build_policy_set(document), sample=sample, author="", why="")


def talk(fleet: RecordedFleet, count: int = 40, **features: Any) -> list[str]:
    """Conversations, one request at a time, whose keys the engines report; where each request went."""
    went = []
    for number in range(count):
        request_id = f"r{len(fleet.log)}"
        given = {"keys": 1 + number % 20, "session": f"s{number % 7}"} | features
        home = fleet.ask(request_id, now_s=float(number), **given).first
        fleet.report(home, stored=list(CHAIN[: given["keys"]]))
        fleet.answer(request_id, home, now_s=number + 0.5)
        fleet.end(request_id, home, now_s=number + 0.6)
        went.append(home)
    return went


@pytest.mark.parametrize("live", ["kv_cost", "least_load", "session_affinity", "random", "lora_affinity"])
@pytest.mark.parametrize("beside", ["kv_cost", "random", "session_affinity", "round_robin", "lora_affinity"])
def test_a_shadow_changes_no_decision(live: str, beside: str) -> None:
    """With the same dice the same requests go to the same replicas, and the fleet is left in the same state."""
    went, states = [], []
    for shadow in ("", beside):
        fleet = RecordedFleet("a", "b", "c", policy=live)
        if shadow:
            shadow_of(fleet, shadow)
        went.append(talk(fleet))
        check(fleet.core)
        states.append((fleet.core.sessions.export(), fleet.core.load.in_flight.tolist(), len(fleet.core.requests)))
    assert went[0] == went[1]
    assert states[0] == states[1]


def test_the_live_policy_as_its_own_shadow_agrees_but_for_ties() -> None:
    """It sees what the live one sees, before anything of the decision is applied."""
    fleet = RecordedFleet("a", "b", "c", "d")
    shadow = shadow_of(fleet, "kv_cost")
    talk(fleet)
    total = shadow.comparison.total
    assert total.judged == total.predicted == 40
    assert total.moved == total.tied and total.made_ms == pytest.approx(total.other_ms)


def test_a_shadow_by_kv_is_told_of_prompts_under_a_policy_by_load() -> None:
    """Backlogs, conversations and expected keys are kept for every request meanwhile, so that its choices are what they
    would be; the record has its choice, and both predictions."""
    fleet = RecordedFleet("a", "b", policy="least_load")
    shadow = shadow_of(fleet, "kv_cost")
    talk(fleet, 20)
    assert shadow.comparison.total.predicted == 20
    assert len(fleet.core.kv.conversations.by_name) == 7
    assert shadow.comparison.total.other_cached >= shadow.comparison.total.made_cached > 0
    record = fleet.record("r15")
    assert record.shadow is not None and record.shadow.policy == "kv_cost"
    assert record.shadow.ttft_ms is not None and record.shadow.made_ttft_ms is not None
    assert record.shadow.ttft_ms <= record.shadow.made_ttft_ms
    assert record.predicted_cached >= 0
    view = fleet.view("r15", detail=False)
    assert view.policy.name == "least_load"  # type: ignore[union-attr]
    assert view.shadow.first == record.shadow.first  # type: ignore[union-attr]
    assert fleet.core.trials.stop_shadow("")
    fleet.ask("after")
    assert fleet.record("after").shadow is None and fleet.record("after").predicted_cached == -1


def test_a_shadow_by_sessions_finds_them_where_the_live_policy_sent_them() -> None:
    """Where their KV is, though nobody pins them; nobody else sees these pins."""
    fleet = RecordedFleet("a", "b", policy="random")
    shadow = shadow_of(fleet, "session_affinity")
    for number in range(40):
        fleet.ask(f"r{number}", session="s")
        fleet.end(f"r{number}")
    records = [fleet.record(f"r{number}") for number in range(40)]
    assert len({record.decision.first for record in records}) == 2
    for before, record in itertools.pairwise(records):
        assert record.shadow is not None and record.shadow.first == before.decision.first
    assert not len(fleet.core.sessions)
    assert shadow.comparison.by_reason.keys() == {"random"}


def test_a_shadow_begins_with_the_pins_of_the_fleet() -> None:
    """Sessions that are at home somewhere are so for the shadow, too."""
    fleet = RecordedFleet("a", "b", policy="session_affinity")
    for number in range(8):
        fleet.ask(f"before{number}", session=f"s{number}")
    shadow = shadow_of(fleet, {"policy": "session_affinity", "ttl_s": 60})
    for number in range(8):
        fleet.ask(f"after{number}", session=f"s{number}")
    assert (shadow.comparison.total.judged, shadow.comparison.total.moved) == (8, 0)


def test_a_share_of_requests_is_compared() -> None:
    """By dice of its own."""
    fleet = RecordedFleet()
    shadow = shadow_of(fleet, "random", sample=0.25)
    for number in range(400):
        fleet.ask(f"r{number}")
    assert 60 < shadow.asked == shadow.comparison.total.judged < 140
    assert shadow_of(fleet, "random", sample=0.0).asked == 0


def test_requests_that_the_live_policy_does_not_decide_are_not_compared() -> None:
    """Those that generate nothing, and those that nobody can serve."""
    fleet = RecordedFleet()
    shadow = shadow_of(fleet, "random")
    fleet.ask("embedding", generates=False)
    for name in ("a", "b"):
        fleet.core.replicas.remove(name)
    fleet.add("m", model="other")
    fleet.ask("unknown", model="nobody")
    assert shadow.asked == 0


def test_a_shadow_that_raises_is_switched_off_and_harms_nothing() -> None:
    """After a number of exceptions, with an event; each request has its decision."""
    fleet = RecordedFleet()
    news: list[str] = []
    fleet.core.on_trial_changed.append(lambda one: news.append(one.text))
    policy = build_policy({"policy": "random"})
    policy.rank = lambda *_: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    shadow = fleet.core.trials.start_shadow(PolicySet(policy), sample=1.0, author="ann", why="")
    for number in range(MAX_ERRORS + 5):
        assert fleet.ask(f"r{number}").first
    assert (shadow.state, shadow.errors, shadow.asked) == (ShadowPhase.FAILED, MAX_ERRORS, MAX_ERRORS)
    assert "10 exceptions, the last: ZeroDivisionError" in shadow.error
    assert news == ["policy random is the shadow", f"shadow policy random is switched off: {shadow.error}"]
    assert fleet.core.pipeline.watcher is None
    assert fleet.core.decision_metrics.lookup_errors == 0


def test_a_shadow_that_takes_too_long_is_switched_off() -> None:
    """Every lookup waits for it; one long pause is not enough."""
    fleet = RecordedFleet()
    took_s = iter([0.0, 0.05, *(s for n in range(1000) for s in (n, n + 0.01))])
    shadow = Shadow(
        build_policy_set({"policy": "random"}),
        replicas=fleet.core.replicas,
        sessions=fleet.core.sessions,
        stopwatch=lambda: next(took_s),
    )
    fleet.core.trials.shadow = shadow
    fleet.core.trials._connect()
    fleet.ask("pause")
    assert shadow.state is ShadowPhase.RUNNING
    for number in range(100):
        fleet.ask(f"r{number}")
    assert shadow.state is ShadowPhase.FAILED and shadow.asked < 100
    assert "most decisions take more than 5 ms" in shadow.error


def test_another_live_policy_begins_the_comparison_anew() -> None:
    """What was compared with the one before says nothing of it."""
    fleet = RecordedFleet()
    shadow = shadow_of(fleet, "random")
    fleet.ask("one")
    fleet.core.policy.put({"policy": "least_load"})
    assert shadow.comparison.total.judged == 0
    fleet.ask("two")
    assert (shadow.comparison.total.judged, shadow.asked) == (1, 1)
    assert fleet.core.pipeline.choice.live.main.name == "least_load"


def test_a_shadow_is_judged_as_a_pair_where_prefill_replicas_are() -> None:
    """And chooses no other prefill replica for the live policy."""
    chosen = []
    for beside in (False, True):
        fleet = RecordedFleet("p", policy="least_load")
        fleet.core.replicas.remove("p")
        for name, role in (("d1", Role.DECODE), ("d2", Role.DECODE), ("p1", Role.PREFILL), ("p2", Role.PREFILL)):
            fleet.add(name, role=role)
        shadow = shadow_of(fleet, "kv_cost") if beside else None
        chosen.append([(fleet.ask(f"r{n}", keys=30), n)[0].prefill for n in range(12)])
        if shadow is not None:
            assert shadow.comparison.total.predicted == 12
    assert chosen[0] == chosen[1]


def test_what_a_shadow_saw_can_be_tried_again() -> None:
    """A record made while signals were gathered for the shadow is judged by a document that needs them."""
    fleet = RecordedFleet("a", "b", policy="least_load")
    fleet.ask("before", keys=5)
    shadow_of(fleet, "kv_cost")
    fleet.ask("beside", keys=5)
    dry_run = DryRun(build_policy_set({"policy": "kv_cost"}))
    for record in [*fleet.log][::-1]:
        dry_run.judge(record)
    assert (dry_run.unjudged, dry_run.comparison.total.judged) == ({"not-gathered": 1}, 1)


def test_adapters_are_looked_up_for_a_shadow() -> None:
    """A shadow by adapters sees where they are loaded, and decisions of the live policy count as loads."""
    fleet = RecordedFleet("a", "b", policy="least_load")
    for name in ("a", "b"):
        fleet.core.replicas.remove(name)
        fleet.add(name, model="base", adapters=["poems"])
    shadow_of(fleet, "lora_affinity")
    first = fleet.ask("one", model="poems").first
    fleet.ask("two", model="poems")
    beside = fleet.record("two").shadow
    assert beside is not None and (beside.first, beside.reason) == (first, "lora-loaded")


def test_dice_of_the_fleet_are_not_touched() -> None:
    """The sequence of the live policy's draws is the same with a shadow as without."""
    for beside in (False, True):
        fleet = RecordedFleet("a", "b", "c", policy="random")
        if beside:
            shadow_of(fleet, "random")
        for number in range(10):
            fleet.ask(f"r{number}")
        drawn = fleet.core.pipeline._rng.random()
        if not beside:
            alone = drawn
    assert isinstance(fleet.core.pipeline._rng, random.Random) and drawn == alone
