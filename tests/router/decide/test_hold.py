"""The pipeline where requests wait: who is held, whose turn it is, and when the wait is over."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import pytest
from invariants import check

from pointsman.contract.events import EngineEvents, Finished
from pointsman.contract.registration import Registration
from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Decision, Ranked, Reason, Refusal
from pointsman.policies.policy import Context, PlainPolicy, PolicyConfig
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.registry import build_policy
from pointsman.policies.request import BATCH, RequestFeatures
from pointsman.router.core import Core, CoreConfig
from pointsman.router.decide.hold import MAX_TURNS, NO_REPLICA_S
from pointsman.router.fleet.replica import Health
from pointsman.router.kv.conversations import CONVERSATION_TTL_S
from pointsman.router.requests.hold_queue import Held, HoldQueue, Outcome
from pointsman.router.settings import LimitSettings

WAIT_S = 10.0
TOKENS = 1000
"""Of KV, and of its only replica: room for ten prompts of 100."""


def admission(**given: object) -> dict[str, Any]:
    return {"policy": "kv_cost", "admission": {"limit": 1.0, "wait_s": WAIT_S, "retry_after_s": 3, **given}}


class Edge:
    """A pipeline whose replicas have room for `TOKENS` tokens each."""

    def __init__(self, *replicas: str, max_held: int = 100, **given: object) -> None:
        self.core = Core(
            admission(**given), rng=random.Random(7), config=CoreConfig(limits=LimitSettings(max_held=max_held))
        )
        self.load = self.core.load
        self.kv = self.core.kv
        self.metrics = self.core.decision_metrics
        self.replicas = self.core.replicas
        self.pipeline = self.core.pipeline
        for replica in replicas or ("only",):
            self.put(replica)

    @property
    def holds(self) -> HoldQueue:
        return self.pipeline.holds

    def put(self, replica: str, model: str = "", adapters: tuple[str, ...] = ()) -> None:
        registration = Registration(url="http://127.0.0.1:8000", model=model, adapters=list(adapters))
        slot = self.replicas.put(replica, registration, ("127.0.0.1", 8000), 0.0).slot
        self.has_room(slot, TOKENS)

    def has_room(self, slot: int, tokens: int) -> None:
        self.kv.columns.set_capacity(slot, tokens)

    def fill(self, model: str = "") -> None:
        """A conversation takes all the KV there is."""
        assert self.ask("full", TOKENS, session="full", model=model).first

    def features(self, request: str, tokens: int, **given: object) -> RequestFeatures:
        given.setdefault("session", f"session of {request}")
        return RequestFeatures(request_id=request, body_bytes=4 * tokens, **given)  # type: ignore[arg-type]

    def ask(self, request: str, tokens: int = 100, now_s: float = 0.0, **given: object) -> Decision:
        """A lookup."""
        return self.pipeline.decide(self.features(request, tokens, **given), now_s)

    def hold(self, request: str, tokens: int = 100, now_s: float = 0.0, **given: object) -> Held | Decision:
        """The lookup of a request that was told to wait."""
        return self.core.hold(self.features(request, tokens, **given), now_s)

    def make_room(self) -> None:
        """What `fill` began is over, and long ago."""
        self.core.requests.end("full", 0.0)
        self.kv.conversations.expire(CONVERSATION_TTL_S + 1.0)

    def step(self, now_s: float = 1.0) -> dict[str, Decision]:
        """Who waits no longer, and what they are told."""
        answers = {held.features.request_id: decision for held, decision in self.core.step_held(now_s)}
        check(self.holds)
        check(self.core)
        return answers


def test_without_room_a_request_should_wait() -> None:
    """The answer says for how long; nothing is decided, so nothing is reserved, placed or counted."""
    edge = Edge()
    edge.fill()
    waits = edge.ask("1")
    assert waits == Decision(Reason.ADMISSION, status=429, retry_after_s=3, hold_ms=10_000)
    assert len(edge.load) == 1
    assert len(edge.holds) == 0
    assert edge.metrics.by_reason["kv_cost", Reason.ADMISSION] == 0


def test_the_first_in_the_queue_is_not_behind_itself() -> None:
    """With room there is nothing to wait for, though somebody waits: the asking one."""
    edge = Edge()
    edge.fill()
    edge.hold("1")
    edge.make_room()
    assert edge.step()["1"].first == "only"


def test_room_that_came_between_the_two_questions_is_taken() -> None:
    """Told to wait, and when it asks for its turn nobody else waits and there is room: it is placed at once."""
    edge = Edge()
    edge.fill()
    assert edge.ask("1").hold_ms
    edge.make_room()
    decision = edge.hold("1")
    assert isinstance(decision, Decision)
    assert decision.first == "only"
    assert not edge.holds.outcomes


def test_a_wait_ends_with_a_refusal() -> None:
    """429 and when to come back, counted under its reason; until then nothing is said."""
    edge = Edge()
    edge.fill()
    edge.hold("1", now_s=5.0)
    assert edge.step(5.0 + WAIT_S - 0.01) == {}
    assert edge.step(5.0 + WAIT_S) == {"1": Decision(Reason.ADMISSION, status=429, retry_after_s=3)}
    assert edge.holds.outcomes == {Outcome.TIMED_OUT: 1}
    assert edge.metrics.by_reason["kv_cost", Reason.ADMISSION] == 1


def test_room_in_the_last_moment_is_still_taken() -> None:
    """Whose wait is over is asked for once more before it is refused."""
    edge = Edge()
    edge.fill()
    edge.hold("1")
    edge.make_room()
    assert edge.step(WAIT_S + 1.0)["1"].first == "only"


def test_a_full_queue_refuses_at_once() -> None:
    """Told so by the first lookup; counted as a refusal and as an overflow."""
    edge = Edge(max_held=1)
    edge.fill()
    edge.hold("1")
    assert edge.ask("2") == Decision(Reason.ADMISSION, status=429, retry_after_s=3)
    assert edge.hold("3") == Decision(Reason.ADMISSION, status=429, retry_after_s=3)
    assert edge.holds.outcomes == {Outcome.OVERFLOW: 2}
    assert edge.metrics.by_reason["kv_cost", Reason.ADMISSION] == 2
    edge.make_room()
    assert edge.step()["1"].first, "the one that waits is asked for all the same"


def test_another_policy_lets_all_go() -> None:
    """So many a step, in their order, that lookups do not wait behind them."""
    edge = Edge()
    edge.fill()
    requests = [str(number) for number in range(MAX_TURNS + 5)]
    for request in requests:
        assert isinstance(edge.hold(request), Held)
    edge.pipeline.swap_policies(PolicySet(build_policy({"policy": "least_load"})))
    assert list(edge.step()) == requests[:MAX_TURNS]
    assert list(edge.step()) == requests[MAX_TURNS:]


def test_a_request_without_an_id_is_not_held() -> None:
    """Somebody asks by hand. One that waits already has its place, and gets no second."""
    edge = Edge()
    edge.fill()
    refusal = Decision(Reason.ADMISSION, status=429, retry_after_s=3)
    assert edge.hold("") == refusal
    assert isinstance(edge.hold("1"), Held)
    assert edge.hold("1") == refusal
    assert len(edge.holds) == 1


def test_explain_says_who_would_be_held() -> None:
    """For how long; also behind others, though there is room. Nobody joins by asking."""
    edge = Edge()
    assert edge.ask("0", 800, session="known").first
    explained = edge.pipeline.explain(edge.features("explain", 500), 0.0).decision
    assert (explained.status, explained.hold_ms) == (429, 10_000)
    assert edge.pipeline.explain(edge.features("explain", 100), 0.0).decision.first == "only"
    edge.hold("large", 500)
    assert edge.pipeline.explain(edge.features("explain", 100), 0.0).decision.hold_ms == 10_000
    assert len(edge.holds) == 1


class Closed(PlainPolicy[PolicyConfig]):
    """From another package, and it knows nothing of waiting."""

    name: ClassVar[str] = "closed"
    Config: ClassVar[type[PolicyConfig]] = PolicyConfig

    def admit(self, features: RequestFeatures, candidates: Candidates, context: Context) -> Refusal | None:
        return Refusal(Reason.CUSTOM, 429, 5)

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        pytest.fail("a request that is refused is not ranked")


def test_a_policy_that_knows_nothing_of_waiting_refuses() -> None:
    """At once, as ever."""
    edge = Edge()
    edge.pipeline.swap_policies(PolicySet(Closed(PolicyConfig())))
    assert edge.ask("1") == Decision(Reason.CUSTOM, status=429, retry_after_s=5)
    assert edge.metrics.by_reason["closed", Reason.CUSTOM] == 1


class TestBatch:
    """A request of the batch class waits for idleness, whatever the policy."""

    def edge(self) -> Edge:
        edge = Edge()
        edge.pipeline.swap_policies(PolicySet(build_policy({"policy": "least_load"})))
        return edge

    def test_it_waits_while_a_request_is_in_flight(self) -> None:
        """Others do not, and it goes when nothing is left."""
        edge = self.edge()
        assert edge.ask("online").first
        assert edge.ask("batch", priority=BATCH).hold_ms == 300_000
        edge.hold("batch", priority=BATCH)
        assert edge.ask("online too").first
        assert edge.step() == {}
        for request in ("online", "online too"):
            edge.core.requests.end(request, 0.0)
        assert edge.step()["batch"].first == "only"
        assert edge.load.batch[0] == 1
        edge.core.requests.end("batch", 1.0)
        assert edge.load.batch[0] == 0

    def test_it_waits_once_it_has_delayed_others(self) -> None:
        """Who comes while the only replica computes a prompt of a batch is delayed. Without KV signals that lasts until
        the batch's request ends. A minute without others is enough for the next one."""
        edge = self.edge()
        assert edge.ask("batch", priority=BATCH).first
        for number in range(3):
            assert edge.ask(f"online {number}").first
        for request in ("batch", "online 0", "online 1", "online 2"):
            edge.core.requests.end(request, 0.0)
        assert edge.ask("next", priority=BATCH).hold_ms == 300_000
        assert edge.ask("later", now_s=100.0, priority=BATCH).first

    def test_those_that_wait_go_one_after_the_other(self) -> None:
        """A batch in flight is a request in flight for the next one."""
        edge = self.edge()
        assert edge.ask("online").first
        for request in ("b1", "b2"):
            edge.hold(request, priority=BATCH)
        edge.core.requests.end("online", 0.0)
        assert list(edge.step()) == ["b1"]
        edge.core.requests.end("b1", 0.0)
        assert list(edge.step()) == ["b2"]

    def test_one_in_flight_makes_no_other_wait(self) -> None:
        """`running` counts the others alone."""
        edge = Edge()
        edge.pipeline.swap_policies(
            PolicySet(build_policy({"policy": "least_load", "admission": {"running": 1, "wait_s": 9}}))
        )
        assert edge.ask("batch", priority=BATCH).first
        assert edge.ask("online").first
        assert edge.ask("another").hold_ms == 9_000


