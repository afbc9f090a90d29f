"""Whether another replica computes a prompt, and which."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from candidates import make_candidates
from hypothesis import given
from hypothesis import strategies as st

from pointsman.contract.config import decode
from pointsman.policies.candidates import Candidates
from pointsman.policies.errors import PolicyConfigError
from pointsman.policies.lib.pair import Pair, PairConfig, Pairing, choose_prefill

CONFIG = PairConfig(min_uncached_tokens=1000)


def pair(
    candidates: Candidates, prefills: str, *, prompt: int = 8000, config: PairConfig = CONFIG, seed: int = 0
) -> Pair:
    """The pairing of replica `d` with one of the replicas named by single letters."""
    slots = np.array([candidates.ids.index(name) for name in prefills], dtype=np.intp)
    decode = candidates.ids.index("d")
    return choose_prefill(config, candidates, decode, slots, prompt, random.Random(seed))


def plain(**loads: int) -> Candidates:
    """Candidates as a policy without KV signals gets them."""
    candidates = make_candidates(loads)
    candidates.kv = None
    return candidates


def test_a_long_prompt_is_paired_with_the_idle_prefill_replica() -> None:
    """The other has a backlog of 50,000 tokens."""
    candidates = make_candidates({"d": 0, "p": 0, "q": 0}, kv={"waiting": [0, 50_000, 0]})
    found = pair(candidates, "pq")
    assert (found.pairing, candidates.ids[found.slot], found.uncached) == (Pairing.PAIRED, "q", 8000)


def test_a_prefill_replica_that_holds_the_prompt_goes_before_an_idle_one() -> None:
    """8,000 tokens to compute cost more than 2,000 to compute behind 1,000 of somebody else."""
    candidates = make_candidates({"d": 0, "p": 0, "q": 0}, resident={"p": 6000}, kv={"waiting": [0, 1000, 0]})
    found = pair(candidates, "pq")
    assert (candidates.ids[found.slot], found.uncached) == ("p", 2000)


@pytest.mark.parametrize(
    ("prompt", "held", "expected"),
    [
        pytest.param(999, 0, Pairing.SHORT, id="short"),
        pytest.param(1000, 0, Pairing.PAIRED, id="at the threshold"),
        pytest.param(8000, 7001, Pairing.RESIDENT, id="decode holds the rest"),
        pytest.param(8000, 7000, Pairing.PAIRED, id="decode holds just too little"),
        pytest.param(8000, 9000, Pairing.RESIDENT, id="more predicted than there is"),
    ],
)
def test_what_is_left_to_compute_decides(prompt: int, held: int, expected: Pairing) -> None:
    """The threshold counts tokens that the decode replica does not hold."""
    candidates = make_candidates({"d": 0, "p": 0}, resident={"d": held, "p": held} if held else None)
    assert pair(candidates, "p", prompt=prompt).pairing is expected


def test_without_prefill_replicas_the_decode_replica_computes() -> None:
    """And that is said apart from a prompt that is short."""
    assert pair(make_candidates({"d": 0}), "").pairing is Pairing.NO_PREFILL


def test_a_pool_too_busy_is_left_alone() -> None:
    """With twice the patience the same queue is worth waiting for."""
    candidates = make_candidates({"d": 0, "p": 0}, kv={"waiting": [0, 30_000]})
    assert pair(candidates, "p").pairing is Pairing.SLOWER
    patient = PairConfig(min_uncached_tokens=1000, patience=6.0)
    assert pair(candidates, "p", config=patient).pairing is Pairing.PAIRED


def test_a_decode_replica_that_holds_more_computes_the_rest() -> None:
    """3,000 tokens there, against all 8,000 on a prefill replica that never saw the prompt."""
    candidates = make_candidates({"d": 0, "p": 0}, resident={"d": 5000})
    assert pair(candidates, "p", prompt=8000).pairing is Pairing.PAIRED, "190 ms are no more than thrice 80 ms"
    impatient = PairConfig(min_uncached_tokens=1000, patience=2.0)
    assert pair(candidates, "p", prompt=8000, config=impatient).pairing is Pairing.SLOWER


def test_the_decode_replicas_own_queue_counts() -> None:
    """Where both queues are long, handing over is no worse than staying."""
    candidates = make_candidates({"d": 0, "p": 0}, kv={"waiting": [30_000, 30_000]})
    assert pair(candidates, "p").pairing is Pairing.PAIRED


def test_without_kv_signals_the_fewest_tokens_under_way_choose() -> None:
    """Policies that look at load alone spread prompts all the same, and nothing is called busy."""
    candidates = plain(d=0, p=3, q=2)
    found = pair(candidates, "pq")
    assert (found.pairing, candidates.ids[found.slot], found.uncached) == (Pairing.PAIRED, "q", 8000)


def test_equals_are_spread_by_dice() -> None:
    """Two idle prefill replicas: a thousand draws, half each; sqrt(250) = 16 is one standard deviation."""
    candidates = make_candidates({"d": 0, "p": 0, "q": 0})
    shares = Counter(candidates.ids[pair(candidates, "pq", seed=seed).slot] for seed in range(1000))
    assert abs(shares["p"] - 500) < 80


@given(
    st.integers(0, 200_000),
    st.dictionaries(st.sampled_from("dpq"), st.integers(0, 200_000)),
    st.tuples(*[st.integers(0, 200_000)] * 3),
    st.sampled_from(["", "p", "q", "pq"]),
    st.booleans(),
)
def test_whatever_is_known_one_answer_comes(
    prompt: int, resident: dict[str, int], waiting: tuple[int, ...], prefills: str, by_kv: bool
) -> None:
    """Paired exactly when a slot is named, which is one of those offered and has something to compute."""
    candidates = make_candidates({"d": 1, "p": 2, "q": 0}, resident=resident, kv={"waiting": waiting})
    if not by_kv:
        candidates.kv = None
    found = pair(candidates, prefills, prompt=prompt)
    assert (found.pairing is Pairing.PAIRED) == (found.slot >= 0)
    if found.slot >= 0:
        assert candidates.ids[found.slot] in prefills
        assert 1 <= found.uncached <= prompt


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"min_uncached_tokens": -1}, id="negative threshold"),
        pytest.param({"patience": 0}, id="no patience"),
        pytest.param({"treshold": 1}, id="misspelt"),
    ],
)
def test_odd_configuration_is_refused(document: dict[str, Any]) -> None:
    """Decoded as strictly as a policy's."""
    with pytest.raises(PolicyConfigError):
        decode(document, PairConfig, error=PolicyConfigError)
