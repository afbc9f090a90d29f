"""What becomes of requests teaches the fleet's KV: first tokens, answers, ends, and replicas that were not meant."""

from __future__ import annotations

import pytest
from invariants import check
from reporting_fleet import CHAIN, ReportingFleet
from residency import holds

from pointsman.contract.events import Finished, FirstToken
from pointsman.policies.candidates import NO_SLOT
from pointsman.policies.request import RequestFeatures
from pointsman.router.kv.conversation import Conversation
from pointsman.router.requests.ended import LINGER_S


def test_first_tokens_release_and_teach() -> None:
    """Backlog, prefill time, prediction error; unknown ids and those of other replicas teach nothing."""
    fleet = ReportingFleet()
    fleet.ask("r1", 8, slot=0)
    before = fleet.kv.columns.signals.time_ms(0, 1000)
    fleet.tell(1, first=[FirstToken("nobody", 10, 0, 5.0)])
    fleet.tell(0, first=[FirstToken("r1", 1000, 100, 500.0)])
    counters = fleet.kv.counters
    assert fleet.kv.columns.signals.waiting[0] == 0
    assert fleet.kv.columns.signals.time_ms(0, 1000) > before
    assert counters.prediction_error.count == 1
    assert counters.prediction_error.total == pytest.approx(0.1)


def test_a_queued_prefill_teaches_no_time() -> None:
    """The second of two at once waited for the first: its time to first token is not T of its own tokens."""
    fleet = ReportingFleet()
    fleet.ask("r1", 8, slot=0)
    fleet.ask("r2", 8, slot=0, body_bytes=9000)
    fleet.tell(0, first=[FirstToken("r1", 1000, 0, 40.0), FirstToken("r2", 2000, 0, 80.0)])
    assert fleet.kv.times.observations == 1


def test_haproxy_s_lines_end_what_no_engine_told_of() -> None:
    """The backlog at once; what the engine may still say counts for a while after."""
    fleet = ReportingFleet()
    fleet.ask("r1", 8, slot=0, session="s")
    fleet.ask("r2", 9, slot=0)
    fleet.requests.first_token("r2", 0.5)
    fleet.requests.end("r1", 1.0)
    assert fleet.kv.columns.signals.waiting[0] == 0
    fleet.tell(0, finished=[Finished("r1", 900, 50)])
    assert fleet.ask("r3", 8, session="s").conversation.tokens == 950
    fleet.requests.end("r2", 2.0)
    fleet.requests.expire(2.0 + LINGER_S)
    assert len(fleet.requests) == 0


def test_a_later_turn_nobody_answered_leaves_the_conversation_alive() -> None:
    """What its earlier turns left at home is there, and will be asked for again; of a first turn there is nothing."""
    fleet = ReportingFleet()
    fleet.ask("r1", 4, slot=0, session="s")
    fleet.requests.end("r1", 1.0)
    fleet.ask("r2", 6, slot=0, session="s", now_s=2.0)
    fleet.ask("r3", 6, slot=1, session="other", now_s=2.0)
    for request in ("r2", "r3"):
        fleet.requests.end(request, 3.0, served=False)
        check(fleet.core)
    assert fleet.kv.conversations.counts()[0] == 1
    assert fleet.kv.columns.signals.footprint[0] > 0
    assert fleet.kv.columns.signals.footprint[1] == 0
    again = fleet.ask("r4", 6, session="other", now_s=4.0)
    assert again.conversation is None, "nobody is at home where nobody was answered"


def test_kv_under_way_is_that_of_conversations_with_a_request() -> None:
    """Two of 30,000 tokens, of which one pauses: 20 % of 300,000 tokens are wanted, half of that at the moment."""
    fleet = ReportingFleet()
    for request in ("r1", "r2"):
        fleet.ask(request, 8, slot=0, session=request)
        fleet.tell(0, first=[FirstToken(request, 30_000, 0, 0.0)])
    fleet.ask("r3")
    signals = fleet.kv.columns.signals
    assert (signals.usage, signals.active_usage) == (pytest.approx(0.2, abs=0.01), signals.usage)
    fleet.requests.end("r1", 1.0)
    fleet.ask("r3", now_s=1.0)
    assert signals.active_usage == pytest.approx(signals.usage / 2)
    fleet.requests.end("r2", 1.0)
    fleet.ask("r3", now_s=1.0)
    assert (signals.active_usage, signals.usage) == (0.0, pytest.approx(0.2, abs=0.01))


