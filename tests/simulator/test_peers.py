"""Peers' rules on numbers one can check by hand."""

from __future__ import annotations

from typing import Any

import pytest
from candidates import make_candidates, make_context, make_features, names

from pointsman.policies.candidates import Candidates, Residency
from pointsman.policies.registry import build_policy
from pointsman.router.decide.features import DEFAULT_OUTPUT_TOKENS
from pointsman.router.kv.columns import KVColumns
from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.peers.registry import PEERS, known_policies, policy_named
from pointsman.simulator.peers.scores import PeerPolicy, Signals


def fleet(
    *,
    prompt: int,
    requests: list[int],
    waiting: list[int] | None = None,
    matched: list[int] | None = None,
    prompts: list[int] | None = None,
) -> Candidates:
    """Replicas r0, r1, ...; `prompts`: prompt tokens of the requests in flight."""
    n = len(requests)
    prompts = prompts or [0] * n
    tokens = {f"r{i}": prompts[i] + DEFAULT_OUTPUT_TOKENS * requests[i] for i in range(n)}
    candidates = make_candidates(requests, tokens=tokens)
    columns = KVColumns()
    for slot in range(n):
        columns.add_slot(slot)
        columns.set_times(slot, 20.0, 0.02, 0.0)
        columns.add_waiting(slot, waiting[slot] if waiting else 0)
    candidates.kv = columns.signals
    candidates.prompt_tokens = prompt
    candidates.resident = Residency([(held, [slot]) for slot, held in enumerate(matched or []) if held])
    return candidates


def scores(name: str, candidates: Candidates) -> list[float]:
    policy = build_policy(policy_named(name), known_policies())
    assert isinstance(policy, PeerPolicy)
    return policy.scores(Signals(candidates)).tolist()


def test_dynamo_counts_blocks() -> None:
    """6,400 tokens, 3,200 of them on r0, where 640 wait and a prompt of 6,400 decodes; r1 is idle and cold.

    r0: (640 + 6400)/64 - 3200/64 = 60 to prefill, 100 + 100 to decode. r1: 100 to prefill, 100 to decode.
    """
    candidates = fleet(prompt=6_400, requests=[1, 0], waiting=[640, 0], matched=[3_200, 0], prompts=[6_400, 0])
    assert scores("dynamo_default", candidates) == [60 + 200, 100 + 100]


def test_dynamo_tuned_credits_a_hit_twice() -> None:
    """Credit 2 makes 110 - 100 = 10 blocks, scale 16 makes them 160: the warm replica wins by far."""
    candidates = fleet(prompt=6_400, requests=[1, 0], waiting=[640, 0], matched=[3_200, 0], prompts=[6_400, 0])
    assert scores("dynamo_tuned", candidates) == [160 + 200, 1_600 + 100]


def test_dynamo_agentic_counts_requests() -> None:
    """Scale 4 and 64 a request: 40 + 200 + 64 against 400 + 100."""
    candidates = fleet(prompt=6_400, requests=[1, 0], waiting=[640, 0], matched=[3_200, 0], prompts=[6_400, 0])
    assert scores("dynamo_agentic", candidates) == [40 + 200 + 64, 400 + 100]


def test_lmetric_multiplies() -> None:
    """200 uncached tokens beside 4 requests cost 1,000; 1,000 beside none cost 1,000 too."""
    assert scores("lmetric", fleet(prompt=1_000, requests=[4, 0], matched=[800, 0])) == [1_000, 1_000]


def test_lmetric_never_multiplies_by_nothing() -> None:
    """A whole hit still computes its last token."""
    assert scores("lmetric", fleet(prompt=1_000, requests=[4], matched=[1_000])) == [5]


def test_ramjet_trades_units_for_load() -> None:
    """20 units of 512 tokens on r0 against 6 requests at 4 each: 24 - 20 = 4. r1 has a queue of one request."""
    candidates = fleet(prompt=20_000, requests=[6, 0], waiting=[0, 8_192], matched=[20 * 512, 0])
    assert scores("ramjet", candidates) == [24 - 20, 4]


