"""The latest decisions: which are kept, what is joined to them, and who is told of their ends."""

from __future__ import annotations

import pytest
from recorded_fleet import RecordedFleet

from pointsman.contract.events import FirstToken
from pointsman.policies.decision import Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.requests import decision_log
from pointsman.router.requests.decision_log import ENGINE_WORDS_S
from pointsman.router.requests.hold_queue import Held


def ids(fleet: RecordedFleet) -> list[str]:
    return [record.features.request_id for record in fleet.log]


def test_a_decision_is_joined_with_all_that_comes_of_it() -> None:
    """First token, the engine's end and HAProxy's line, in whichever order they come."""
    fleet = RecordedFleet()
    for request_id, order in (("one", "line, words"), ("two", "words, line")):
        chosen = fleet.ask(request_id).first
        for step in order.split(", "):
            if step == "line":
                fleet.end(request_id, chosen)
            else:
                fleet.answer(request_id, chosen, cached=900)
        record = fleet.record(request_id)
        assert record.line is not None and record.line.st == 200
        assert record.first is not None and record.first.cached_tokens == 900
        assert record.finished is not None and record.finished.reason == "stop"


def test_the_newest_decisions_are_kept() -> None:
    """Beyond the number of records the oldest go, and are no longer found by their id."""
    fleet = RecordedFleet(max_records=3)
    for number in range(5):
        fleet.ask(f"r{number}")
    assert ids(fleet) == ["r4", "r3", "r2"]
    assert fleet.log.get("r1") is None


def test_memory_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long prompts cost more, so fewer of them are kept."""
    fleet = RecordedFleet(max_records=100_000, max_mb=1)
    for number in range(800):
        fleet.ask(f"r{number}", keys=40)
    assert 100 < len(fleet.log) < 800 and fleet.log.bytes <= 1 << 20
    assert ids(fleet)[0] == "r799"


def test_a_repeated_id_stands_for_the_later_decision() -> None:
    """HAProxy may ask twice; dropping the first record later does not drop the second."""
    fleet = RecordedFleet(max_records=2)
    fleet.ask("r")
    again = fleet.ask("r", now_s=1.0)
    fleet.ask("s")
    assert fleet.record("r").at_s == 1.0 and fleet.record("r").decision == again


def test_requests_that_haproxy_placed_alone_have_a_record_of_their_end() -> None:
    """Nobody asked the router, so only what HAProxy says is known; a request that was not routed has none."""
    fleet = RecordedFleet()
    fleet.end("alone", "a", reason="fail-open", routed="2")
    fleet.end("models", "a", reason="-", routed="-")
    assert fleet.record("alone").decision.reason is Reason.FAIL_OPEN
    assert fleet.log.get("models") is None


def test_the_end_of_a_forgotten_decision_makes_no_record() -> None:
    """It would look as if nobody had decided."""
    fleet = RecordedFleet(max_records=1)
    fleet.ask("old")
    fleet.ask("new")
    fleet.end("old", "a", reason="kv-cold")
    assert ids(fleet) == ["new"]


def test_a_person_who_asks_by_hand_leaves_no_record() -> None:
    """Without an id nothing could ever be joined."""
    fleet = RecordedFleet()
    fleet.ask("")
    assert ids(fleet) == []


def test_refused_requests_have_a_record() -> None:
    """Also one whose wait is over: the record says how long it was held."""
    admission = {"limit": 0.05, "wait_s": 5.0}
    fleet = RecordedFleet("a", policy={"policy": "kv_cost", "admission": admission})
    fleet.ask("first", session="s", body_bytes=16_000)
    features = RequestFeatures(request_id="r", body_bytes=12_000)
    held = fleet.core.hold(features, 1.0)
    assert isinstance(held, Held) and fleet.log.get("r") is None, "nothing is decided yet"
    assert [decision for _, decision in fleet.core.step_held(7.0)] == [held.refusal]
    record = fleet.record("r")
    assert record.decision == held.refusal and record.held_s == pytest.approx(6.0)


def test_nothing_waits_while_nobody_follows() -> None:
    """Following begins with the next end."""
    fleet = RecordedFleet()
    fleet.ask("before")
    fleet.end("before", "a")
    fleet.log.follow(True)
    chosen = fleet.ask("r").first
    fleet.answer("r", chosen)
    fleet.end("r", chosen)
    taken = fleet.log.take_ended(2.0, 10, lambda replica: True)
    assert [record.features.request_id for record in taken] == ["r"]


def test_an_ended_request_waits_for_its_engines_words_for_a_while() -> None:
    """Where the replica reports; those behind wait too, so that the order is that of the ends."""
    fleet = RecordedFleet()
    fleet.log.follow(True)
    chosen = [fleet.ask(name).first for name in ("silent", "told")]
    fleet.end("silent", chosen[0], now_s=1.0)
    fleet.answer("told", chosen[1])
    fleet.end("told", chosen[1], now_s=1.1)
    reports = dict.fromkeys(fleet.seqs, True).__getitem__
    assert fleet.log.take_ended(1.2, 10, reports) == []
    taken = fleet.log.take_ended(1.0 + ENGINE_WORDS_S, 10, reports)
    assert [record.features.request_id for record in taken] == ["silent", "told"]
    fleet.end("silent", chosen[0], now_s=2.0)
    assert len(fleet.log.take_ended(2.0, 10, lambda replica: False)) == 1, "an endpoint that reports nothing"


def test_slow_followers_lose_the_oldest_and_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "MAX_ENDED", 2)
    fleet = RecordedFleet()
    fleet.log.follow(True)
    for name in ("r1", "r2", "r3"):
        fleet.ask(name)
        fleet.end(name, "<NOSRV>")
    assert fleet.log.unfollowed == 1
    assert [r.features.request_id for r in fleet.log.take_ended(9.0, 10, lambda replica: True)] == ["r2", "r3"]


def test_words_of_the_prefill_replica_are_kept_apart() -> None:
    fleet = RecordedFleet()
    fleet.ask("r")
    fleet.report("a", first=[FirstToken("r.prefill", 1000, 300, 20.0)])
    record = fleet.record("r")
    assert record.first is None and record.prefill_first is not None and record.prefill_first.cached_tokens == 300


def test_a_router_without_records_decides_all_the_same() -> None:
    fleet = RecordedFleet(max_records=0)
    assert fleet.core.decisions is None
    assert fleet.ask("r").first
    fleet.end("r", "a")
