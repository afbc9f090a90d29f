"""What a decision reads of the fleet's KV, and what engines' messages make of it."""

from __future__ import annotations

import pytest
from invariants import check
from reporting_fleet import CHAIN, ReportingFleet
from residency import holds

from pointsman.contract.events import EngineLoad, Finished, FirstToken
from pointsman.contract.prefix_keys import BOUNDARIES
from pointsman.policies.request import RequestFeatures
from pointsman.router.kv.state import EXPECTED_S


def test_what_engines_store_is_resident() -> None:
    """In tokens, by the bytes a token has: keys 1 to 16 end every 512 bytes. The end lies between two keys, in the
    middle for all one knows."""
    fleet = ReportingFleet()
    fleet.tell(1, stored=list(CHAIN[:4]))
    prompt = fleet.ask("r", 8)
    assert prompt.tokens == (8 * 512 + 100) // 4
    assert fleet.resident(prompt) == [0, (4 * 512 + 256) // 4, 0]
    fleet.tell(1, evicted=[CHAIN[3], CHAIN[2]])
    assert fleet.resident(fleet.ask("r", 8)) == [0, (2 * 512 + 256) // 4, 0]


def test_somebody_else_may_size_an_endpoint() -> None:
    """One that tells nothing itself has the capacity that was read off it."""
    fleet = ReportingFleet()
    fleet.kv.scraped(2, EngineLoad(), 7_000, 0)
    assert fleet.kv.columns.signals.capacity[:3].tolist() == [100_000, 100_000, 7_000]
    check(fleet.core)


def test_an_endpoint_that_tells_nothing_is_mirrored() -> None:
    """Slot 3 has room for 2,500 tokens: the second prompt pushes the first one out, tail first. A restart empties it,
    and so does an engine that begins to tell."""
    fleet = ReportingFleet()
    kv = fleet.kv
    fleet.add_slot("r3")
    kv.scraped(3, EngineLoad(), 2_500, 0)
    other = tuple(range(5000, 5010))
    fleet.ask("r1", 8, slot=3)
    assert holds(kv.index, 3, CHAIN[7]) and len(kv.index.expectations) == 0
    features = RequestFeatures(request_id="r2", prefix_keys=other, body_bytes=BOUNDARIES[9])
    fleet.place(features, kv.read(features, 0.0), 3)
    assert holds(kv.index, 3, other[9])
    assert holds(kv.index, 3, CHAIN[0]) and not holds(kv.index, 3, CHAIN[7])
    kv.restarted(3)
    assert not holds(kv.index, 3, other[0])
    fleet.ask("r3", 8, slot=3)
    fleet.tell(3, snapshot=True, stored=[CHAIN[0]])
    assert [holds(kv.index, 3, key) for key in CHAIN[:2]] == [True, False]
    fleet.tell(3, evicted=[CHAIN[0]])
    kv.scraped(3, EngineLoad(), 9_000, 100_000)
    fleet.ask("r4", 8, slot=3)
    assert len(kv.index.expectations) == 8
    check(kv)


def test_a_decision_is_expected_to_come_true() -> None:
    """Followers see the prompt where it was sent, until its time is up; its prefill is in front of them."""
    fleet = ReportingFleet()
    fleet.ask("r1", 8, slot=2)
    follower = fleet.ask("r2", 8)
    assert fleet.resident(follower) == [0, 0, (8 * 512 + 50) // 4]
    assert fleet.kv.columns.signals.waiting[2] == (8 * 512 + 100) // 4
    assert fleet.resident(fleet.ask("r3", 8, now_s=EXPECTED_S)) == [0, 0, 0]


def test_the_engine_s_count_anchors_the_next_turn() -> None:
    """After a prompt of 900 tokens and an answer of 50, 950 are at home and only the added bytes are a guess."""
    fleet = ReportingFleet()
    fleet.ask("r1", 8, slot=0, session="s")
    fleet.tell(0, stored=list(CHAIN[:8]), first=[FirstToken("r1", 900, 0, 30.0)])
    fleet.tell(0, finished=[Finished("r1", 900, 50)])
    ratio = (8 * 512 + 100) / 900
    assert fleet.kv.ratio.bytes_per_token("") == pytest.approx(ratio)
    prompt = fleet.ask("r2", 10, session="s")
    assert prompt.tokens == int(900 + 1024 / ratio)
    assert fleet.resident(prompt) == [950, 0, 0]
    assert prompt.conversation is not None and prompt.conversation.slot == 0
    # The same session with another prompt is not a continuation.
    other = fleet.kv.read(RequestFeatures(request_id="r3", session="s", body_bytes=9000, prefix_keys=(1, 2, 3)), 0.0)
    assert fleet.resident(other) == [0, 0, 0]


def test_short_conversations_have_a_home_without_any_key() -> None:
    """Below 512 bytes there are no keys; the session alone says where its KV is."""
    fleet = ReportingFleet()
    fleet.ask("r1", slot=1, session="s", body_bytes=300)
    fleet.tell(1, first=[FirstToken("r1", 70, 0)], finished=[Finished("r1", 70, 20)])
    assert fleet.resident(fleet.ask("r2", session="s", body_bytes=450)) == [0, 90, 0]
    assert fleet.resident(fleet.ask("r2", body_bytes=450)) == [0, 0, 0]


def test_a_plain_endpoint_keeps_its_conversations_by_the_router_s_own_account() -> None:
    """Nothing is ever told: prompts are where decisions sent them, short ones by their session alone."""
    fleet = ReportingFleet()
    fleet.add_slot("r3")
    fleet.ask("r1", slot=3, session="short", body_bytes=400)
    fleet.ask("r2", 8, slot=3, session="long")
    assert fleet.resident(fleet.ask("r3", session="short", body_bytes=480)) == [0, 0, 0, 100]
    assert fleet.resident(fleet.ask("r4", 10, session="long")) == [0, 0, 0, (8 * 512 + 100) // 4]
    assert fleet.resident(fleet.ask("r5", 10, session="long", now_s=EXPECTED_S))[3] > 0


def test_gaps_and_strangers_ask_for_a_snapshot() -> None:
    """Deltas of an engine never heard, and deltas after a lost message, are not believed until all is told."""
    fleet = ReportingFleet()
    fleet.add_slot("r3", 7)
    assert fleet.tell(3, stored=[CHAIN[0]])
    assert fleet.kv.index.match(CHAIN) == []
    assert not fleet.tell(3, stored=[CHAIN[0]], snapshot=True)
    assert not fleet.tell(3, stored=[CHAIN[1]])
    fleet.seqs[3] += 1
    assert fleet.tell(3, stored=[CHAIN[2]])
    assert fleet.tell(3, stored=[CHAIN[2]])
    assert not fleet.tell(3, stored=[CHAIN[0]], snapshot=True)
    assert fleet.kv.index.match(CHAIN) == [(0, [3])]
    assert fleet.kv.counters.resyncs == 3


def test_another_epoch_forgets_the_first_life() -> None:
    """Keys, conversations and backlog are gone; how fast the machine is, is still known."""
    fleet = ReportingFleet()
    fleet.ask("r1", 8, slot=0, session="s")
    fleet.tell(0, stored=list(CHAIN[:8]), first=[FirstToken("r1", 1000, 0, 500.0)])
    fleet.ask("r2", 9, slot=0)
    learned = fleet.kv.columns.signals.time_ms(0, 1000)
    assert fleet.tell(0, epoch="second")
    assert fleet.kv.index.match(CHAIN) == []
    assert (fleet.kv.columns.signals.waiting[0], fleet.kv.columns.signals.footprint[0]) == (0, 0)
    assert fleet.ask("r3", 9, session="s").conversation is None
    assert fleet.kv.columns.signals.time_ms(0, 1000) == learned
    assert fleet.kv.counters.restarts == 1
    check(fleet.core)


def test_a_slot_changes_hands_clean() -> None:
    """The replica that left takes everything with it."""
    fleet = ReportingFleet()
    fleet.ask("r1", 8, slot=0, session="s")
    fleet.tell(0, stored=list(CHAIN[:8]))
    fleet.core.replicas.remove("r0")
    fleet.add_slot("another")
    assert not fleet.kv.reports(0)
    assert fleet.kv.index.match(CHAIN) == []
    assert (fleet.kv.columns.signals.waiting[0], fleet.kv.columns.signals.footprint[0]) == (0, 0)
    fleet.requests.first_token("r1", 0.5)
    check(fleet.core)


def test_regret_is_what_a_better_holder_held() -> None:
    """Slot 2 holds all keys, 1,024 tokens, and half of what is left; the request went to slot 0, which holds two."""
    fleet = ReportingFleet()
    fleet.tell(2, stored=list(CHAIN[:8]))
    fleet.tell(0, stored=list(CHAIN[:2]))
    fleet.ask("r", 8, slot=0)
    assert (fleet.kv.counters.best_cached_tokens, fleet.kv.counters.selected_cached_tokens) == (1036, 320)


def test_predictions_are_whole_blocks() -> None:
    """What is counted as predicted is what an engine with blocks of 128 tokens can reuse: 256 of the 320 expected."""
    fleet = ReportingFleet()
    fleet.tell(0, stored=list(CHAIN[:2]), block_tokens=128)
    fleet.ask("r", 8, slot=0)
    assert fleet.kv.counters.selected_cached_tokens == 256


def test_odd_prompts_are_read_and_placed() -> None:
    """No body at all, more keys than there are boundaries, a body shorter than its keys."""
    fleet = ReportingFleet()
    assert fleet.ask("r1", body_bytes=0, slot=0).tokens == 1
    many = RequestFeatures(request_id="r2", prefix_keys=tuple(range(200)), body_bytes=10)
    prompt = fleet.kv.read(many, 0.0)
    fleet.place(many, prompt, 1)
    assert prompt.tokens == BOUNDARIES[-1] // 4
