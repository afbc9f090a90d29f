"""Trials in a fleet: a rollout that is promoted, taken back, ended or overtaken, and what it leaves behind."""

from __future__ import annotations

from typing import Any

from invariants import check
from recorded_fleet import RecordedFleet

from pointsman.policies.registry import build_policy_set
from pointsman.router.decide.arms import Bounds
from pointsman.router.decide.rollout import Plan, Rollout, RolloutState


class TriedFleet(RecordedFleet):
    """A fleet that rolls a policy out."""

    def __init__(self, policy: str | dict[str, Any] = "least_load") -> None:
        super().__init__("a", "b", policy=policy)
        self.news: list[str] = []
        self.core.on_trial_changed.append(lambda news: self.news.append(news.text))
        self.requests = 0

    def roll_out(self, document: dict[str, Any], *steps: float, now_s: float = 0.0) -> Rollout:
        plan = Plan(steps=steps or (0.5,), step_s=10.0, min_requests=20, bounds=Bounds())
        return self.core.trials.start_rollout(build_policy_set(document), plan, now_s, author="ann", why="faster")

    def serve(self, count: int, at_s: float, **by_policy: dict[str, Any]) -> list[str]:
        """New sessions, one request each; the policies that decided."""
        decided = []
        for _ in range(count):
            self.requests += 1
            name = f"q{self.requests}"
            home = self.ask(name, keys=3, session=f"new{self.requests}", now_s=at_s).first
            decided.append(self.record(name).policy)
            self.answer(name, home, now_s=at_s)
            self.end(name, home, now_s=at_s, **({"ttft": "50"} | by_policy.get(decided[-1], {})))
        return decided


def test_a_promoted_policy_is_live_as_by_a_person() -> None:
    """A revision with the author of the rollout, and the signals of a live policy: nothing of the rollout is left."""
    fleet = TriedFleet()
    fleet.roll_out({"policy": "kv_cost"})
    decided = fleet.serve(100, 1.0)
    assert 30 < decided.count("kv_cost") < 70
    fleet.core.sweep(11.0)
    live = fleet.core.policy.revision
    assert (fleet.core.policy.document["policy"], live.author, live.why) == (
        "kv_cost",
        "ann",
        "rollout promoted: faster",
    )
    assert (live.revision, fleet.core.policy.history.get(2).live) == (3, False)  # type: ignore[union-attr]
    assert not fleet.core.trials.rolls_out and fleet.core.pipeline.watcher is None
    assert fleet.core.end_of_request.watcher is None and fleet.core.pipeline.choice.chooser is None
    assert fleet.serve(5, 12.0) == ["kv_cost"] * 5
    assert fleet.news == [
        "rollout of policy kv_cost decides 50% of new sessions: faster",
        "rollout of policy kv_cost is over: it is live",
    ]
    check(fleet.core)


def test_decisions_of_both_are_explained_by_the_policy_that_made_them() -> None:
    """The document that is tried has a revision of its own."""
    fleet = TriedFleet("kv_cost")
    rollout = fleet.roll_out({"policy": "kv_cost", "tie_ms": 500.0})
    fleet.serve(20, 1.0)
    revisions = {record.revision for record in fleet.log}
    assert revisions == {1, rollout.candidate.revision}
    for record in fleet.log:
        view = fleet.views.view(record, 0.0, detail=True)
        chosen = view.candidates[0]  # type: ignore[index]
        assert chosen.score is not None and abs(chosen.score - view.score) < 0.01  # type: ignore[operator]


def test_a_policy_that_is_taken_back_leaves_the_live_one() -> None:
    """All sessions are the live policy's again, those that had begun under the other too."""
    fleet = TriedFleet()
    rollout = fleet.roll_out({"policy": "random"})
    fleet.serve(60, 1.0, random={"st": 500})
    fleet.core.sweep(2.0)
    assert rollout.state is RolloutState.RETURNED
    assert fleet.core.policy.document["policy"] == "least_load" and fleet.core.policy.revision.revision == 1
    assert set(fleet.serve(40, 3.0)) == {"least_load"}
    assert fleet.news[-1].startswith("rollout of policy random returned: 100.0% of its requests failed")


def test_more_sessions_follow_step_by_step() -> None:
    """Each step is told."""
    fleet = TriedFleet()
    rollout = fleet.roll_out({"policy": "random"}, 0.3, 0.7)
    fleet.serve(150, 1.0)
    fleet.core.sweep(11.0)
    assert rollout.share == 0.7 and "random decides 70% of new sessions" in fleet.news[-1]
    assert fleet.serve(100, 12.0).count("random") > 55


def test_a_rollout_is_ended_by_a_person_or_by_another_policy() -> None:
    """The live policy stays, or is the one that was put."""
    fleet = TriedFleet()
    first = fleet.roll_out({"policy": "random"})
    assert fleet.core.trials.stop_rollout("bob")
    assert (first.state, first.why_ended) == (RolloutState.ABORTED, "bob ended it")
    assert not fleet.core.trials.stop_rollout("bob")
    second = fleet.roll_out({"policy": "random"})
    fleet.core.policy.put({"policy": "round_robin"})
    assert (second.state, second.why_ended) == (RolloutState.OVERTAKEN, "another policy went live")
    assert set(fleet.serve(10, 1.0)) == {"round_robin"}


def test_conversations_are_kept_for_a_policy_by_kv_under_one_by_load() -> None:
    """Of all requests: the backlog that the candidate sees is that of the replica, not that of its own share."""
    fleet = TriedFleet()
    fleet.roll_out({"policy": "kv_cost"}, 0.2)
    decided = [
        fleet.ask(f"q{number}", keys=3, session=f"s{number}") and fleet.record(f"q{number}") for number in range(40)
    ]
    assert {record.policy for record in decided} == {"least_load", "kv_cost"}
    assert len(fleet.core.kv.conversations.by_name) == 40
    assert all(record.kept is not None and record.kept.table for record in decided)


def test_sessions_that_were_here_before_stay() -> None:
    """Known by their conversation or by their pin."""
    for policy in ("kv_cost", "session_affinity"):
        fleet = TriedFleet(policy)
        for number in range(30):
            fleet.ask(f"old{number}", keys=3, session=f"s{number}")
        rollout = fleet.roll_out({"policy": "random"}, 0.9)
        for number in range(30):
            fleet.ask(f"again{number}", keys=3, session=f"s{number}")
            assert fleet.record(f"again{number}").policy == policy
        assert rollout.not_compared == 30


def test_pins_of_the_candidate_last_as_long_as_it_wants() -> None:
    """Though the live policy makes none."""
    fleet = TriedFleet()
    fleet.roll_out({"policy": "session_affinity", "ttl_s": 7200.0}, 0.9)
    for number in range(20):
        fleet.ask(f"q{number}", session=f"s{number}")
    pinned = len(fleet.core.sessions)
    assert pinned > 10
    fleet.core.sweep(7000.0)
    assert len(fleet.core.sessions) == pinned


def test_a_shadow_is_compared_with_the_live_policy_alone() -> None:
    """Not with the one that is rolled out meanwhile."""
    fleet = TriedFleet()
    shadow = fleet.core.trials.start_shadow(build_policy_set({"policy": "random"}), sample=1.0, author="", why="")
    fleet.roll_out({"policy": "round_robin"})
    decided = fleet.serve(40, 1.0)
    assert shadow.comparison.total.judged == decided.count("least_load") < 40
