"""The queue of requests held at the edge."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from invariants import check

from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import BATCH, NORMAL, Priority, RequestFeatures
from pointsman.router.fleet.memberships import Membership
from pointsman.router.requests.fair_share import FairShare
from pointsman.router.requests.hold_queue import BUFFER_BYTES, Held, HoldQueue, Line, Outcome

REFUSAL = Decision(Reason.ADMISSION, status=429, retry_after_s=2)


def make_queue(*ids: str, max_held: int = 8, model: str = "m") -> HoldQueue:
    """A queue with these requests, which came a second apart and wait for ten."""
    queue = HoldQueue(max_held=max_held)
    for at_s, request_id in enumerate(ids):
        queue.join(RequestFeatures(request_id=request_id, model=model), float(at_s), 10.0, REFUSAL)
        check(queue)
    return queue


def names(queue: HoldQueue) -> list[str]:
    return [held.features.request_id for held in queue]


def test_who_came_first_stands_first() -> None:
    """And knows since when and until when it waits, and what it is told in the end."""
    queue = make_queue("a", "b", "c")
    assert names(queue) == ["a", "b", "c"]
    _, second, _ = queue
    assert (second.since_s, second.until_s, second.refusal) == (1.0, 11.0, REFUSAL)


def test_who_leaves_from_the_middle_holds_nobody_up() -> None:
    """The others keep their order; leaving twice, or without having waited, is nothing."""
    queue = make_queue("a", "b", "c")
    assert queue.leave("b", 5.0, Outcome.GONE)
    assert not queue.leave("b", 5.0, Outcome.GONE)
    assert not queue.leave("never seen", 5.0, Outcome.GONE)
    check(queue)
    assert names(queue) == ["a", "c"]
    assert queue.outcomes == {Outcome.GONE: 1}


def test_it_is_full_at_its_limit() -> None:
    """Joining beyond it is a programming error, so who asks must look."""
    queue = make_queue("a", "b", max_held=2)
    assert queue.full
    with pytest.raises(AssertionError):
        queue.join(RequestFeatures(request_id="c"), 2.0, 10.0, REFUSAL)
    queue.leave("a", 2.0, Outcome.ADMITTED)
    assert not queue.full


def test_waits_are_measured_whatever_becomes_of_them() -> None:
    """0.3 and 8.5 seconds, in the buckets up to 0.5 and 10."""
    queue = make_queue("a", "b")
    queue.leave("a", 0.3, Outcome.ADMITTED)
    queue.leave("b", 9.5, Outcome.TIMED_OUT)
    buckets = dict(queue.waited_s.cumulative())
    assert (buckets["0.25"], buckets["0.5"], buckets["5.0"], buckets["10.0"]) == (0, 1, 1, 2)
    assert queue.waited_s.total == pytest.approx(8.8)


def test_models_are_counted_while_somebody_waits_for_them() -> None:
    """Names come from clients: none is kept longer than the requests that brought it."""
    queue = make_queue("a", "b")
    queue.join(RequestFeatures(request_id="c", model="other"), 2.0, 10.0, REFUSAL)
    assert queue.models == {"m": 2, "other": 1}
    for request_id in ("c", "a", "b"):
        queue.leave(request_id, 3.0, Outcome.GONE)
        check(queue)
    assert not queue.models


def test_it_says_how_many_wait() -> None:
    """In a debugger or a log."""
    assert repr(make_queue("a", "b")) == "HoldQueue(2 of at most 8)"


def wait(
    queue: HoldQueue, request: str, priority: int = NORMAL, tenant: str = "", *, under_way: bool = False, **given: int
) -> Held:
    """A request that joins."""
    features = RequestFeatures(request_id=request, model="m", priority=priority, tenant=tenant, **given)  # type: ignore[arg-type]
    held = queue.join(features, 0.0, 10.0, REFUSAL, under_way=under_way, share=SHARE)
    check(queue)
    return held


SHARE = FairShare()


def order(queue: HoldQueue, share: FairShare | None = None, tokens: float = 0.0) -> list[str]:
    """The requests in the order in which they go; each costs its owner so many tokens."""
    line, gone = Line([(("m", ""), owner) for owner in queue.owners], share or FairShare()), []
    while (first := queue.first(line)) is not None:
        line.share.add(first.owner, tokens)
        queue.leave(first.features.request_id, 1.0, Outcome.ADMITTED)
        check(queue)
        gone.append(first.features.request_id)
    return gone


class TestOrder:
    """Class, then share, then session, deadline and arrival."""

    def test_the_higher_class_goes_first(self) -> None:
        queue = HoldQueue()
        for priority in (Priority.NORMAL, Priority.BATCH, Priority.CRITICAL, Priority.LOW, Priority.HIGH):
            wait(queue, priority.label, priority)
        assert order(queue) == ["critical", "high", "normal", "low", "batch"]

    def test_tenants_take_turns(self) -> None:
        """Whoever came with many."""
        queue = HoldQueue()
        for number in range(4):
            wait(queue, f"many-{number}", tenant="many")
        for number in range(2):
            wait(queue, f"few-{number}", tenant="few")
        assert order(queue, tokens=100.0) == ["many-0", "few-0", "many-1", "few-1", "many-2", "many-3"]

    def test_a_session_under_way_goes_before_those_of_its_tenant_that_begin(self) -> None:
        queue = HoldQueue()
        wait(queue, "begins")
        wait(queue, "goes on", under_way=True)
        assert order(queue) == ["goes on", "begins"]

    def test_the_earlier_deadline_goes_first(self) -> None:
        """None is the latest of all; the wait ends with the deadline."""
        queue = HoldQueue()
        wait(queue, "whenever")
        assert wait(queue, "later", deadline_ms=9000).until_s == 9.0
        wait(queue, "soon", deadline_ms=2000)
        assert order(queue) == ["soon", "later", "whenever"]

    @given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4]), st.booleans(), st.sampled_from([0, 0, 500, 900]))))
    def test_of_one_tenant_all_go_by_class_session_deadline_and_arrival(
        self, given: list[tuple[int, bool, int]]
    ) -> None:
        queue, expected = HoldQueue(), []
        for number, (priority, under_way, deadline_ms) in enumerate(given):
            wait(queue, str(number), priority, under_way=under_way, deadline_ms=deadline_ms)
            expected.append((-priority, not under_way, deadline_ms or 1e9, number))
        assert order(queue) == [str(rank[-1]) for rank in sorted(expected)]

    @given(st.integers(1, 60), st.integers(0, 2**32))
    def test_without_classes_tenants_and_deadlines_the_first_goes_first(self, number: int, seed: int) -> None:
        """Whoever leaves in between."""
        queue, dice = HoldQueue(), random.Random(seed)
        waiting = [f"r{at}" for at in range(number)]
        for request in waiting:
            wait(queue, request)
        for request in dice.sample(waiting, number // 3):
            queue.leave(request, 1.0, Outcome.GONE)
            waiting.remove(request)
        assert order(queue, tokens=50.0) == waiting


class TestPlaces:
    """A full queue sheds the lowest for what goes before it."""

    def full(self, *waiting: tuple[str, int, str]) -> HoldQueue:
        queue = HoldQueue(max_held=len(waiting), weight_of=lambda tenant: 3.0 if tenant == "heavy" else 1.0)
        for request, priority, tenant in waiting:
            wait(queue, request, priority, tenant)
        return queue

    def shed_for(self, queue: HoldQueue, priority: int, tenant: str = "") -> str | None:
        features = RequestFeatures(request_id="new", model="m", priority=priority, tenant=tenant)
        lower = queue.displaced_by(features)
        assert queue.has_place(features) == (lower is not None or not queue.full)
        return None if lower is None else lower.features.request_id

    def test_the_lowest_class_gives_way(self) -> None:
        """The one of it that came last."""
        queue = self.full(("1", NORMAL, ""), ("2", BATCH, ""), ("3", BATCH, ""))
        assert self.shed_for(queue, NORMAL) == "3"
        assert self.shed_for(queue, BATCH) is None

    def test_in_a_class_the_tenant_with_most_places_gives_way(self) -> None:
        """By its weight: four places of a weight of three are less than two of one."""
        queue = self.full(*((f"h{n}", NORMAL, "heavy") for n in range(4)), ("a1", NORMAL, "a"), ("a2", NORMAL, "a"))
        assert self.shed_for(queue, NORMAL, "b") == "a2"
        assert self.shed_for(queue, NORMAL, "a") is None
        assert self.shed_for(queue, NORMAL, "heavy") == "a2"
        assert self.shed_for(queue, BATCH, "b") is None

    def test_one_tenant_displaces_nobody_of_its_class(self) -> None:
        assert self.shed_for(self.full(("1", NORMAL, ""), ("2", NORMAL, "")), NORMAL) is None

    def test_bytes_of_bodies_are_bounded(self) -> None:
        """HAProxy keeps a buffer of each."""
        queue = HoldQueue(max_bytes=2 * BUFFER_BYTES)
        wait(queue, "1", body_bytes=10 * BUFFER_BYTES)
        assert queue.bytes == BUFFER_BYTES
        assert not queue.full
        wait(queue, "2", body_bytes=BUFFER_BYTES)
        assert queue.full
        assert self.shed_for(queue, NORMAL + 1) == "2"


SAME, OTHERS = (Membership(token, np.array([token], dtype=np.intp)) for token in (1, 2))


def test_tenants_with_pools_of_their_own_are_lines_of_their_own() -> None:
    """For the same model."""
    queue = HoldQueue()
    for tenant in ("a", "b", "c"):
        wait(queue, f"of {tenant}", tenant=tenant)
    lines = queue.lines(lambda features: OTHERS if features.tenant == "b" else SAME)
    firsts = [queue.first(line) for line in lines]
    assert [first.features.request_id for first in firsts if first] == ["of a", "of b"]


class TestBehind:
    """Who comes waits behind those that go before it, and behind nobody else."""

    @pytest.mark.parametrize(
        ("priority", "under_way", "behind"),
        [
            (NORMAL, False, True),
            (NORMAL + 1, False, False),
            (NORMAL - 1, True, True),
            (NORMAL, True, False),
        ],
    )
    def test_one_that_begins_waits(self, priority: int, under_way: bool, behind: bool) -> None:
        queue = HoldQueue()
        wait(queue, "begins")
        features = RequestFeatures(request_id="new", model="other", priority=priority)
        assert queue.has_waiting(lambda _: SAME, SAME, features, under_way=under_way) is behind
        assert not queue.has_waiting(lambda _: SAME, OTHERS, features, under_way=under_way)

    def test_one_under_way_waits(self) -> None:
        queue = HoldQueue()
        wait(queue, "goes on", under_way=True)
        features = RequestFeatures(request_id="new", model="other")
        for under_way in (True, False):
            assert queue.has_waiting(lambda _: SAME, SAME, features, under_way=under_way)


def test_outcomes_and_waits_are_counted_by_class() -> None:
    queue = HoldQueue()
    wait(queue, "1", Priority.HIGH)
    wait(queue, "2", Priority.BATCH)
    queue.leave("1", 2.0, Outcome.ADMITTED)
    queue.leave("2", 3.0, Outcome.SHED)
    queue.count_overflow(BATCH)
    assert queue.by_class == {(Outcome.ADMITTED, 3): 1, (Outcome.SHED, 0): 1, (Outcome.OVERFLOW, 0): 1}
    assert queue.waited_by_class_s[Priority.HIGH].total == 2.0
    assert queue.waited_by_class_s[Priority.NORMAL].total == 0.0


def test_those_whose_wait_is_over_are_found_in_order() -> None:
    queue = HoldQueue()
    for request, deadline_ms in (("late", 5000), ("never", 0), ("soon", 1000), ("gone", 500)):
        wait(queue, request, deadline_ms=deadline_ms)
    queue.leave("gone", 0.1, Outcome.GONE)
    assert [held.features.request_id for held in queue.overdue(5.0)] == ["soon", "late"]
