"""The requests in flight: exact by events, honest when events are lost; each ends once, in whatever order they come."""

from __future__ import annotations

import random

import pytest
from candidates import make_candidates
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from invariants import check

from pointsman.contract.events import EngineEvents, Finished, FirstToken
from pointsman.contract.registration import Registration, leg_id
from pointsman.policies.candidates import NO_SLOT
from pointsman.policies.request import BATCH, RequestFeatures
from pointsman.router.core import Core, CoreConfig
from pointsman.router.requests.ended import LINGER_S
from pointsman.router.requests.hold_queue import Outcome
from pointsman.router.requests.table import SETTLE_S, RequestTable
from pointsman.router.settings import LimitSettings

REPLICAS = 3


class Edge:
    """A core with three replicas whose engines report, in slots 0 to 2."""

    def __init__(self, *, ttl_s: float = 60.0, max_requests: int = 100) -> None:
        limits = LimitSettings(reservation_ttl_s=ttl_s, max_reservations=max_requests)
        self.core = Core({"policy": "kv_cost"}, rng=random.Random(1), config=CoreConfig(limits=limits))
        self.load, self.kv, self.requests = self.core.load, self.core.kv, self.core.requests
        self.candidates = make_candidates({f"r{slot}": 0 for slot in range(REPLICAS)})
        self.seqs = [0] * REPLICAS
        for slot in range(REPLICAS):
            self.register(slot)

    def register(self, slot: int) -> None:
        self.core.replicas.put(f"r{slot}", Registration(url=f"http://10.0.0.1:{slot + 1}"), ("10.0.0.1", slot + 1), 0.0)

    def report(self, slot: int, *, epoch: str = "e", now_s: float = 0.0, **events: object) -> None:
        self.seqs[slot] += 1
        message = EngineEvents(epoch=epoch, seq=self.seqs[slot], **events)  # type: ignore[arg-type]
        self.core.engine_events(f"r{slot}", message, now_s)

    def place(self, request: str, slot: int, *, prefill: int = NO_SLOT, now_s: float = 0.0, **features: object) -> None:
        """A decision by KV: 100 tokens on a slot, computed there or by a prefill request."""
        asked = RequestFeatures(request_id=request, **{"body_bytes": 400, **features})  # type: ignore[arg-type]
        prompt = self.kv.read(asked, now_s)
        self.requests.reserve(request, slot, 100, now_s)
        self.requests.place(asked, prompt, slot, self.candidates, now_s, prefill=prefill)
        if prefill != NO_SLOT:
            self.requests.reserve_prefill(request, prefill, 100)
        check(self.core)

    @property
    def in_flight(self) -> list[int]:
        return self.load.in_flight[:REPLICAS].tolist()

    @property
    def waiting(self) -> list[float]:
        return self.kv.columns.signals.waiting[:REPLICAS].tolist()


@pytest.fixture
def edge() -> Edge:
    return Edge()


def batch_of(edge: Edge) -> tuple[list[int], list[int]]:
    """Requests of batches by slot, and those whose prompts are not computed."""
    return edge.load.batch[:REPLICAS].tolist(), edge.load.batch_prompts[:REPLICAS].tolist()


def test_a_prompt_of_a_batch_counts_until_it_is_computed(edge: Edge) -> None:
    """Where it is computed, also when that is another replica than the one decided on, or it is placed again."""
    features = RequestFeatures(request_id="b", priority=BATCH)
    edge.requests.reserve("b", 0, 100, 0.0, features=features)
    assert batch_of(edge) == ([1, 0, 0], [1, 0, 0])
    edge.requests.reserve("b", 2, 100, 0.0, features=features)
    assert batch_of(edge) == ([0, 0, 1], [0, 0, 1])
    edge.report(1, first=[FirstToken("b", prompt_tokens=100)])
    assert batch_of(edge) == ([0, 1, 0], [0, 0, 0])
    edge.requests.end("b", 1.0)
    assert batch_of(edge) == ([0, 0, 0], [0, 0, 0])
    edge.requests.reserve("never computed", 0, 100, 1.0, features=features)
    edge.requests.end("never computed", 2.0)
    edge.requests.reserve("of others", 0, 100, 2.0, features=RequestFeatures(request_id="of others"))
    assert batch_of(edge) == ([0, 0, 0], [0, 0, 0])


