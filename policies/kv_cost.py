"""Least predicted time to first token, plus the harm done to others.

All terms are milliseconds. L is the prompt in tokens, m_w what of it is resident on w, u_w = max(1, L - m_w) what is
left, and T_w the replica's own prefill time:

    queue  = T_w(A_w)                               A_w: prefill backlog, tokens
    miss   = T_w(u_w)
    evict  = e * t_w * min(u_w, max(0, F'_w - o * C_w))
                                                    t_w: ms a token; C_w: KV capacity; F'_w: live KV with this one
    interf = i * miss * n_w                         n_w: requests in flight, whose decoding the prefill holds up
    tie    = s * (n_w + f * F_w / C_w)              F_w: live KV
    score  = queue + kappa * miss + evict + interf + tie

kappa is how much more a miss costs than its own time: the session pays it, and so does whoever queues behind. It goes
from `kappa_idle` to `kappa_full` as the candidates' KV fills with live conversations.

Affinity and its limit follow: the home of a conversation has miss near 0 and evicts nobody, so it is left exactly when
its queue is longer than the best other's by what leaving costs. So does the spread of hot prefixes: the queues of those
that hold one grow until a copy elsewhere is cheaper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from msgspec import Meta

from policies.base import Context, Needs, PlainPolicy, PolicyConfig
from policies.load import least
from policies.types import NO_SLOT, Candidates, FloatColumn, KVSignals, Ranked, Reason, Refusal, RequestFeatures

STEP_TOKENS = 8192.0
"""`t_w` is T(STEP_TOKENS) / STEP_TOKENS: what an evicted token costs when it is computed again with many others."""


class Admission(PolicyConfig, frozen=True, kw_only=True):
    """When conversations that begin are refused. Above the fleet's KV capacity no choice of replica helps: every turn
    evicts the next one's prefix."""

    limit: Annotated[
        float, Meta(gt=0.0, le=10.0, description="Share of the candidates' KV in use by live conversations.")
    ] = 0.9
    retry_after_s: Annotated[int, Meta(ge=1, le=3600, description="What a refused client is told to wait.")] = 2


class KVCostConfig(PolicyConfig, frozen=True, kw_only=True):
    """The constants of the score. They were fixed on traces of agents; the replicas' speed and size are measured."""

    kappa_idle: Annotated[
        float, Meta(ge=0.0, le=100.0, description="Weight of a miss while no live conversation keeps any KV.")
    ] = 1.0
    kappa_full: Annotated[float, Meta(ge=0.0, le=100.0, description="Weight of a miss once the KV is full.")] = 2.0
    full_at: Annotated[
        float,
        Meta(gt=0.0, le=10.0, description="Share of the candidates' KV in live use from which `kappa_full` counts."),
    ] = 0.7
    overflow_at: Annotated[
        float, Meta(ge=0.0, le=10.0, description="Share of a replica's KV from which a placement evicts live KV.")
    ] = 0.92
    evict_weight: Annotated[
        float, Meta(ge=0.0, le=100.0, description="Weight of what the evicted must compute again.")
    ] = 1.0
    interference: Annotated[
        float, Meta(ge=0.0, le=100.0, description="Share of a prefill by which each request in flight is held up.")
    ] = 0.1
    tie_ms: Annotated[
        float, Meta(ge=0.0, le=1000.0, description="Milliseconds a request in flight counts between near equals.")
    ] = 0.5
    tie_fill: Annotated[
        float, Meta(ge=0.0, le=1000.0, description="Requests that a full KV counts as between near equals.")
    ] = 10.0
    admission: Annotated[
        Admission | None,
        Meta(description="When conversations that begin are refused with 429: `{limit, retry_after_s}`; null: never."),
    ] = None


