"""What a decision reads of the fleet's KV, and what engines' messages make of it."""

from __future__ import annotations

import random

import pytest
from candidates import make_candidates

from pointsman.contract.events import EngineEvents, Finished, FirstToken
from pointsman.contract.prefix_keys import BOUNDARIES
from pointsman.contract.registration import Registration
from pointsman.policies.candidates import NO_SLOT
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.kv.conversation import Conversation
from pointsman.router.kv.parts import Prompt
from pointsman.router.kv.state import EXPECTED_S
from pointsman.router.requests.table import LINGER_S

CHAIN = tuple(range(1000, 1040))


class Fleet:
    """Three replicas that report, and their KV state."""

    def __init__(self, replicas: int = 3) -> None:
        self.core = Core({"policy": "kv_cost"}, rng=random.Random(1))
        self.kv, self.requests = self.core.kv, self.core.requests
        self.seqs: list[int] = []
        for slot in range(replicas):
            self.add_slot(f"r{slot}")
            self.tell(slot, snapshot=True, capacity_tokens=100_000)
        self.candidates = make_candidates({f"r{slot}": 0 for slot in range(replicas)})

    def add_slot(self, name: str, seq: int = 0) -> None:
        """A replica takes the next slot."""
        self.core.replicas.put(name, Registration(url="http://10.0.0.1:1"), ("10.0.0.1", 1), 0.0)
        self.seqs.append(seq)

    def tell(self, slot: int, *, epoch: str = "e", now_s: float = 0.0, **events: object) -> bool:
        """The next message of an engine; whether a snapshot is asked for."""
        self.seqs[slot] += 1
        message = EngineEvents(epoch=epoch, seq=self.seqs[slot], **events)  # type: ignore[arg-type]
        answer = self.core.engine_events(self.core.replicas.ids[slot], message, now_s)
        assert answer is not None
        return answer.resync

    def ask(self, request_id: str, keys: int = 0, *, slot: int | None = None, now_s: float = 0.0, **given: object):
        """A prompt of so many keys of the chain; placed if a slot is given."""
        prompt_bytes = BOUNDARIES[keys - 1] + 100 if keys else 100
        features = RequestFeatures(
            request_id=request_id, prefix_keys=CHAIN[:keys], **{"body_bytes": prompt_bytes, **given}  # type: ignore[arg-type]
        )  # fmt: skip
        prompt = self.kv.read(features, now_s)
        if slot is not None:
            self.place(features, prompt, slot, now_s)
        return prompt

    def place(self, features: RequestFeatures, prompt: Prompt, slot: int, now_s: float = 0.0) -> None:
        """A decision sent a prompt to a slot."""
        self.requests.reserve(features.request_id, slot, 100, now_s)
        self.requests.place(features, prompt, slot, self.candidates, now_s)
        self.core.validate()

    def resident(self, prompt: Prompt) -> list[int]:
        return [prompt.resident.tokens(slot) for slot in range(len(self.seqs))]


