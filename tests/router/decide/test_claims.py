"""What a client announces of its body: it decides of its own request, and moves nobody else's."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from invariants import check

from pointsman.contract.events import EngineEvents, Finished, FirstToken
from pointsman.contract.registration import Registration
from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.decide.features import BELIEVED_BYTES, MAX_BODY_BYTES, expected_tokens, extract
from pointsman.router.fleet.load import MAX_REQUEST_TOKENS

CONTEXT = 131_072
CAPACITY = 500_000
WINDOW = 114_688
"""What HAProxy has of a body when it asks."""
MINUTE_MS = 60_000.0

ADMITTING = {"policy": "kv_cost", "admission": {"limit": 0.9}}
BY_TOKENS = {"policy": "least_load", "by": "tokens"}


class Edge:
    """Four replicas whose engines report, and the pipeline in front of them."""

    def __init__(self, document: dict[str, Any], *, capacity: int = CAPACITY) -> None:
        self.core = Core(document, rng=random.Random(7))
        self.load, self.kv = self.core.load, self.core.kv
        self.replicas, self.pipeline = self.core.replicas, self.core.pipeline
        self.seqs = Counter[str]()
        for number in range(4):
            registration = Registration(url=f"http://127.0.0.1:{8000 + number}")
            self.replicas.put(f"r{number}", registration, ("127.0.0.1", 8000 + number), 0.0)
            self.core.catalog.put(f"r{number}", {"m": {"id": "m", "max_model_len": CONTEXT}})
            self.tell(f"r{number}", snapshot=True, capacity_tokens=capacity)

    def tell(self, replica: str, now_s: float = 0.0, **events: Any) -> None:
        self.seqs[replica] += 1
        self.core.engine_events(replica, EngineEvents(epoch="e", seq=self.seqs[replica], **events), now_s)

    def ask(self, request: str, size: int, seen: int | None = None, *, now_s: float = 0.0, **given: Any) -> Decision:
        """A lookup for a body of `size` bytes of which `seen` arrived (None: all)."""
        arguments = {"id": request.encode(), "size": size, "seen": size if seen is None else seen, **given}
        return self.pipeline.decide(extract(arguments), now_s)

    def honest(self, name: str, now_s: float = 0.0) -> str:
        """A short request, answered whole."""
        decision = self.ask(name, 2_000, session=name.encode(), now_s=now_s)
        if not decision.first:
            return str(decision.reason)
        self.tell(decision.first, now_s, first=[FirstToken(name, 500, 0, 30.0)], finished=[Finished(name, 500, 10)])
        self.over(name, 200, now_s)
        return decision.first

    def over(self, request: str, status: int, now_s: float = 0.0) -> None:
        """HAProxy's line."""
        self.core.requests.end(request, now_s, served=200 <= status < 300)
        check(self.core)


@pytest.mark.parametrize(
    ("document", "window"),
    [
        pytest.param({"policy": "kv_cost"}, WINDOW, id="kv_cost"),
        pytest.param(ADMITTING, WINDOW, id="admission"),
        pytest.param(BY_TOKENS, 16_384, id="tokens"),
    ],
)
def test_idle_connections_that_announce_much_move_nobody(document: dict[str, Any], window: int) -> None:
    """Three announce 30 MB, send what HAProxy looks at and no more. A second later requests of 4 KB, 48 at a time, are
    spread over all four replicas."""
    edge = Edge(document)
    for number in range(3):
        edge.ask(f"lie{number}", 30_000_000, window)
    chosen = Counter[str]()
    for batch in range(8):
        now_s = 1.0 + batch
        asked = {f"b{batch}.{n}": edge.ask(f"b{batch}.{n}", 4_000, now_s=now_s).first for n in range(48)}
        chosen.update(asked.values())
        for request, replica in asked.items():
            edge.tell(replica, now_s, first=[FirstToken(request, 1_000, 0, 0.0)])
            edge.over(request, 200, now_s)
    assert not chosen[""], "refused"
    assert max(chosen.values()) / (sum(chosen.values()) / 4) <= 1.3, chosen


@pytest.mark.parametrize("size", [30_000_000, 40_000_000, MAX_BODY_BYTES, 2**63 - 1])
def test_a_lie_leaves_no_conversation(size: int) -> None:
    """An honest turn, then a lie of the same session that is gone at once: no conversation that begins is refused."""
    edge = Edge(ADMITTING, capacity=32_768)
    edge.honest("liar")
    before = edge.kv.columns.signals.footprint.tolist()
    assert edge.ask("lie", size, WINDOW, session=b"liar").first
    edge.over("lie", -1)
    assert edge.kv.columns.signals.footprint.tolist() == before
    assert {edge.honest(f"h{n}", 0.01 * n) for n in range(100)} <= {"r0", "r1", "r2", "r3"}