@pytest.fixture
def requests(edge: Edge) -> RequestTable:
    return edge.requests


def test_a_reservation_counts_until_the_end(edge: Edge) -> None:
    """One request and its tokens, then nothing; whoever reports its end again finds nothing to end."""
    edge.requests.reserve("a", 1, 500, now_s=0.0)
    assert (edge.load.in_flight[1], edge.load.in_flight_tokens[1]) == (1, 500)
    for _ in range(2):
        edge.requests.end("a", 1.0)
        assert (edge.load.in_flight[1], edge.load.in_flight_tokens[1], len(edge.requests)) == (0, 0, 0)
        check(edge.core)


def test_a_repeated_id_moves_its_reservation(edge: Edge) -> None:
    """HAProxy asks twice for one request: it is in flight once, where it was placed last, and its conversation waits
    for one end."""
    edge.place("a", 0, session="s")
    edge.place("a", 1, prefill=2, session="s")
    assert edge.in_flight == [0, 1, 1]
    assert edge.waiting == [0, 0, 100]
    known = edge.kv.conversations.by_name.get("s")
    assert known is not None and (known.slot, known.in_flight) == (1, 1)
    edge.requests.end("a", 1.0)
    assert edge.in_flight == edge.waiting == [0, 0, 0]
    assert not known.in_flight


def test_a_request_counts_where_its_engine_reports_it(edge: Edge) -> None:
    """Its decision came too late, or its replica dropped it, so HAProxy chose another. Nothing is missing then where it
    was wanted, and the older request there stays counted."""
    edge.place("old", 0)
    edge.place("late", 0, now_s=10.0)
    edge.report(1, first=[FirstToken("late", 100, 0)], now_s=10.1)
    check(edge.core)
    assert edge.in_flight == [1, 1, 0]
    for now_s in (11.0, 12.0):
        for slot in (0, 1):
            edge.requests.observe(slot, 1, now_s)
    assert edge.requests.is_reserved("old") and edge.load.leaked == edge.load.foreign[1] == 0
    edge.report(0, finished=[Finished("late", 0, 0)], now_s=12.0)
    assert edge.in_flight == [1, 1, 0], "whoever gave it up does not have it back"
    edge.requests.end("late", 13.0, served_by=1)
    assert edge.in_flight == [1, 0, 0]
    check(edge.core)


def test_requests_expire_by_age(edge: Edge) -> None:
    """The TTL ends what no event ended, oldest first, and counts it; also what the engine may still report."""
    edge.place("old", 0, session="s")
    edge.place("young", 0, now_s=50.0)
    assert edge.core.sweep(60.0).reservations == 1
    assert "young" in edge.requests and "old" not in edge.requests
    assert edge.load.expired == 1
    known = edge.kv.conversations.by_name.get("s")
    assert known is None or not known.under_way
    check(edge.core)


@pytest.mark.parametrize("end_first", [True, False])
def test_line_and_report_of_an_end_come_in_either_order(edge: Edge, end_first: bool) -> None:
    """The reservation ends with HAProxy's line; what the engine counted is learned though the line overtook it."""
    edge.place("a", 0, session="s")
    steps = [
        lambda: edge.requests.end("a", 1.0),
        lambda: edge.report(0, finished=[Finished("a", 90, 10)], now_s=1.0),
    ]
    for step in steps if end_first else reversed(steps):
        assert (edge.in_flight[0] == 0) == (end_first and step is steps[1])
        step()
        check(edge.core)
    assert edge.in_flight == edge.waiting == [0, 0, 0]
    known = edge.kv.conversations.by_name.get("s")
    assert known is not None and (known.tokens, known.under_way) == (100, False)
    edge.requests.expire(1.0 + LINGER_S)
    assert len(edge.requests) == 0


def test_ends_forget_what_ended_long_ago_so_that_the_sweep_has_little_to_do() -> None:
    edge = Edge()
    for number in range(8):
        edge.place(f"old-{number}", 0)
        edge.requests.end(f"old-{number}", 0.0)
    assert str(edge.requests).endswith("8 ended)")
    for number in range(4):
        edge.place(f"new-{number}", 0, now_s=LINGER_S)
        edge.requests.end(f"new-{number}", LINGER_S)
    assert str(edge.requests).endswith("4 ended)")


