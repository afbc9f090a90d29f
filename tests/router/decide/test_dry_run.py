"""A document tried on past decisions."""

from __future__ import annotations

from typing import Any

import pytest
from recorded_fleet import CHAIN, RecordedFleet

from pointsman.policies.policy import Needs
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.registry import build_policy, build_policy_set
from pointsman.router.decide.dry_run import FAILED, NO_CANDIDATES, NOT_GATHERED, OTHER_POLICY, DryRun

STICKY = {"policy": "session_affinity"}


def tried(fleet: RecordedFleet, document: dict[str, Any]) -> DryRun:
    """The result of a document on all that was decided, oldest first."""
    dry_run = DryRun(build_policy_set(document))
    for record in [*fleet.log][::-1]:
        dry_run.judge(record)
    return dry_run


def busy_fleet(policy: str | dict[str, Any] = "kv_cost", count: int = 40) -> RecordedFleet:
    """Conversations on four replicas, one request at a time, whose keys the engines report."""
    fleet = RecordedFleet("a", "b", "c", "d", policy=policy)
    for number in range(count):
        home = fleet.ask(f"r{number}", keys=1 + number % 20, session=f"s{number % 7}", now_s=float(number)).first
        fleet.report(home, stored=list(CHAIN[: 1 + number % 20]))
        fleet.answer(f"r{number}", home, now_s=number + 0.5)
        fleet.end(f"r{number}", home, now_s=number + 0.6)
    return fleet


def test_the_document_that_decided_moves_nothing_but_ties() -> None:
    """It sees what it saw then, and its dice fall otherwise."""
    result = tried(busy_fleet(), {"policy": "kv_cost"}).comparison.total
    assert result.judged == result.predicted == 40
    assert result.moved == result.tied
    assert result.made_ms == pytest.approx(result.other_ms)


def test_another_document_is_judged_by_where_it_would_have_sent_each() -> None:
    """A policy that looks at nothing sends conversations away from their KV: fewer tokens cached, longer to the first
    token, and the moves say from where to where."""
    dry_run = tried(busy_fleet(), {"policy": "random"})
    result = dry_run.comparison.total
    assert result.judged == 40 and result.moved > 20
    assert result.other_cached < result.made_cached and result.other_ms > result.made_ms
    assert sum(dry_run.comparison.moves.values()) == result.moved
    assert sum(tally.judged for tally in dry_run.comparison.by_reason.values()) == 40
    assert set(dry_run.comparison.by_reason) <= {"kv-home", "kv-prefix", "kv-cold", "kv-moved"}


def test_the_same_records_have_the_same_answer() -> None:
    """The dice are seeded, and nothing of the live fleet is asked or changed."""
    fleet = busy_fleet()
    before = (len(fleet.core.requests), len(fleet.log), dict(fleet.core.decision_metrics.by_reason))
    one, other = (tried(fleet, {"policy": "power_of_two"}).comparison for _ in range(2))
    assert one.moves == other.moves and one.total.other_ms == other.total.other_ms
    assert (len(fleet.core.requests), len(fleet.log), dict(fleet.core.decision_metrics.by_reason)) == before


def test_what_is_predicted_is_what_happens_in_a_fleet_at_rest() -> None:
    """One request on two idle replicas, of which one holds its prompt: the arithmetic of one move."""
    fleet = RecordedFleet("a", "b")
    fleet.report("b", stored=list(CHAIN[:10]))
    assert fleet.ask("r", keys=10).first == "b"
    result = tried(fleet, {"policy": "least_load", "by": "requests"}).comparison
    if result.total.moved:
        tokens = fleet.record("r").predicted_cached
        # T(x) = 20 ms + 0.02 ms x of a replica that nobody measured: what is not cached takes 0.02 ms a token.
        assert result.total.other_ms - result.total.made_ms == pytest.approx(0.02 * tokens, abs=1.0)


@pytest.mark.parametrize(
    ("policy", "document", "missing"),
    [
        ("least_load", {"policy": "kv_cost"}, Needs.SESSION | Needs.PREFIX | Needs.KV),
        ("kv_cost", {"policy": "least_load", "by": "tokens"}, Needs.TOKENS),
    ],
)
def test_signals_that_were_not_gathered_leave_decisions_unjudged(
    policy: str, document: dict[str, Any], missing: Needs
) -> None:
    """A document that needs them would have decided by nothing."""
    dry_run = tried(busy_fleet(policy, 5), document)
    assert (dry_run.unjudged, dry_run.missing) == ({NOT_GATHERED: 5}, missing)
    assert dry_run.comparison.total.judged == 0


