"""Least predicted time to first token, plus the harm done to others.

All terms are milliseconds. L is the prompt in tokens, m_w what of it is resident on w, u_w = max(1, L - m_w) what is
left, and T_w the replica's own prefill time:

    queue  = T_w(A_w)                               A_w: prefill backlog, tokens
    miss   = T_w(u_w)
    evict  = e * t_w * min(u_w, max(0, F'_w - o * C_w))
                                                    t_w: ms a token; C_w: KV capacity; F'_w: live KV with this one
    interf = i * miss * n_w                         n_w: requests in flight, whose decoding the prefill holds up
    tie    = s * (n_w + f * (F_w - own) / C_w)      F_w: live KV, of which `own` is this conversation's; what the
                                                    neighbours will cost the turns to come
    score  = queue + interf + h * (kappa * miss + evict + tie)

kappa is how much more a miss costs than its own time: the session pays it, and so does whoever queues behind. It goes
from `kappa_idle` to `kappa_full` as the candidates' KV fills with live conversations.

h is 1 until conversations with an active request want more KV than there is (`overload_at`), and grows with the excess.
From there engines hold prompts back and queues stand: active requests pay for queue and interference, and all requests
that arrive while the queues stand pay for the rest.

Where a prefill replica would compute the prompt for w (`pointsman.policies.lib.pair`), `queue` and `miss` are that
replica's, with the transfer, and nothing interferes. Decode replicas are then told apart by their load and the room in
their KV, and one that holds the prompt already is weighed against the best of the pairs.

Affinity and its limit follow: the home of a conversation has miss near 0 and evicts nobody, so it is left exactly when
its queue is longer than the best other's by what leaving costs. So does the spread of hot prefixes: the queues of the
replicas that hold one grow until another copy is cheaper.

The formula is written twice: for one candidate after the other (`_costs`), which is quicker for few of them, and over
columns in place (`_scores`), which is quicker for many. Both write T(x) out, because a call takes longer than the
arithmetic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from msgspec import Meta

from pointsman.policies.admission import Admission
from pointsman.policies.candidates import NO_SLOT, Candidates, FloatColumn, KVSignals
from pointsman.policies.decision import Ranked, Reason, Refusal
from pointsman.policies.lib.load import least
from pointsman.policies.policy import Context, Needs, PlainPolicy, PolicyConfig
from pointsman.policies.request import RequestFeatures

TERMS = ("queue", "miss", "evict", "interference", "tie")
"""The parts of the score by name, each with its weight: kappa in `miss`; h in `miss`, `evict` and `tie`."""

FEW = 16
"""Candidates up to which one after the other is quicker than columns."""


class KVAdmission(Admission, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When requests wait at the edge. Above the fleet's KV capacity no choice of replica helps: every turn evicts the
    next one's prefix. So conversations that begin have a bound of their own."""

    limit: Annotated[
        float,
        Meta(
            gt=0.0,
            le=10.0,
            description="Share of the candidates' KV capacity that live conversations may use before new ones wait.",
        ),
    ] = 0.9


class KVCostConfig(PolicyConfig, frozen=True, kw_only=True):
    """The constants of the score. They were fixed on traces of agents; the replicas' speed and size are measured."""

    kappa_idle: Annotated[
        float,
        Meta(
            ge=0.0, le=100.0, description="Weight of a cache miss while live conversations use none of the fleet's KV."
        ),
    ] = 1.0
    kappa_full: Annotated[
        float,
        Meta(
            ge=0.0,
            le=100.0,
            description="Weight of a cache miss while live conversations use `full_at` of the fleet's KV or more.",
        ),
    ] = 2.0
    full_at: Annotated[
        float,
        Meta(
            gt=0.0,
            le=10.0,
            description="Share of the fleet's KV used by live conversations from which `kappa_full` applies.",
        ),
    ] = 0.7
    overflow_at: Annotated[
        float,
        Meta(
            ge=0.0,
            le=10.0,
            description="Share of a replica's KV capacity above which a placement is expected to evict KV of live "
            "conversations.",
        ),
    ] = 0.92
    evict_weight: Annotated[
        float,
        Meta(
            ge=0.0,
            le=100.0,
            description="Weight of the time that evicted conversations need to compute their KV again.",
        ),
    ] = 1.0
    interference: Annotated[
        float,
        Meta(
            ge=0.0,
            le=100.0,
            description="Share of the prefill time by which each request in flight on the replica is delayed.",
        ),
    ] = 0.1
    tie_ms: Annotated[
        float,
        Meta(
            ge=0.0,
            le=1000.0,
            description="Cost of each request in flight for the conversation's later turns, in milliseconds.",
        ),
    ] = 5.0
    tie_fill: Annotated[
        float,
        Meta(
            ge=0.0,
            le=10_000.0,
            description="Tie-break weight of KV fill: requests in flight that a replica whose KV is full of live "
            "conversations counts as.",
        ),
    ] = 400.0
    overload_at: Annotated[
        float,
        Meta(
            gt=0.0,
            le=10.0,
            description="KV wanted by conversations with a request in flight, as a share of capacity, from which "
            "`overload` applies.",
        ),
    ] = 1.0
    overload: Annotated[
        float,
        Meta(
            ge=0.0,
            le=100.0,
            description="Growth of the weight of misses, evictions and ties for each 1.0 by which that share exceeds "
            "`overload_at`.",
        ),
    ] = 16.0
    admission: Annotated[
        KVAdmission | None,
        Meta(
            description="When requests wait for room, and are refused with 429: `{limit, prefill_s, kv_use, running, "
            "wait_s, retry_after_s, batch}`; `limit` is for conversations that begin; null: never."
        ),
    ] = None