class TestBounds:
    """Bounds hold requests under a policy that knows nothing of waiting."""

    def edge(self, **bounds: object) -> Edge:
        edge = Edge()
        document = {"policy": "session_affinity", "admission": {"running": 1, "wait_s": 9, **bounds}}
        edge.pipeline.swap_policies(PolicySet(build_policy(document)))
        return edge

    def test_sessions_under_way_go_before_those_that_begin(self) -> None:
        edge = self.edge()
        assert edge.ask("1", session="known").first
        edge.hold("begins", session="new")
        edge.hold("goes on", session="known")
        edge.core.requests.end("1", 0.0)
        assert list(edge.step()) == ["goes on"]

    def test_one_that_is_placed_is_charged_to_its_tenant(self) -> None:
        """By estimate, corrected by the engine's last word; given back where nothing was served."""
        edge = self.edge()
        share = edge.holds.shares.of("", edge.replicas.memberships.of(""))
        edge.ask("1", 100, tenant="acme", max_tokens=50)
        assert share.counter((2, "acme")) == 100
        events = EngineEvents(epoch="1", seq=0, snapshot=True, finished=[Finished("1", 110, 20)])
        edge.core.engine_events("only", events, 1.0)
        assert share.counter((2, "acme")) == 130
        edge.core.requests.end("1", 1.0)
        edge.ask("2", 100, tenant="acme", max_tokens=50)
        edge.core.requests.end("2", 2.0, served=False)
        assert share.counter((2, "acme")) == 130

    def test_a_higher_class_takes_the_place_of_a_lower_one(self) -> None:
        """Which is refused with the next look at the queue."""
        edge = Edge(max_held=1)
        edge.pipeline.swap_policies(
            PolicySet(build_policy({"policy": "least_load", "admission": {"running": 1, "wait_s": 9}}))
        )
        assert edge.ask("1").first
        edge.hold("low", priority=1)
        edge.hold("high", priority=3)
        answers = edge.step()
        assert answers["low"].status == 429
        assert not answers["low"].hold_ms
        assert edge.holds.outcomes == {Outcome.SHED: 1}
        assert not edge.core.turns.take_shed()

    def test_a_line_waits_a_moment_for_replicas_that_are_away(self) -> None:
        """As after a reload of HAProxy; whoever comes meanwhile waits behind. Then all go, and HAProxy chooses."""
        edge = self.edge()
        assert edge.ask("1").first
        edge.hold("2")
        edge.replicas.set_health("only", Health.DOWN, 1.0)
        assert edge.step(1.0) == {}
        assert edge.ask("3").hold_ms == 9_000
        assert edge.step(1.0 + NO_REPLICA_S - 0.1) == {}
        edge.replicas.set_health("only", Health.UP, 1.0)
        assert edge.step(1.0 + NO_REPLICA_S + 0.1) == {}
        edge.replicas.set_health("only", Health.DOWN, 1.0)
        assert edge.step(2.0) == {}
        assert edge.step(2.0 + NO_REPLICA_S)["2"].reason == Reason.NO_CANDIDATES


def test_a_session_that_begins_and_has_no_room_does_not_hold_up_one_under_way() -> None:
    """Of another tenant, which was served more: `limit` is for those that begin."""
    edge = Edge(limit=0.5, running=1)
    assert edge.ask("known", 400, session="known", tenant="b").first
    edge.hold("begins", 300, session="new", tenant="a")
    edge.hold("goes on", 410, session="known", tenant="b")
    edge.core.requests.end("known", 0.5)
    assert list(edge.step()) == ["goes on"]