class KVCost(PlainPolicy[KVCostConfig]):
    """Least predicted time to first token plus harm done to others; equals by dice.

    Score: milliseconds.
    """

    name: ClassVar[str] = "kv_cost"
    Config: ClassVar[type[PolicyConfig]] = KVCostConfig

    def __init__(self, config: KVCostConfig) -> None:
        super().__init__(config)
        self.needs = Needs.SESSION | Needs.PREFIX | Needs.KV

    def admit(self, features: RequestFeatures, candidates: Candidates, context: Context) -> Refusal | None:
        admission = self.config.admission
        if admission is None or candidates.home != NO_SLOT:
            return None
        kv, slots = _signals(candidates), candidates.slots
        live, room = kv.footprint[slots].sum(), kv.capacity[slots].sum()
        if live + candidates.prompt_tokens <= admission.limit * room:
            return None
        return Refusal(Reason.ADMISSION, 429, admission.retry_after_s)

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        slots, home = candidates.slots, candidates.home
        parts = self._parts(candidates)
        score = parts.miss * parts.weight
        score += parts.queue
        score += parts.tie
        if parts.evict is not None:
            score += parts.evict
        # The parts cover the whole table: one gather at the end is cheaper than one for every column.
        score = score[slots]
        ranked = []
        for at, cost in least(score, min(context.limit, len(slots)), context.rng):
            slot = slots.item(at)
            if slot == home:
                reason = Reason.KV_HOME
            elif home != NO_SLOT:
                reason = Reason.KV_MOVED
            elif candidates.resident.tokens(slot):
                reason = Reason.KV_PREFIX
            else:
                reason = Reason.KV_COLD
            ranked.append(Ranked(slot, reason, cost))
        return ranked

    def terms(self, features: RequestFeatures, candidates: Candidates) -> Mapping[str, FloatColumn]:
        slots, config = candidates.slots, self.config
        parts = self._parts(candidates)
        evict = np.zeros(len(slots)) if parts.evict is None else parts.evict[slots]
        miss = parts.miss[slots]
        return {
            "queue": parts.queue[slots],
            "miss": self.kappa(_signals(candidates).usage) * miss,
            "evict": evict,
            "interference": config.interference * miss * candidates.in_flight[slots],
            "tie": parts.tie[slots],
        }

    def kappa(self, usage: float) -> float:
        """Weight of a miss while live conversations keep `usage` of the fleet's KV."""
        config = self.config
        return config.kappa_idle + (config.kappa_full - config.kappa_idle) * min(1.0, usage / config.full_at)

    def _parts(self, candidates: Candidates) -> _Parts:
        config, kv = self.config, _signals(candidates)
        in_flight = candidates.in_flight
        width = len(in_flight)
        prompt = float(candidates.prompt_tokens)
        uncached: FloatColumn | float = prompt
        if candidates.resident:
            # The last token of a prompt is always computed.
            uncached = np.maximum(prompt - candidates.resident.column(width), 1.0)
        miss = kv.base_ms + uncached * (kv.per_token_ms + uncached * kv.per_square_ms)
        weight: FloatColumn = config.interference * in_flight
        weight += self.kappa(kv.usage)
        tie: FloatColumn = config.tie_ms * in_flight
        tie += (config.tie_ms * config.tie_fill) * kv.fill
        evict = None
        if config.evict_weight:
            over = kv.footprint + uncached
            over -= config.overflow_at * kv.capacity
            home = candidates.home
            if 0 <= home < width:
                # Of what it keeps at home only what is added is more.
                added = max(0.0, prompt - candidates.home_tokens)
                over[home] = kv.footprint[home] + added - config.overflow_at * kv.capacity[home]
            if over.max() > 0.0:
                np.minimum(over, uncached, out=over)
                np.maximum(over, 0.0, out=over)
                evict = over * (config.evict_weight * _per_token_ms(kv))
        return _Parts(kv.prefill_ms, miss, weight, evict, tie)


class _Parts(NamedTuple):
    """The score's parts as columns over the whole table."""

    queue: FloatColumn
    miss: FloatColumn
    weight: FloatColumn
    """Of a miss: kappa and interference."""
    evict: FloatColumn | None
    """None: nobody is near its capacity."""
    tie: FloatColumn


def _signals(candidates: Candidates) -> KVSignals:
    assert candidates.kv is not None, "gathered for whoever needs KV"
    return candidates.kv


def _per_token_ms(kv: KVSignals) -> FloatColumn:
    return kv.base_ms / STEP_TOKENS + kv.per_token_ms + STEP_TOKENS * kv.per_square_ms
