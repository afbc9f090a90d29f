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

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from policies.base import Context, Needs, PlainPolicy, PolicyConfig
from policies.load import least
from policies.types import NO_SLOT, Candidates, FloatColumn, KVSignals, Ranked, Reason, Refusal, RequestFeatures

TERMS = ("queue", "miss", "evict", "interference", "tie")
"""The score's parts by name; `miss` is weighted with kappa."""

FEW = 16
"""Candidates up to which one after the other is quicker than columns."""


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
        slots, home, limit = candidates.slots, candidates.home, context.limit
        best: list[tuple[float, int]]
        if len(slots) <= FEW:
            rng = context.rng
            drawn = [(sum(terms), rng.random(), slot) for slot, *terms in self._terms(candidates)]
            drawn.sort()
            best = [(cost, slot) for cost, _, slot in drawn[:limit]]
        else:
            places = least(self._scores(candidates), min(limit, len(slots)), context.rng)
            best = [(cost, slots.item(at)) for at, cost in places]
        ranked = []
        for cost, slot in best:
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
        _, *columns = zip(*self._terms(candidates), strict=True)
        return {name: np.array(column) for name, column in zip(TERMS, columns, strict=True)}

    def kappa(self, usage: float) -> float:
        """Weight of a miss while live conversations keep `usage` of the fleet's KV."""
        config = self.config
        return config.kappa_idle + (config.kappa_full - config.kappa_idle) * min(1.0, usage / config.full_at)

    def _terms(self, candidates: Candidates) -> Iterator[tuple[int, float, float, float, float, float]]:
        """Slot and `TERMS` of one candidate after the other: for people, and for few candidates the quicker way."""
        config, kv = self.config, _signals(candidates)
        kappa, prompt, home = self.kappa(kv.usage), float(candidates.prompt_tokens), candidates.home
        resident = candidates.resident.tokens
        for slot in candidates.slots.tolist():
            requests = candidates.in_flight.item(slot)
            uncached = max(1.0, prompt - resident(slot))
            miss = kv.base_ms.item(slot) + uncached * (
                kv.per_token_ms.item(slot) + uncached * kv.per_square_ms.item(slot)
            )
            # Of what a conversation keeps at home only what is added is more.
            added = uncached if slot != home else max(0.0, prompt - candidates.home_tokens)
            over = kv.footprint.item(slot) + added - config.overflow_at * kv.capacity.item(slot)
            evict = config.evict_weight * min(uncached, over) * kv.again_ms.item(slot) if over > 0.0 else 0.0
            tie = config.tie_ms * (requests + config.tie_fill * kv.fill.item(slot))
            yield slot, kv.prefill_ms.item(slot), kappa * miss, evict, config.interference * miss * requests, tie

    def _scores(self, candidates: Candidates) -> FloatColumn:
        """The same summed up, over columns; aligned with `slots`."""
        config, kv = self.config, _signals(candidates)
        in_flight = candidates.in_flight
        width = len(in_flight)
        prompt = float(candidates.prompt_tokens)
        # Whole tables, and one gather at the end: cheaper than gathering each column.
        uncached: FloatColumn | float = prompt
        if candidates.resident:
            uncached = np.maximum(prompt - candidates.resident.column(width), 1.0)
        score = kv.base_ms + uncached * (kv.per_token_ms + uncached * kv.per_square_ms)
        weight: FloatColumn = config.interference * in_flight
        weight += self.kappa(kv.usage)
        score *= weight
        score += kv.prefill_ms
        score += config.tie_ms * in_flight
        score += (config.tie_ms * config.tie_fill) * kv.fill
        if config.evict_weight:
            over = kv.footprint + uncached
            over -= config.overflow_at * kv.capacity
            home = candidates.home
            if 0 <= home < width:
                added = max(0.0, prompt - candidates.home_tokens)
                over[home] = kv.footprint[home] + added - config.overflow_at * kv.capacity[home]
            if np.maximum.reduce(over) > 0.0:
                np.minimum(over, uncached, out=over)
                np.maximum(over, 0.0, out=over)
                over *= kv.again_ms
                over *= config.evict_weight
                score += over
        gathered: FloatColumn = score[candidates.slots]
        return gathered


def _signals(candidates: Candidates) -> KVSignals:
    assert candidates.kv is not None, "gathered for whoever needs KV"
    return candidates.kv