def test_what_engines_store_is_resident() -> None:
    """In tokens, by the bytes a token has: keys 1 to 16 end every 512 bytes. The end lies between two keys, in the
    middle for all one knows."""
    fleet = Fleet()
    fleet.tell(1, stored=list(CHAIN[:4]))
    prompt = fleet.ask("r", 8)
    assert prompt.tokens == (8 * 512 + 100) // 4
    assert fleet.resident(prompt) == [0, (4 * 512 + 256) // 4, 0]
    fleet.tell(1, evicted=[CHAIN[3], CHAIN[2]])
    assert fleet.resident(fleet.ask("r", 8)) == [0, (2 * 512 + 256) // 4, 0]


def test_somebody_else_may_size_an_endpoint() -> None:
    """One that tells nothing itself has the capacity that was read off it."""
    fleet = Fleet()
    fleet.kv.set_scraped_capacity(2, 7_000)
    assert fleet.kv.signals.capacity[:3].tolist() == [100_000, 100_000, 7_000]
    fleet.core.validate()


def test_an_endpoint_that_tells_nothing_is_mirrored() -> None:
    """Slot 3 has room for 2,500 tokens: the second prompt pushes the first one out, tail first. A restart empties it,
    and so does an engine that begins to tell."""
    fleet = Fleet()
    kv = fleet.kv
    fleet.add_slot("r3")
    kv.set_scraped_capacity(3, 2_500)
    other = tuple(range(5000, 5010))
    fleet.ask("r1", 8, slot=3)
    assert kv.index.holds(3, CHAIN[7]) and kv.index.expected == 0
    features = RequestFeatures(request_id="r2", prefix_keys=other, body_bytes=BOUNDARIES[9])
    fleet.place(features, kv.read(features, 0.0), 3)
    assert kv.index.holds(3, other[9])
    assert kv.index.holds(3, CHAIN[0]) and not kv.index.holds(3, CHAIN[7])
    kv.restarted(3)
    assert not kv.index.holds(3, other[0])
    fleet.ask("r3", 8, slot=3)
    fleet.tell(3, snapshot=True, stored=[CHAIN[0]])
    assert [kv.index.holds(3, key) for key in CHAIN[:2]] == [True, False]
    fleet.tell(3, evicted=[CHAIN[0]])
    kv.observe_scraped_hits(3, 100_000)
    kv.set_scraped_capacity(3, 9_000)
    fleet.ask("r4", 8, slot=3)
    assert kv.index.expected == 8
    kv.validate()


def test_a_decision_is_expected_to_come_true() -> None:
    """Followers see the prompt where it was sent, until its time is up; its prefill is in front of them."""
    fleet = Fleet()
    fleet.ask("r1", 8, slot=2)
    follower = fleet.ask("r2", 8)
    assert fleet.resident(follower) == [0, 0, (8 * 512 + 50) // 4]
    assert fleet.kv.signals.waiting[2] == (8 * 512 + 100) // 4
    assert fleet.resident(fleet.ask("r3", 8, now_s=EXPECTED_S)) == [0, 0, 0]


def test_the_engine_s_count_anchors_the_next_turn() -> None:
    """After a prompt of 900 tokens and an answer of 50, 950 are at home and only the added bytes are a guess."""
    fleet = Fleet()
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
    fleet = Fleet()
    fleet.ask("r1", slot=1, session="s", body_bytes=300)
    fleet.tell(1, first=[FirstToken("r1", 70, 0)], finished=[Finished("r1", 70, 20)])
    assert fleet.resident(fleet.ask("r2", session="s", body_bytes=450)) == [0, 90, 0]
    assert fleet.resident(fleet.ask("r2", body_bytes=450)) == [0, 0, 0]


def test_a_plain_endpoint_keeps_its_conversations_by_the_router_s_own_account() -> None:
    """Nothing is ever told: prompts are where decisions sent them, short ones by their session alone."""
    fleet = Fleet()
    fleet.add_slot("r3")
    fleet.ask("r1", slot=3, session="short", body_bytes=400)
    fleet.ask("r2", 8, slot=3, session="long")
    assert fleet.resident(fleet.ask("r3", session="short", body_bytes=480)) == [0, 0, 0, 100]
    assert fleet.resident(fleet.ask("r4", 10, session="long")) == [0, 0, 0, (8 * 512 + 100) // 4]
    assert fleet.resident(fleet.ask("r5", 10, session="long", now_s=EXPECTED_S))[3] > 0


def test_first_tokens_release_and_teach() -> None:
    """Backlog, prefill time, prediction error; unknown ids and those of other replicas teach nothing."""
    fleet = Fleet()
    fleet.ask("r1", 8, slot=0)
    before = fleet.kv.columns.time_ms(0, 1000)
    fleet.tell(1, first=[FirstToken("nobody", 10, 0, 5.0)])
    fleet.tell(0, first=[FirstToken("r1", 1000, 100, 500.0)])
    counters = fleet.kv.counters
    assert fleet.kv.signals.waiting[0] == 0
    assert fleet.kv.columns.time_ms(0, 1000) > before
    assert (counters.prompt_tokens, counters.actual_cached_tokens, counters.predicted_cached_tokens) == (1000, 100, 0)
    assert sum(counters.prediction_error.counts) == 1
    assert counters.prediction_error.total == pytest.approx(0.1)


def test_a_queued_prefill_teaches_no_time() -> None:
    """The second of two at once waited for the first: its time to first token is not T of its own tokens."""
    fleet = Fleet()
    fleet.ask("r1", 8, slot=0)
    fleet.ask("r2", 8, slot=0, body_bytes=9000)
    fleet.tell(0, first=[FirstToken("r1", 1000, 0, 40.0), FirstToken("r2", 2000, 0, 80.0)])
    assert fleet.kv.times.observations == 1


def test_haproxy_s_lines_end_what_no_engine_told_of() -> None:
    """The backlog at once; what the engine may still say counts for a while after."""
    fleet = Fleet()
    fleet.ask("r1", 8, slot=0, session="s")
    fleet.ask("r2", 9, slot=0)
    fleet.requests.first_token("r2", 0.5)
    fleet.requests.end("r1", 1.0)
    assert fleet.kv.signals.waiting[0] == 0
    fleet.tell(0, finished=[Finished("r1", 900, 50)])
    assert fleet.ask("r3", 8, session="s").conversation.tokens == 950
    fleet.requests.end("r2", 2.0)
    fleet.requests.expire(2.0 + LINGER_S)
    assert len(fleet.requests) == 0


def test_a_later_turn_nobody_answered_leaves_the_conversation_alive() -> None:
    """What its earlier turns left at home is there, and will be asked for again; of a first turn there is nothing."""
    fleet = Fleet()
    fleet.ask("r1", 4, slot=0, session="s")
    fleet.requests.end("r1", 1.0)
    fleet.ask("r2", 6, slot=0, session="s", now_s=2.0)
    fleet.ask("r3", 6, slot=1, session="other", now_s=2.0)
    for request in ("r2", "r3"):
        fleet.requests.end(request, 3.0, served=False)
        fleet.core.validate()
    assert fleet.kv.conversations.live == 1
    assert fleet.kv.signals.footprint[0] > 0
    assert fleet.kv.signals.footprint[1] == 0
    again = fleet.ask("r4", 6, session="other", now_s=4.0)
    assert again.conversation is None, "nobody is at home where nobody was answered"


def test_kv_under_way_is_that_of_conversations_with_a_request() -> None:
    """Two of 30,000 tokens, of which one pauses: 20 % of 300,000 tokens are wanted, half of that at the moment."""
    fleet = Fleet()
    for request in ("r1", "r2"):
        fleet.ask(request, 8, slot=0, session=request)
        fleet.tell(0, first=[FirstToken(request, 30_000, 0, 0.0)])
    fleet.ask("r3")
    signals = fleet.kv.signals
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
    fleet = Fleet()
    fleet.tell(0, stored=[])
    for request in ("late", "behind"):
        fleet.ask(request, 8, slot=0, session=request)
    if by_haproxy:
        fleet.requests.end("late", 65.0, took_ms=60_000.0)
    else:
        fleet.tell(0, first=[FirstToken("late", 1000, 0, 60_000.0)], now_s=60.0)
    waiting = fleet.kv.signals.waiting[0]
    assert waiting > 0
    fleet.kv.expire(60.0)
    assert fleet.kv.signals.waiting[0] == waiting
    fleet.kv.expire(70.0)
    assert fleet.kv.signals.waiting[0] == 0


def test_who_served_is_the_home() -> None:
    """HAProxy could not connect to slot 0 and went to slot 2: the next turn is expected there."""
    fleet = Fleet()
    fleet.ask("r1", 8, slot=0, session="s")
    fleet.requests.end("r1", 1.0, served_by=2)
    assert fleet.kv.signals.footprint[:3].tolist() == [0, 0, (8 * 512 + 100) // 4]
    known = fleet.ask("r2", 8, session="s").conversation
    assert known is not None and known.slot == 2 and not known.under_way
    fleet.core.validate()


def test_who_served_an_earlier_turn_is_not_the_home() -> None:
    """Another edge's later turn went where this one was placed: the end of this one says nothing of that home."""
    fleet = Fleet()
    fleet.ask("r1", 8, slot=0, session="s")
    fleet.kv.conversations.learn(Conversation("s", NO_SLOT, 2000, 0, 8000, 0, -1, 0, 0.5, 2, home="r0"), 0)
    fleet.requests.end("r1", 1.0, served_by=2)
    known = fleet.kv.conversations.get("s")
    assert known is not None and (known.home, known.turn, known.tokens) == ("r0", 2, 2000)
    fleet.core.validate()


@pytest.mark.parametrize("came_back", [False, True])
def test_who_served_and_restarted_since_is_no_home(came_back: bool) -> None:
    """HAProxy went to slot 2, whose engine died in its answer and lives again before the line comes."""
    fleet = Fleet()
    fleet.ask("r1", 8, slot=0, session="s")
    if came_back:
        fleet.core.replicas.remove("r2")
        fleet.add_slot("r2")
    fleet.tell(2, epoch="another life", snapshot=True)
    fleet.requests.end("r1", 1.0, served_by=2)
    assert fleet.kv.conversations.get("s") is None
    assert fleet.kv.signals.footprint[:3].tolist() == [0, 0, 0]
    fleet.ask("r2", 8, slot=2, session="s")
    fleet.requests.end("r2", 2.0)
    assert fleet.kv.conversations.get("s") is not None
    fleet.core.validate()


def test_gaps_and_strangers_ask_for_a_snapshot() -> None:
    """Deltas of an engine never heard, and deltas after a lost message, are not believed until all is told."""
    fleet = Fleet()
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
    fleet = Fleet()
    fleet.ask("r1", 8, slot=0, session="s")
    fleet.tell(0, stored=list(CHAIN[:8]), first=[FirstToken("r1", 1000, 0, 500.0)])
    fleet.ask("r2", 9, slot=0)
    learned = fleet.kv.columns.time_ms(0, 1000)
    assert fleet.tell(0, epoch="second")
    assert fleet.kv.index.match(CHAIN) == []
    assert (fleet.kv.signals.waiting[0], fleet.kv.signals.footprint[0]) == (0, 0)
    assert fleet.ask("r3", 9, session="s").conversation is None
    assert fleet.kv.columns.time_ms(0, 1000) == learned
    assert fleet.kv.counters.restarts == 1
    fleet.core.validate()


def test_a_slot_changes_hands_clean() -> None:
    """The replica that left takes everything with it."""
    fleet = Fleet()
    fleet.ask("r1", 8, slot=0, session="s")
    fleet.tell(0, stored=list(CHAIN[:8]))
    fleet.core.replicas.remove("r0")
    fleet.add_slot("another")
    assert not fleet.kv.reports(0)
    assert fleet.kv.index.match(CHAIN) == []
    assert (fleet.kv.signals.waiting[0], fleet.kv.signals.footprint[0]) == (0, 0)
    fleet.requests.first_token("r1", 0.5)
    fleet.core.validate()


def test_regret_is_what_a_better_holder_held() -> None:
    """Slot 2 holds all keys, 1,024 tokens, and half of what is left; the request went to slot 0, which holds two."""
    fleet = Fleet()
    fleet.tell(2, stored=list(CHAIN[:8]))
    fleet.tell(0, stored=list(CHAIN[:2]))
    fleet.ask("r", 8, slot=0)
    assert (fleet.kv.counters.best_cached_tokens, fleet.kv.counters.selected_cached_tokens) == (1036, 320)


def test_predictions_are_whole_blocks() -> None:
    """What is counted as predicted is what an engine with blocks of 128 tokens can reuse: 256 of the 320 expected."""
    fleet = Fleet()
    fleet.tell(0, stored=list(CHAIN[:2]), block_tokens=128)
    fleet.ask("r", 8, slot=0)
    assert fleet.kv.counters.selected_cached_tokens == 256


def test_what_was_expected_and_never_came_is_void_at_the_end() -> None:
    """Stored and evicted within one message, or never stored: a request that ended holds no more than it said."""
    fleet = Fleet()
    fleet.ask("r1", 8, slot=0)
    fleet.tell(0, stored=list(CHAIN[:4]))
    fleet.tell(0, evicted=list(CHAIN[3:8]), first=[FirstToken("r1", 1000, 0, 1.0)])
    assert fleet.kv.index.holds(0, CHAIN[7])
    fleet.tell(0, finished=[Finished("r1", 1000, 10)])
    assert [fleet.kv.index.holds(0, key) for key in CHAIN[:8]] == [True] * 3 + [False] * 5
    fleet.core.validate()


def test_odd_prompts_are_read_and_placed() -> None:
    """No body at all, more keys than there are boundaries, a body shorter than its keys."""
    fleet = Fleet()
    assert fleet.ask("r1", body_bytes=0, slot=0).tokens == 1
    many = RequestFeatures(request_id="r2", prefix_keys=tuple(range(200)), body_bytes=10)
    prompt = fleet.kv.read(many, 0.0)
    fleet.place(many, prompt, 1)
    assert prompt.tokens == BOUNDARIES[-1] // 4


def test_the_end_of_a_request_whose_replica_left_meanwhile_is_taken() -> None:
    """Nobody answered it; keys that others are expected to hold stay expected."""
    fleet = Fleet(2)
    for slot, request in enumerate(("q0", "q1")):
        features = RequestFeatures(request_id=request, prefix_keys=(10 + slot,), body_bytes=2000)
        fleet.place(features, fleet.kv.read(features, 0.0), slot)
    fleet.core.replicas.remove("r0")
    fleet.requests.end("q0", 1.0, served=False)
    assert fleet.kv.index.match((11,))
    fleet.core.validate()