def test_a_prefill_request_ends_with_the_prompt_or_with_the_request(edge: Edge) -> None:
    """Reported by its own engine or by the decode replica's, seen by HAProxy, or over unanswered."""
    for end in (
        lambda: edge.report(2, first=[FirstToken(leg_id("a"), 100, 0)]),
        lambda: edge.report(2, finished=[Finished(leg_id("a"), 100, 1)]),
        lambda: edge.report(1, first=[FirstToken("a", 100, 0)]),
        lambda: edge.requests.first_token("a", 0.5),
        lambda: edge.requests.end("a", 0.5, served=False),
    ):
        edge.place("a", 1, prefill=2)
        assert (edge.in_flight, edge.waiting) == ([0, 1, 1], [0, 0, 100])
        assert leg_id("a") in edge.requests
        end()
        assert (edge.in_flight[2], edge.waiting) == (0, [0, 0, 0])
        check(edge.core)


def test_an_end_frees_the_place_of_a_held_request(edge: Edge) -> None:
    """Its client left while it waited: nothing was reserved yet."""
    refusal = edge.core.decide(RequestFeatures(request_id=""), 0.0)
    edge.core.holds.join(RequestFeatures(request_id="a"), 0.0, 10.0, refusal)
    edge.requests.end("a", 1.0)
    assert edge.core.holds.outcomes == {Outcome.GONE: 1}


def test_leaked_reservations_go_when_haproxy_has_no_such_session(edge: Edge) -> None:
    """Two reservations, and no session for long: their lines were lost. What their engine may still report is waited
    for."""
    edge.requests.reserve("a", 0, 5, now_s=0.0)
    edge.place("b", 0)
    edge.requests.observe(0, 0, 1.0)
    edge.requests.observe(0, 0, 1.0 + SETTLE_S)
    assert edge.in_flight[0] == 0
    assert edge.load.leaked == 2
    assert "a" not in edge.requests and "b" in edge.requests
    check(edge.core)


def test_a_fresh_reservation_is_never_taken_for_leaked(edge: Edge) -> None:
    """It may not have reached its server when HAProxy was asked."""
    edge.requests.reserve("a", 0, 5, now_s=10.0)
    edge.requests.observe(0, 0, 10.1)
    edge.requests.observe(0, 0, 10.2)
    assert edge.in_flight[0] == 1


def test_lines_that_are_late_end_no_older_stream(edge: Edge) -> None:
    """After a reload HAProxy's sessions may be gone for a second before the lines of their ends are read."""
    edge.requests.reserve("stream", 0, 5, now_s=0.0)
    for request in ("a", "b"):
        edge.requests.reserve(request, 0, 5, now_s=10.0)
    for at_s in (11.0, 11.5, 12.0):
        edge.requests.observe(0, 1, at_s)
    for request in ("a", "b"):
        edge.requests.end(request, 12.1)
    for at_s in (12.5, 13.0, 13.5):
        edge.requests.observe(0, 1, at_s)
    assert edge.requests.is_reserved("stream") and edge.load.leaked == edge.load.foreign[0] == 0


def test_streams_of_an_old_haproxy_worker_are_not_taken_for_leaked(edge: Edge) -> None:
    """After a reload the sessions of the old worker are invisible; once it is gone, what it left behind leaks."""
    for request in ("a", "b"):
        edge.requests.reserve(request, 0, 5, now_s=0.0)
    edge.load.lose_sight(now_s=5.0)
    for at_s in (10.0, 11.0, 12.0):
        edge.requests.observe(0, 0, at_s)
    assert edge.in_flight[0] == 2
    edge.requests.end("a", 12.0)
    edge.load.regain_sight()
    for at_s in (13.0, 14.0, 15.0):
        edge.requests.observe(0, 0, at_s)
    assert edge.in_flight[0] == 0 and edge.load.leaked == 1


def test_the_table_is_bounded() -> None:
    """Beyond the limit the oldest goes, in flight or ended, with its prompt and its conversation."""
    edge = Edge(max_requests=10)
    for number in range(40):
        edge.place(f"q{number}", 0, prefill=1 if number % 2 else NO_SLOT, session=f"s{number}")
        if number % 3:
            edge.requests.end(f"q{number}", 0.0)
        assert len(edge.requests) <= 10
        check(edge.core)
    assert "q29" not in edge.requests and edge.load.expired > 0
    assert sum(known.under_way for known in edge.kv.conversations.by_name.values()) <= 10