class KVCost(PlainPolicy[KVCostConfig]):
    """Chooses the least predicted time to the first token plus the harm to other requests; equal scores at random.

    Score: milliseconds.
    """

    name: ClassVar[str] = "kv_cost"
    Config: ClassVar[type[PolicyConfig]] = KVCostConfig

    def __init__(self, config: KVCostConfig) -> None:
        super().__init__(config)
        self.needs = Needs.SESSION | Needs.PREFIX | Needs.KV
        self.score_unit = "ms"
        self.admission = config.admission
        self._constants = _Constants.of(config)

    def admit(self, features: RequestFeatures, candidates: Candidates, context: Context) -> Refusal | None:
        admission = self.config.admission
        if admission is None or candidates.home != NO_SLOT:
            return None
        kv, slots = _signals(candidates), candidates.slots
        live, room = kv.certainty * kv.footprint[slots].sum(), admission.limit * kv.capacity[slots].sum()
        # A prompt that evicts nobody is let in whatever its length. Whoever comes while others wait is behind them.
        has_room = live == 0.0 or live + candidates.prompt_tokens <= room
        if has_room and not (context.waiting and admission.wait_s):
            return None
        # A prompt that the limit never lets in has nothing to wait for.
        wait_s = admission.wait_s if candidates.prompt_tokens <= room else 0.0
        return Refusal(Reason.ADMISSION, 429, admission.retry_after_s, wait_s)

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        slots, home, limit = candidates.slots, candidates.home, context.limit
        best: list[tuple[float, int]]
        if len(slots) <= FEW:
            costs = self._costs(candidates, context.rng.random)
            costs.sort()
            best = [(cost, slot) for cost, _, slot in costs[:limit]]
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
        # The score is linear in the weights of its parts, so a part is the score with all other weights at 0.
        return {
            name: np.array([cost for cost, _, _ in self._costs(candidates, _no_dice, alone=name)]) for name in TERMS
        }

    def pressure(self, kv: KVSignals) -> tuple[float, float]:
        """kappa and h, from the share of the fleet's KV that live conversations and active ones keep."""
        config = self.config
        kappa = config.kappa_idle + (config.kappa_full - config.kappa_idle) * min(1.0, kv.usage / config.full_at)
        above = kv.active_usage - config.overload_at
        return kappa, 1.0 + config.overload * above if above > 0.0 else 1.0

    def _costs(
        self, candidates: Candidates, draw: Callable[[], float], *, alone: str = ""
    ) -> list[tuple[float, float, int]]:
        """Score, dice and slot of each candidate, in the order of `slots`.

        alone: the one of TERMS to compute; empty for the whole score.
        """
        config, kv = self.config, _signals(candidates)
        kappa, harm = self.pressure(kv)
        _, prefill_ms, base, per_token, per_square, recompute_ms, footprint, capacity, fill = kv.cells
        queue_ms: Mapping[int, float] | memoryview[float] = prefill_ms
        miss_weight, evict_weight, interference = harm * kappa, harm * config.evict_weight, config.interference
        tie_ms, overflow_at = harm * config.tie_ms, config.overflow_at
        if alone:
            queue_ms = queue_ms if alone == "queue" else defaultdict(float)
            miss_weight = miss_weight if alone == "miss" else 0.0
            evict_weight = evict_weight if alone == "evict" else 0.0
            interference = interference if alone == "interference" else 0.0
            tie_ms = tie_ms if alone == "tie" else 0.0
        tie_fill = tie_ms * config.tie_fill
        prompt, home, home_tokens = float(candidates.prompt_tokens), candidates.home, candidates.home_tokens
        held: dict[int, float] = {}
        for tokens, holders in candidates.resident.levels:
            for slot in holders.tolist() if isinstance(holders, np.ndarray) else holders:
                held[slot] = tokens
        requests_at, resident = candidates.in_flight.item, held.get
        paired, remote = 0.0, candidates.remote_prefill
        if remote is not None:
            paired = miss_weight * remote.miss_ms + (remote.queue_ms if alone in ("", "queue") else 0.0)
        costs = []
        for slot in candidates.slots.tolist():
            requests = requests_at(slot)
            uncached = prompt - resident(slot, 0.0)
            if uncached < 1.0:
                uncached = 1.0
            miss = base[slot] + uncached * (per_token[slot] + uncached * per_square[slot])
            if remote is not None and remote.worthwhile(uncached, prefill_ms[slot] + miss):
                cost = paired
            else:
                cost = queue_ms[slot] + (miss_weight + interference * requests) * miss
            cost += tie_ms * requests + tie_fill * fill[slot]
            added = uncached
            if slot == home:
                # Of what a conversation keeps at home only what is added is more.
                added = max(0.0, prompt - home_tokens)
                cost -= tie_fill * home_tokens / capacity[slot]
            over = footprint[slot] + added - overflow_at * capacity[slot]
            if over > 0.0:
                cost += evict_weight * (over if over < uncached else uncached) * recompute_ms[slot]
            costs.append((cost, draw(), slot))
        return costs

    def _scores(self, candidates: Candidates) -> FloatColumn:
        """Score of each candidate as a column, in the order of `slots`.

        Computed over whole tables, since gathering the candidates' rows would take as long as computing the others.
        """
        kv, weigh = _signals(candidates), self._constants
        prompt, table = float(candidates.prompt_tokens), len(candidates.in_flight)
        requests = candidates.in_flight.astype(np.float64)
        uncached: FloatColumn | float = prompt
        if candidates.resident:
            uncached = candidates.resident.rest(prompt, table)
        score = uncached * kv.per_square_ms
        score += kv.per_token_ms
        score *= uncached
        score += kv.base_ms
        kappa, harm = self.pressure(kv)
        # What h does not weigh is divided by it, and all is multiplied in the end.
        weight = requests * (weigh.interference if harm == 1.0 else weigh.interference / harm)
        weight += kappa
        remote = candidates.remote_prefill
        paired = None if remote is None else remote.worthwhile(uncached, score + kv.prefill_ms)
        score *= weight
        score += kv.prefill_ms if harm == 1.0 else kv.prefill_ms / harm
        if remote is not None and paired is not None:
            score[paired] = remote.queue_ms / harm + kappa * remote.miss_ms
        requests *= weigh.tie_ms
        score += requests
        score += kv.fill * weigh.tie_fill
        over = kv.capacity * weigh.overflow
        over += kv.footprint
        over += uncached
        home = candidates.home
        if 0 <= home < table:
            home_tokens, room = candidates.home_tokens, kv.cells.capacity[home]
            score[home] -= self.config.tie_ms * self.config.tie_fill * home_tokens / room
            added = max(0.0, prompt - home_tokens)
            over[home] = kv.cells.footprint[home] + added - self.config.overflow_at * room
        if over.item(over.argmax()) > 0.0:
            np.minimum(over, uncached, over)
            np.maximum(over, weigh.nothing, over)
            over *= kv.recompute_ms_per_token
            over *= weigh.evict
            score += over
        if harm != 1.0:
            score *= harm
        slots = candidates.slots
        # Slots are rarely anything but the first so many.
        count = len(slots)
        gathered: FloatColumn = score[:count] if slots.item(-1) == count - 1 else score[slots]
        return gathered


class _Constants(NamedTuple):
    """Constants of the score as arrays without dimensions: numpy would convert a number each time it meets a column."""

    interference: FloatColumn
    tie_ms: FloatColumn
    tie_fill: FloatColumn
    overflow: FloatColumn
    evict: FloatColumn
    nothing: FloatColumn

    @classmethod
    def of(cls, config: KVCostConfig) -> _Constants:
        return cls(
            interference=np.array(config.interference),
            tie_ms=np.array(config.tie_ms),
            tie_fill=np.array(config.tie_ms * config.tie_fill),
            overflow=np.array(-config.overflow_at),
            evict=np.array(config.evict_weight),
            nothing=np.array(0.0),
        )


def _no_dice() -> float:
    return 0.0


def _signals(candidates: Candidates) -> KVSignals:
    assert candidates.kv is not None, "KV signals are gathered for policies that need KV"
    return candidates.kv
