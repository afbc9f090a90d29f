"""Whether another replica computes a prompt, and which: the half of a decision beside the replica that decodes.

Which prefill replica is best does not depend on the decoding one, so `best_elsewhere` is found first. A policy that
goes by KV weighs each decode replica with it (`Candidates.elsewhere`): the pair is chosen as one. For the others
`choose_prefill` finds it after they chose by load.

The decoding replica takes the prefill over when little of the prompt is left to compute there, and when every prefill
replica would make the request wait for longer than that is worth. With KV signals, in milliseconds, for a
prompt of L tokens of which m_w are resident on w (u_w = max(1, L - m_w)), d the decoding replica and p a prefill one:

    remote_p = T_p(A_p) + T_p(u_p) + handoff      A_w: prefill backlog, tokens; T_w: the replica's own prefill time
    local    = T_d(A_d) + T_d(u_d)
    paired with the p of least remote_p, while remote_p <= patience * local

Without KV signals the fewest tokens of prompt under way choose, and nothing is ever too busy.
"""

from __future__ import annotations

import random
from enum import StrEnum
from typing import Annotated, NamedTuple

from msgspec import Meta

from pointsman.policies.candidates import NO_SLOT, Candidates, Elsewhere, KVSignals, Slots
from pointsman.policies.policy import PolicyConfig


class Pairing(StrEnum):
    """Who computes the prompt of a request that goes to a decode replica, and why. Metric label and explain output."""

    # Counted on every request of a disaggregated fleet; Enum's own hash is a Python call.
    __hash__ = str.__hash__

    PAIRED = "paired"
    """A prefill replica."""
    SHORT = "short"
    """The decode replica: the whole prompt is shorter than `min_uncached_tokens`."""
    RESIDENT = "resident"
    """The decode replica: it holds so much of the prompt that less than `min_uncached_tokens` are left."""
    SLOWER = "slower"
    """The decode replica: every prefill replica would take too long, by its queue or by what it does not hold."""
    NO_PREFILL = "no-prefill"
    """The decode replica: no prefill replica of its model is healthy and not draining."""


class PairConfig(PolicyConfig, frozen=True, kw_only=True):
    """When a prompt is computed by a prefill replica."""

    min_uncached_tokens: Annotated[
        int,
        Meta(ge=0, description="Tokens left to compute on the decode replica from which a prefill replica takes them."),
    ] = 1024
    handoff_ms: Annotated[
        float, Meta(ge=0.0, le=60_000.0, description="What the second leg and the transfer of KV cost a request.")
    ] = 10.0
    patience: Annotated[
        float,
        Meta(
            gt=0.0,
            le=1000.0,
            description="How many times longer than on the decode replica the prompt may take. Above 1, because what "
            "is computed elsewhere does not hold up the decode replica's streams.",
        ),
    ] = 3.0


class Pair(NamedTuple):
    """The answer. `slot` and `uncached` (tokens it has to compute) mean something when paired."""

    pairing: Pairing
    slot: int = NO_SLOT
    uncached: int = 0


NO_PREFILL = Pair(Pairing.NO_PREFILL)


def best_elsewhere(
    config: PairConfig, candidates: Candidates, prefills: Slots, prompt_tokens: int, rng: random.Random
) -> Elsewhere | None:
    """The slot of `prefills` that would compute the prompt soonest; None where there is none, or the prompt is short.

    Without KV signals its milliseconds are 0: it is never too busy.
    """
    if not len(prefills) or prompt_tokens < config.min_uncached_tokens:
        return None
    resident, kv = candidates.resident.tokens, candidates.kv
    best: tuple[float, int, float, int] | None = None
    for slot in prefills.tolist():
        if kv is None:
            cost = float(candidates.in_flight_tokens.item(slot))
        else:
            cost = kv.prefill_ms.item(slot) + _prefill_ms(kv, slot, max(1, prompt_tokens - resident(slot)))
        drawn = (cost, candidates.in_flight.item(slot), rng.random(), slot)
        if best is None or drawn < best:
            best = drawn
    assert best is not None
    slot = best[3]
    uncached = max(1, prompt_tokens - resident(slot))
    queue_ms = miss_ms = 0.0
    if kv is not None:
        queue_ms, miss_ms = kv.prefill_ms.item(slot), _prefill_ms(kv, slot, uncached) + config.handoff_ms
    return Elsewhere(slot, queue_ms, miss_ms, uncached, config.min_uncached_tokens, config.patience)


def choose_prefill(
    config: PairConfig,
    candidates: Candidates,
    decode: int,
    prefills: Slots,
    prompt_tokens: int,
    rng: random.Random,
) -> Pair:
    """Pairs the slot `decode` with one of the slots `prefills` or with none; `candidates` has columns for both.

    `candidates.elsewhere`, where it is set, is the one that `decode` was chosen for.
    """
    if not len(prefills):
        return NO_PREFILL
    elsewhere = candidates.elsewhere or best_elsewhere(config, candidates, prefills, prompt_tokens, rng)
    if elsewhere is None:
        return Pair(Pairing.SHORT)
    left = max(1, prompt_tokens - candidates.resident.tokens(decode))
    if left < config.min_uncached_tokens:
        return Pair(Pairing.RESIDENT)
    kv = candidates.kv
    local_ms = 0.0 if kv is None else kv.prefill_ms.item(decode) + _prefill_ms(kv, decode, left)
    if not elsewhere.spares(left, local_ms):
        return Pair(Pairing.SLOWER)
    return Pair(Pairing.PAIRED, elsewhere.slot, elsewhere.uncached)


def _prefill_ms(kv: KVSignals, slot: int, tokens: int) -> float:
    return float(kv.base_ms.item(slot) + tokens * (kv.per_token_ms.item(slot) + tokens * kv.per_square_ms.item(slot)))