@pytest.mark.parametrize("by_haproxy", [False, True])
def test_prompts_behind_a_late_first_token_still_wait(by_haproxy: bool) -> None:
    """Whoever tells that a token came at 60 s: the prompt behind it counts at 70 s, as nothing was expected sooner."""
    fleet = ReportingFleet()
    fleet.tell(0, stored=[])
    for request in ("late", "behind"):
        fleet.ask(request, 8, slot=0, session=request)
    if by_haproxy:
        fleet.requests.end("late", 65.0, took_ms=60_000.0)
    else:
        fleet.tell(0, first=[FirstToken("late", 1000, 0, 60_000.0)], now_s=60.0)
    waiting = fleet.kv.columns.signals.waiting[0]
    assert waiting > 0
    fleet.kv.expire(60.0)
    assert fleet.kv.columns.signals.waiting[0] == waiting
    fleet.kv.expire(70.0)
    assert fleet.kv.columns.signals.waiting[0] == 0


def test_who_served_is_the_home() -> None:
    """HAProxy could not connect to slot 0 and went to slot 2: the next turn is expected there."""
    fleet = ReportingFleet()
    fleet.ask("r1", 8, slot=0, session="s")
    fleet.requests.end("r1", 1.0, served_by=2)
    assert fleet.kv.columns.signals.footprint[:3].tolist() == [0, 0, (8 * 512 + 100) // 4]
    known = fleet.ask("r2", 8, session="s").conversation
    assert known is not None and known.slot == 2 and not known.under_way
    check(fleet.core)


def test_who_served_an_earlier_turn_is_not_the_home() -> None:
    """Another edge's later turn went where this one was placed: the end of this one says nothing of that home."""
    fleet = ReportingFleet()
    fleet.ask("r1", 8, slot=0, session="s")
    fleet.kv.conversations.learn(Conversation("s", NO_SLOT, 2000, 0, 8000, 0, -1, 0, 0.5, 2, home="r0"), 0)
    fleet.requests.end("r1", 1.0, served_by=2)
    known = fleet.kv.conversations.by_name.get("s")
    assert known is not None and (known.home, known.turn, known.tokens) == ("r0", 2, 2000)
    check(fleet.core)


@pytest.mark.parametrize("came_back", [False, True])
def test_who_served_and_restarted_since_is_no_home(came_back: bool) -> None:
    """HAProxy went to slot 2, whose engine died in its answer and lives again before the line comes."""
    fleet = ReportingFleet()
    fleet.ask("r1", 8, slot=0, session="s")
    if came_back:
        fleet.core.replicas.remove("r2")
        fleet.add_slot("r2")
    fleet.tell(2, epoch="another life", snapshot=True)
    fleet.requests.end("r1", 1.0, served_by=2)
    assert fleet.kv.conversations.by_name.get("s") is None
    assert fleet.kv.columns.signals.footprint[:3].tolist() == [0, 0, 0]
    fleet.ask("r2", 8, slot=2, session="s")
    fleet.requests.end("r2", 2.0)
    assert fleet.kv.conversations.by_name.get("s") is not None
    check(fleet.core)


def test_what_was_expected_and_never_came_is_void_at_the_end() -> None:
    """Stored and evicted within one message, or never stored: a request that ended holds no more than it said."""
    fleet = ReportingFleet()
    fleet.ask("r1", 8, slot=0)
    fleet.tell(0, stored=list(CHAIN[:4]))
    fleet.tell(0, evicted=list(CHAIN[3:8]), first=[FirstToken("r1", 1000, 0, 1.0)])
    assert holds(fleet.kv.index, 0, CHAIN[7])
    fleet.tell(0, finished=[Finished("r1", 1000, 10)])
    assert [holds(fleet.kv.index, 0, key) for key in CHAIN[:8]] == [True] * 3 + [False] * 5
    check(fleet.core)


def test_the_end_of_a_request_whose_replica_left_meanwhile_is_taken() -> None:
    """Nobody answered it; keys that others are expected to hold stay expected."""
    fleet = ReportingFleet(2)
    for slot, request in enumerate(("q0", "q1")):
        features = RequestFeatures(request_id=request, prefix_keys=(10 + slot,), body_bytes=2000)
        fleet.place(features, fleet.kv.read(features, 0.0), slot)
    fleet.core.replicas.remove("r0")
    fleet.requests.end("q0", 1.0, served=False)
    assert fleet.kv.index.match((11,))
    check(fleet.core)