def test_ramjet_caps_affinity() -> None:
    """40 units count as 32; who lacks 10 of them is 10 behind; who lacks more than 32 has none."""
    candidates = fleet(prompt=30_000, requests=[0, 0, 0], matched=[40 * 512, 30 * 512, 0])
    assert scores("ramjet", candidates) == [-32, -22, 0]


def test_two_tier_takes_the_longest_match_in_balance() -> None:
    """More than half of the prompt on r1 and r2: the less loaded of them, r2."""
    candidates = fleet(prompt=1_000, requests=[0, 9, 8], matched=[0, 600, 600])
    policy = build_policy(policy_named("two_tier"), known_policies())
    ranked = policy.rank(make_features("s"), candidates, make_context(limit=3))
    assert names(ranked, candidates) == ["r2", "r1", "r0"]


@pytest.mark.parametrize(
    ("requests", "matched"),
    [
        pytest.param([40, 5], [900, 0], id="out of balance"),
        pytest.param([9, 5], [400, 0], id="match too short"),
    ],
)
def test_two_tier_otherwise_takes_the_least_loaded(requests: list[int], matched: list[int]) -> None:
    """35 more and 8 times as many is out of balance; 400 of 1,000 is no match."""
    assert scores("two_tier", fleet(prompt=1_000, requests=requests, matched=matched)) == requests


def test_stick_or_spill_sticks_until_saturated() -> None:
    """18 s at 15,928 tokens a second are 286,704 tokens: with fewer in front of it the home wins, with more not."""
    for waiting, home_wins in ((286_000, True), (287_000, False)):
        home, other = scores(
            "stick_or_spill", fleet(prompt=1_000, requests=[0, 0], waiting=[waiting, 0], matched=[900, 0])
        )
        assert (home < other) is home_wins


def test_stick_or_spill_ignores_short_matches() -> None:
    """79 % resident is not warm: the least uncached tokens in flight win."""
    home, other = scores("stick_or_spill", fleet(prompt=1_000, requests=[0, 0], waiting=[1, 0], matched=[790, 0]))
    assert other < home


def test_predicted_ttft_adds_queue_and_own_prefill() -> None:
    """T(x) = 20 + 0.02 x: 40 ms queued and 22 ms for 100 tokens at home; 40 ms for all 1,000 elsewhere."""
    candidates = fleet(prompt=1_000, requests=[0, 0], waiting=[1_000, 0], matched=[900, 0])
    assert scores("predicted_ttft", candidates) == [40 + 22, 40]


def test_equals_are_left_to_the_dice() -> None:
    """An idle cold fleet: every replica comes first at times."""
    candidates = fleet(prompt=1_000, requests=[0, 0, 0])
    policy = build_policy(policy_named("lmetric"), known_policies())
    first = {policy.rank(make_features("s"), candidates, make_context(seed))[0].slot for seed in range(40)}
    assert first == {0, 1, 2}


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_builds_and_describes_itself(name: str) -> None:
    """Its document is complete and says the constants it runs with."""
    document: dict[str, Any] = PEERS[name]
    described = build_policy(document, known_policies()).describe()
    assert described.items() >= document.items()


def test_hashing_and_sticking_are_our_own_policies() -> None:
    """Ray's ring has no bound; the bounded one has Mirrokni's 1.25; sticky sessions move for no load."""
    assert PEERS["hash_ring"]["compat"] == "ray"
    assert build_policy(PEERS["chwbl"]).describe()["load_factor"] == 1.25
    assert PEERS["sticky_least_load"]["policy"] == "session_affinity"


def test_an_unknown_name_is_refused() -> None:
    """With the names there are."""
    with pytest.raises(ExperimentError, match=r"got 'nope', expected one of chwbl, .*kv_cost"):
        policy_named("nope")


def test_an_installed_policy_goes_by_its_name() -> None:
    """With its defaults."""
    assert policy_named("least_load") == {"policy": "least_load"}
