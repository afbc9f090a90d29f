"""A policy on its way: who decides which session, and when more of them."""

from __future__ import annotations

from typing import Any

import pytest
from ring_line import line

from pointsman.contract.events import EngineEvents, FirstToken
from pointsman.policies.registry import build_policy_set
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.arms import Bounds
from pointsman.router.decide.live_policies import LivePolicies
from pointsman.router.decide.rollout import Plan, Rollout, RolloutState, Verdict
from pointsman.router.decide.shadow import Authorship
from pointsman.router.requests.end_line import decode_line

SESSIONS = [f"s{number}" for number in range(2000)]


class OnItsWay:
    """A rollout of `random` in place of `least_load`, and its requests."""

    def __init__(self, *steps: float, known: tuple[str, ...] = (), **plan: Any) -> None:
        self.live = LivePolicies(build_policy_set({"policy": "least_load"}), 1)
        self.candidate = LivePolicies(build_policy_set({"policy": "random"}), 2)
        self.rollout = Rollout(
            self.candidate,
            self.live,
            Plan(steps=steps or (0.1, 0.5), **({"step_s": 60.0, "min_requests": 20} | plan)),
            is_known=known.__contains__,
            put=Authorship(),
            now_s=0.0,
        )
        self.asked = 0

    def ask(self, session: str = "", request_id: str = "") -> str:
        """The policy that decides a request."""
        self.asked += 1
        features = RequestFeatures(request_id=request_id or f"r{self.asked}", session=session)
        return self.rollout.choose(features, 0.0).name

    def end(self, request_id: str, now_s: float = 1.0, **fields: Any) -> None:
        self.rollout.ended(decode_line(line(id=request_id, **fields)), now_s)

    def serve(self, count: int, **by_policy: dict[str, Any]) -> None:
        """Requests of new sessions that end; `by_policy` are fields of their lines."""
        for _ in range(count):
            name = self.ask(f"new{self.asked}")
            self.end(f"r{self.asked}", **({"ttft": "50"} | by_policy.get(name, {})))


def test_a_share_of_new_sessions_goes_to_the_candidate() -> None:
    """By their hash, so that any router with that rollout chooses the same ones; none moves between its requests."""
    first, second = OnItsWay(0.1), OnItsWay(0.1)
    chosen = [first.ask(session) for session in SESSIONS]
    assert 150 < chosen.count("random") < 250
    assert chosen == [second.ask(session) for session in SESSIONS]
    assert chosen == [first.ask(session) for session in SESSIONS]


def test_requests_without_a_session_go_by_their_own_hash() -> None:
    way = OnItsWay(0.5)
    chosen = [way.ask(request_id=f"q{number}") for number in range(2000)]
    assert 900 < chosen.count("random") < 1100
    assert way.ask(request_id="q1") == chosen[1]


def test_sessions_from_before_stay_with_the_live_policy() -> None:
    """They are not compared either."""
    way = OnItsWay(0.9, known=tuple(SESSIONS))
    assert {way.ask(session) for session in SESSIONS} == {"least_load"}
    assert way.rollout.not_compared == len(SESSIONS)
    way.end("r1")
    assert way.rollout.live_arm.requests == 0


def test_sessions_stay_where_they_began_when_the_share_grows() -> None:
    """New ones follow the new share; only these are compared from then on."""
    way = OnItsWay(0.1, 0.5)
    before = [way.ask(session) for session in SESSIONS]
    way.serve(300)
    assert way.rollout.step(61.0) is Verdict.STEPPED and way.rollout.share == 0.5
    assert [way.ask(session) for session in SESSIONS] == before
    assert way.rollout.not_compared == len(SESSIONS)
    after = [way.ask(f"later {session}") for session in SESSIONS]
    assert 900 < after.count("random") < 1100
    assert (way.rollout.live_arm.requests, way.rollout.candidate_arm.requests) == (0, 0)


def test_looking_is_not_deciding() -> None:
    """Explaining a request leaves no trace of its session."""
    way = OnItsWay(0.5)
    looked = [way.rollout.peek(RequestFeatures(request_id="x", session=s), 0.0).name for s in SESSIONS[:50]]
    assert [way.ask(session) for session in SESSIONS[:50]] == looked
    assert not OnItsWay(0.5).rollout._began


