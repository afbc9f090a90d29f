"""Whether a prefill replica computes a prompt, and which one: the second half of a decision for a decode replica.

Which prefill replica is best does not depend on the decode replica, so `best_remote_prefill` is found first. A policy
that goes by KV weighs each decode replica with it (`Candidates.remote_prefill`): the pair is chosen as one. For other
policies `choose_prefill` finds it after they chose a decode replica by load.

The decode replica computes the prompt itself when little of it is left to compute there, and when every prefill replica
would take so long that the wait is not worth it. With KV signals, in milliseconds, for a prompt of L tokens of which
m_w are resident on w (u_w = max(1, L - m_w)), d the decode replica and p a prefill replica:

    remote_p = T_p(A_p) + T_p(u_p) + handoff      A_w: prefill backlog, tokens; T_w: the replica's own prefill time
    local    = T_d(A_d) + T_d(u_d)
    paired with the p of least remote_p, while remote_p <= patience * local

Without KV signals the prefill replica with the fewest tokens in flight is chosen, and none is ever too busy.
"""

from __future__ import annotations

import random
from enum import StrEnum
from typing import Annotated, NamedTuple

from msgspec import Meta

from pointsman.policies.candidates import NO_SLOT, Candidates, RemotePrefill, Slots
from pointsman.policies.policy import PolicyConfig


class Pairing(StrEnum):
    """Replica that computes the prompt of a request to a decode replica, and why; metric label and explain output."""

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
        Meta(
            ge=0,
            description="Fewest tokens of a prompt, not yet in the decode replica's cache, that a prefill replica "
            "computes for it. Shorter rests are computed by the decode replica.",
        ),
    ] = 1024
    handoff_ms: Annotated[
        float,
        Meta(
            ge=0.0,
            le=60_000.0,
            description="Milliseconds that a prefill on another replica adds to a request: the prefill request itself "
            "and the transfer of its KV.",
        ),
    ] = 10.0
    patience: Annotated[
        float,
        Meta(
            gt=0.0,
            le=1000.0,
            description="Largest ratio of prefill time on the prefill replica to that on the decode replica. "
            "Above 1, because a remote prefill does not hold up the streams of the decode replica.",
        ),
    ] = 3.0


class Pair(NamedTuple):
    """The prefill replica for one decision, or why there is none."""

    pairing: Pairing
    slot: int = NO_SLOT
    """Slot of the prefill replica; NO_SLOT unless paired."""
    uncached: int = 0
    """Tokens that the prefill replica has to compute; 0 unless paired."""


NO_PREFILL = Pair(Pairing.NO_PREFILL)


def best_remote_prefill(
    config: PairConfig, candidates: Candidates, prefills: Slots, prompt_tokens: int, rng: random.Random
) -> RemotePrefill | None:
    """The replica of `prefills` that would compute a prompt soonest; equals by dice.

    None where `prefills` is empty or the prompt is shorter than `min_uncached_tokens`. Without KV signals the predicted
    times are 0: the replica is never too busy.
    """
    if not len(prefills) or prompt_tokens < config.min_uncached_tokens:
        return None
    resident, kv = candidates.resident.tokens, candidates.kv
    best: tuple[float, int, float, int] | None = None
    for slot in prefills.tolist():
        if kv is None:
            cost = float(candidates.in_flight_tokens.item(slot))
        else:
            cost = kv.prefill_ms.item(slot) + kv.time_ms(slot, max(1, prompt_tokens - resident(slot)))
        drawn = (cost, candidates.in_flight.item(slot), rng.random(), slot)
        if best is None or drawn < best:
            best = drawn
    assert best is not None
    slot = best[3]
    uncached = max(1, prompt_tokens - resident(slot))
    queue_ms = miss_ms = 0.0
    if kv is not None:
        queue_ms, miss_ms = kv.prefill_ms.item(slot), kv.time_ms(slot, uncached) + config.handoff_ms
    return RemotePrefill(
        slot=slot,
        queue_ms=queue_ms,
        miss_ms=miss_ms,
        uncached=uncached,
        min_uncached=config.min_uncached_tokens,
        patience=config.patience,
    )


def choose_prefill(
    config: PairConfig,
    candidates: Candidates,
    decode: int,
    prefills: Slots,
    prompt_tokens: int,
    rng: random.Random,
) -> Pair:
    """Pairs a decode replica with a prefill replica, or with none.

    candidates: columns that cover both; `remote_prefill`, where set, is what the decode replica was chosen for.
    decode: slot of the decode replica.
    prefills: slots of the eligible prefill replicas of its model.
    """
    if not len(prefills):
        return NO_PREFILL
    remote = candidates.remote_prefill or best_remote_prefill(config, candidates, prefills, prompt_tokens, rng)
    if remote is None:
        return Pair(Pairing.SHORT)
    uncached = max(1, prompt_tokens - candidates.resident.tokens(decode))
    if uncached < config.min_uncached_tokens:
        return Pair(Pairing.RESIDENT)
    kv = candidates.kv
    local_ms = 0.0 if kv is None else kv.prefill_ms.item(decode) + kv.time_ms(decode, uncached)
    if not remote.worthwhile(uncached, local_ms):
        return Pair(Pairing.SLOWER)
    return Pair(Pairing.PAIRED, remote.slot, remote.uncached)