def test_a_replica_that_left_takes_its_reservations_along(edge: Edge) -> None:
    """The next one in its slot inherits nothing; requests elsewhere lose their prefill request alone."""
    edge.place("a", 0)
    edge.place("b", 1, prefill=0)
    edge.core.replicas.remove("r0")
    assert edge.in_flight == [0, 1, 0]
    assert not edge.requests.is_reserved("a") and edge.requests.is_reserved("b")
    edge.register(0)
    edge.requests.end("a", 1.0, served=False)
    edge.requests.end("b", 1.0)
    assert edge.in_flight == [0, 0, 0]
    check(edge.core)


def test_a_limit_that_is_met_by_the_turn_before_begins_the_conversation_again() -> None:
    """The oldest request is the turn before the one that is placed, and nobody answered it: nothing is home then."""
    edge = Edge(max_requests=1)
    edge.place("a", 0, session="s")
    edge.place("b", 1, session="s")
    known = edge.kv.conversations.by_name.get("s")
    assert known is not None and (known.slot, known.in_flight) == (1, 1)
    check(edge.core)


class RequestMachine(RuleBasedStateMachine):
    """Any order of decisions, lines, reports, comparisons and departures keeps table, columns and backlog in step."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = Edge(ttl_s=20.0, max_requests=8)
        self.now_s = 0.0

    @rule(request=st.integers(0, 12), slot=st.integers(0, 2), tokens=st.integers(0, 1000), announced=st.integers(0, 99))
    def reserve(self, request: int, slot: int, tokens: int, announced: int) -> None:
        self.edge.requests.reserve(str(request), slot, tokens, self.now_s, announced=announced)

    @rule(request=st.integers(0, 12), slot=st.integers(0, 2), prefill=st.integers(-1, 2), session=st.integers(0, 3))
    def place(self, request: int, slot: int, prefill: int, session: int) -> None:
        where = NO_SLOT if prefill in (-1, slot) else prefill
        self.edge.place(str(request), slot, prefill=where, now_s=self.now_s, session=f"s{session}" if session else "")

    @rule(request=st.integers(0, 12), served=st.booleans(), by=st.integers(-1, 2), took_ms=st.floats(-1, 5000))
    def end(self, request: int, served: bool, by: int, took_ms: float) -> None:
        self.edge.requests.end(
            str(request), self.now_s, served=served, served_by=NO_SLOT if by < 0 else by, took_ms=took_ms
        )

    @rule(request=st.integers(0, 12))
    def first_token(self, request: int) -> None:
        self.edge.requests.first_token(str(request), self.now_s)

    @rule(request=st.integers(0, 12), slot=st.integers(0, 2), prefill=st.booleans(), finished=st.booleans())
    def report(self, request: int, slot: int, prefill: bool, finished: bool) -> None:
        named = leg_id(str(request)) if prefill else str(request)
        events = {"finished": [Finished(named, 90, 10)]} if finished else {"first": [FirstToken(named, 90, 10, 5.0)]}
        self.edge.report(slot, now_s=self.now_s, **events)

    @rule(slot=st.integers(0, 2))
    def restart(self, slot: int) -> None:
        self.edge.report(slot, epoch=f"after {self.now_s} {self.edge.seqs[slot]}", snapshot=True)

    @rule(slot=st.integers(0, 2), sessions=st.integers(0, 10))
    def observe(self, slot: int, sessions: int) -> None:
        self.edge.requests.observe(slot, sessions, self.now_s)

    @rule(slot=st.integers(0, 2), requests=st.integers(0, 10))
    def look_at_engine(self, slot: int, requests: int) -> None:
        self.edge.load.observe_engine(slot, requests)

    @rule(seconds=st.floats(0, 15))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.edge.core.sweep(self.now_s)

    @rule(gone=st.booleans())
    def reload(self, gone: bool) -> None:
        self.edge.load.lose_sight(self.now_s)
        if gone:
            self.edge.load.regain_sight()

    @rule(slot=st.integers(0, 2))
    def leave(self, slot: int) -> None:
        self.edge.core.replicas.remove(f"r{slot}")
        self.edge.register(slot)

    @invariant()
    def agrees(self) -> None:
        check(self.edge.core)


TestRequestMachine = RequestMachine.TestCase
TestRequestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