def test_a_rollout_that_keeps_its_bounds_becomes_live_step_by_step() -> None:
    """Each step lasts at least its time, and until enough requests have ended under both policies."""
    way = OnItsWay(0.1, 0.5)
    way.serve(300)
    assert way.rollout.step(30.0) is Verdict.GO_ON
    assert way.rollout.step(60.0) is Verdict.STEPPED
    way.serve(10)
    assert way.rollout.step(130.0) is Verdict.GO_ON
    assert "of 20 requests have ended under each policy" in way.rollout.waits_for
    way.serve(100)
    assert way.rollout.step(130.5) is Verdict.PROMOTE
    assert (way.rollout.state, way.rollout.share) == (RolloutState.PROMOTED, 1.0)


def test_a_policy_that_fails_requests_is_taken_back_before_its_step_is_over() -> None:
    """The reason has both shares."""
    way = OnItsWay(0.1)
    way.serve(150, random={"st": 502})
    assert way.rollout.step(5.0) is Verdict.RETURN
    assert (way.rollout.state, way.rollout.share) == (RolloutState.RETURNED, 0.0)
    assert way.rollout.why_ended == "100.0% of its requests failed, against 0.0% under the live policy"


def test_a_slow_policy_is_taken_back() -> None:
    """By HAProxy's measure where it has one."""
    way = OnItsWay(0.5)
    way.serve(100, random={"ttft": "150"})
    assert way.rollout.step(5.0) is Verdict.RETURN
    assert "time to first token is 3.00 times" in way.rollout.why_ended


def test_engines_words_count_where_haproxy_measures_nothing() -> None:
    """Before the end of the request or shortly after it; later, the request has no time."""
    way = OnItsWay(0.5)
    for number, (said_s, ended_s) in enumerate(((1.0, 2.0), (3.0, 2.0), (9.0, 2.0))):
        way.ask(f"s{number}", f"q{number}")
        for at_s, what in sorted(((said_s, "said"), (ended_s, "ended"))):
            way.rollout.step(at_s)
            if what == "said":
                way.rollout.report(EngineEvents(epoch="e", seq=1, first=[FirstToken(f"q{number}", 100, 0, 40.0)]))
            else:
                way.end(f"q{number}", now_s=at_s)
    arms = (way.rollout.live_arm, way.rollout.candidate_arm)
    assert sum(arm.requests for arm in arms) == 3
    assert sum(arm.measured for arm in arms) == 2


def test_without_any_times_errors_alone_decide() -> None:
    """As where endpoints report nothing and HAProxy does not measure."""
    way = OnItsWay(0.5)
    way.serve(200, random={"ttft": "-"}, least_load={"ttft": "-"})
    assert way.rollout.waits_for == ""
    assert way.rollout.step(61.0) is Verdict.PROMOTE


def test_times_of_one_policy_alone_are_waited_for() -> None:
    """A difference that nobody measured is none that is within bounds."""
    way = OnItsWay(0.5)
    way.serve(200, random={"ttft": "-"})
    assert "times to first token are known" in way.rollout.waits_for
    assert way.rollout.step(61.0) is Verdict.GO_ON


def test_each_end_counts_once() -> None:
    """Lines of requests that are not compared, and second lines, change nothing."""
    way = OnItsWay(0.5)
    way.ask("s", "q")
    for _ in range(3):
        way.end("q")
        way.end("nobody")
    assert way.rollout.live_arm.requests + way.rollout.candidate_arm.requests == 1


def test_a_rollout_that_is_over_remembers_no_session() -> None:
    way = OnItsWay(0.5)
    way.serve(10)
    way.rollout.end(RolloutState.ABORTED, "ann ended it")
    assert not way.rollout._began and not way.rollout._flying and way.rollout.live_arm.requests


@pytest.mark.parametrize("limit", ["MAX_SESSIONS", "MAX_FLYING"])
def test_what_is_remembered_is_bounded(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first."""
    monkeypatch.setattr(f"pointsman.router.decide.rollout.{limit}", 10)
    way = OnItsWay(0.5, bounds=Bounds())
    for number in range(50):
        way.ask(f"s{number}")
    assert len(way.rollout._began) == (10 if limit == "MAX_SESSIONS" else 50)
    assert len(way.rollout._flying) == (10 if limit == "MAX_FLYING" else 50)