def test_sessions_that_nobody_pinned_are_where_their_latest_request_went() -> None:
    """Under a policy by KV, conversations tell where a session is at home; under another one, the earlier decisions do,
    and the first decision of each session cannot be judged."""
    by_kv = tried(busy_fleet(), {"policy": "session_affinity"})
    assert by_kv.comparison.total.judged == 40
    stayed = by_kv.comparison.by_reason["kv-home"]
    assert (stayed.judged, stayed.moved) == (stayed.judged, 0)
    by_load = tried(busy_fleet({"policy": "least_load", "models": {"chat": {"policy": "session_affinity"}}}), STICKY)
    assert by_load.unjudged == {NOT_GATHERED: 7} and by_load.missing == Needs.PIN
    assert by_load.comparison.total.judged == 33


def test_signals_that_another_models_policy_needed_count() -> None:
    """HAProxy read the sessions of all bodies for one of the two."""
    document = {"policy": "least_load", "models": {"chat": {"policy": "kv_cost"}}}
    fleet = RecordedFleet(policy=document)
    fleet.ask("r", session="s")
    assert tried(fleet, {"policy": "consistent_hash"}).comparison.total.judged == 1


def test_decisions_of_other_policies_and_of_none_are_not_judged() -> None:
    """Each with its cause."""
    fleet = RecordedFleet()
    for name in ("a", "b"):
        fleet.add(name, model="m")
    fleet.ask("unknown", model="nobody")
    fleet.ask("embedding", model="m", generates=False)
    fleet.end("alone", "a", reason="fail-open", routed="2")
    fleet.ask("judged", model="m")
    dry_run = tried(fleet, {"policy": "random"})
    assert dry_run.unjudged == {NO_CANDIDATES: 2, OTHER_POLICY: 1}
    assert dry_run.comparison.total.judged == 1


def test_refusals_are_choices() -> None:
    """Whoever would be refused moves there, and who was refused moves away from there."""
    full: dict[str, Any] = {"policy": "kv_cost", "admission": {"limit": 0.0001}}
    fleet = RecordedFleet("a")
    fleet.ask("first", keys=20, session="s")
    fleet.ask("second", keys=20, session="t")
    dry_run = tried(fleet, full)
    assert dry_run.comparison.moves == {("a", "(refused)"): 1}, "the first one of all evicts nobody"
    fleet.core.policy.put(full)
    assert fleet.ask("third", keys=20, session="u").status == 429
    dry_run = DryRun(build_policy_set({"policy": "kv_cost"}))
    dry_run.judge(fleet.record("third"))
    assert dry_run.comparison.moves == {("(refused)", "a"): 1}
    assert dry_run.comparison.total.predicted == 0


def test_policies_by_model_are_asked_by_model() -> None:
    fleet = busy_fleet()
    fleet.ask("chat", keys=3, model="chat")
    dry_run = tried(fleet, {"policy": "random", "models": {"chat": {"policy": "least_load", "by": "tokens"}}})
    assert (dry_run.unjudged, dry_run.comparison.total.judged) == ({NOT_GATHERED: 1}, 40)


def test_a_large_fleet_is_judged_by_the_candidates_that_were_kept() -> None:
    """And the answer says of how many decisions that is so."""
    fleet = RecordedFleet(*(f"r{number}" for number in range(80)))
    for number in range(3):
        fleet.ask(f"q{number}", keys=5)
    dry_run = tried(fleet, {"policy": "consistent_hash"})
    assert (dry_run.partial, dry_run.comparison.total.judged) == (3, 3)


def test_a_ring_is_built_for_the_replicas_of_each_decision() -> None:
    """A policy keeps what it built for one membership, and a past one is not mistaken for another."""
    fleet = RecordedFleet("a", "b", policy="consistent_hash")
    for number in range(8):
        fleet.ask(f"before{number}", session=f"s{number}")
    fleet.add("c")
    for number in range(8):
        fleet.ask(f"after{number}", session=f"s{number}")
    result = tried(fleet, {"policy": "consistent_hash"}).comparison.total
    assert (result.judged, result.moved) == (16, 0)


def test_a_policy_that_raises_is_counted() -> None:
    """The first exception is told."""
    policy = build_policy({"policy": "random"})
    policy.rank = lambda *_: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    dry_run = DryRun(PolicySet(policy))
    for record in busy_fleet(count=3).log:
        dry_run.judge(record)
    assert dry_run.unjudged == {FAILED: 3}
    assert dry_run.error == "ZeroDivisionError: division by zero"