@pytest.mark.parametrize("size", [2**40, 2**62, 2**63 - 1, 10**30])
def test_no_score_exceeds_a_minute_because_of_a_lie(size: int) -> None:
    """Neither the liar's own nor anybody else's, at once or after it; and no column wraps."""
    edge = Edge({"policy": "kv_cost"})
    for number in range(60):
        edge.ask(f"lie{number}", size, WINDOW)
    for body_bytes in (2_000, size):
        features = RequestFeatures(request_id="", body_bytes=min(body_bytes, 2**53))
        scores = [row.score for row in edge.pipeline.explain(features, 0.0).candidates]
        assert max(scores) < MINUTE_MS
    assert 0 < edge.load.in_flight_tokens[:4].min() <= edge.load.in_flight_tokens.max() <= 60 * CONTEXT
    for number in range(60):
        edge.over(f"lie{number}", 408)
    assert not edge.load.in_flight_tokens.any() and not edge.kv.columns.signals.waiting.any()


def test_a_long_prompt_of_a_known_conversation_is_believed() -> None:
    """A turn of 400 KB was answered; the next, of which HAProxy has 112 KiB, counts whole: agents' prompts are long."""
    edge = Edge({"policy": "kv_cost"})
    home = edge.ask("first", 400_000, WINDOW, session=b"agent").first
    slot = edge.replicas.slot_of(home)
    assert edge.kv.columns.signals.waiting[slot] == WINDOW // 4
    assert edge.kv.columns.signals.footprint[slot] == 0
    edge.tell(home, first=[FirstToken("first", 100_000, 0, 2000.0)], finished=[Finished("first", 100_000, 50)])
    edge.over("first", 200)
    assert edge.kv.columns.signals.footprint[slot] == 100_050
    other = edge.ask("second", 420_000, WINDOW, session=b"agent").first
    assert edge.kv.columns.signals.footprint[edge.replicas.slot_of(other)] > 100_050


def test_an_announced_prompt_counts_once_it_is_answered() -> None:
    """A plain endpoint reports nothing: HAProxy's line with a 2xx status says that all of the body went there."""
    edge = Edge({"policy": "kv_cost"})
    first = edge.ask("r", 400_000, WINDOW, session=b"s").first
    edge.over("r", 200)
    assert edge.kv.columns.signals.footprint[edge.replicas.slot_of(first)] == 100_000


def test_what_has_not_arrived_counts_up_to_a_limit() -> None:
    """Headers come before bodies: 16 KiB are believed, of more what arrived."""
    short, long = extract({"size": 10_000, "seen": 0}), extract({"size": 10**6, "seen": 0})
    assert (short.missing_bytes, long.missing_bytes) == (0, 10**6 - BELIEVED_BYTES)
    assert extract({"size": 10**6, "seen": 500_000}).missing_bytes == 500_000
    assert extract({"size": 10**6}).missing_bytes == 0, "nobody said how much arrived"
    assert expected_tokens(long) == BELIEVED_BYTES // 4 + 256


def test_lengths_beyond_all_bounds_are_none() -> None:
    """What arrived counts instead."""
    assert extract({"size": MAX_BODY_BYTES + 1, "seen": 700}).body_bytes == 700
    assert extract({"size": 2**63 - 1}).body_bytes == 0
    assert extract({"size": -5, "seen": -7}).body_bytes == 0
    assert extract({"size": 100, "seen": 2**80}).missing_bytes == 0


def test_output_bounds_count_up_to_the_context() -> None:
    """`max_tokens` is a claim like any other: a request takes no more than the model's context."""
    features = RequestFeatures(request_id="r", body_bytes=4_000, max_tokens=2**32 - 1)
    assert expected_tokens(features, CONTEXT) == CONTEXT


def test_a_reservation_that_fails_leaves_nothing() -> None:
    """A slot that does not exist is a programming error; the table is as it was. Tokens are bounded."""
    core = Edge(BY_TOKENS).core
    with pytest.raises(IndexError):
        core.requests.reserve("r", 10**6, 5, 0.0)
    assert "r" not in core.requests
    core.requests.reserve("r", 0, 10**30, 0.0)
    assert core.load.in_flight_tokens[0] == MAX_REQUEST_TOKENS
    check(core)
    core.requests.end("r", 0.0)
    check(core)


def test_a_long_prompt_counts_whole_from_its_first_token_on() -> None:
    """Until then its announced part does not; afterwards its tokens are taken back with it."""
    edge = Edge(BY_TOKENS)
    first = edge.ask("r", 400_000, 16_384).first
    slot = edge.replicas.slot_of(first)
    assert edge.load.in_flight_tokens[slot] == 16_384 // 4 + 256
    edge.tell(first, first=[FirstToken("r", 100_000, 0, 0.0)])
    assert edge.load.in_flight_tokens[slot] == 100_000 + 256
    check(edge.load)
    edge.over("r", 200)
    assert edge.load.in_flight_tokens[slot] == 0
