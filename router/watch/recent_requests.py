"""Sums over the records of the latest requests: rates by reason, times to first token, cache hits.

`look_back` reads the newest records when somebody asks, so a request pays for none of it, and
percentiles are exact. It looks at `LOOKED_MAX` records at most, in slices: a lookup waits for one slice. Rates are of
the last `RATE_S`, all else of the last `LOOK_BACK_S`; of less where the records do not reach that far.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence

from pointsman.router.core import Core
from pointsman.router.requests.decision_record import DecisionRecord, KeptCandidates

RATE_S = 5.0
"""Seconds that rates are averaged over: one burst does not make a number that nobody can read."""

RATE_MIN_S = 1.0
"""Fewest seconds for a rate: the first request of a router is no thousand a second."""

LOOK_BACK_S = 60.0
"""Seconds of requests behind percentiles and hit rates."""

LOOKED_MAX = 2048
"""Records looked at, the newest ones: more do not make a percentile better that one can act on."""

SLICE_RECORDS = 128
"""Records looked at before other tasks run: less than a millisecond."""

MODELS_MAX = 20
"""Models with percentiles of their own: clients may write anything as a model."""

OTHER_MODELS = "(other)"
"""Name under which the first tokens of all further models count; no model is called so."""


class CacheTokens:
    """Sums over requests whose first token an engine reported, in prompt tokens."""

    __slots__ = ("actual", "best", "predicted", "prompt")

    def __init__(self) -> None:
        self.prompt = 0
        self.actual = 0
        """Found in the prefix cache."""
        self.predicted = 0
        """Predicted to be found."""
        self.best = 0
        """Predicted for the candidate that held most."""


class RecentRequests:
    """Sums and samples over the latest records."""

    def __init__(self, core: Core, now_s: float) -> None:
        self._slot_of = core.replicas.slot_of
        self._recompute_ms = core.kv.columns.cells.recompute_ms_per_token
        self.now_s = now_s
        self.over_s = 0.0
        """Seconds that the records reach back, at most `LOOK_BACK_S`."""
        self.rate_s = RATE_S
        """Seconds that `by_reason` covers."""
        self.by_reason: Counter[str] = Counter()
        """Decisions by reason."""
        self.ttft_ms: dict[str, list[float]] = {}
        """Times to first token by model."""
        self.tokens = CacheTokens()
        """Of all requests with a reported first token; `predicted` and `best` are not counted here."""
        self.foreseen = CacheTokens()
        """Of those whose caches the policy looked at."""
        self.given_up = 0
        """Cached tokens that choices gave up: the most that a candidate held, less what the chosen one held."""
        self.given_up_ms = 0.0
        """Predicted time to compute those tokens again."""
        self.compared = 0
        """Decisions of which `given_up` is known."""

    def add(self, record: DecisionRecord) -> None:
        """Count one record."""
        if record.at_s > self.now_s - RATE_S:
            self.by_reason[record.decision.reason] += 1
        if (ttft_ms := first_token_ms(record)) is not None:
            model = record.features.model
            if model not in self.ttft_ms and len(self.ttft_ms) >= MODELS_MAX:
                model = OTHER_MODELS
            self.ttft_ms.setdefault(model, []).append(ttft_ms)
        if record.first is not None:
            self.tokens.prompt += record.first.prompt_tokens
            self.tokens.actual += record.first.cached_tokens
        if record.kept is not None and record.kept.table and record.decision.first:
            self._compare(record, record.kept)

    def _compare(self, record: DecisionRecord, kept: KeptCandidates) -> None:
        self.compared += 1
        held = best = 0
        if levels := kept.seen.resident.levels:
            slot = self._slot_of(record.decision.first)
            if not 0 <= slot < len(kept.ids) or kept.ids[slot] != record.decision.first:
                return  # it left, or has another slot since: nothing is known of what it held
            held = best = kept.seen.resident.tokens(slot)
            for tokens, slots in levels:
                if tokens > best and any(one in kept.seen for one in slots):
                    best = tokens
            if best > held:
                self.given_up += best - held
                self.given_up_ms += (best - held) * self._recompute_ms[slot]
        first, sums = record.first, self.foreseen
        if first is not None:
            sums.prompt += first.prompt_tokens
            sums.actual += first.cached_tokens
            sums.predicted += max(0, record.predicted_cached)
            # A prediction may be longer than the prompt turned out to be.
            sums.best += min(max(best, first.cached_tokens), first.prompt_tokens)


async def look_back(core: Core, now_s: float) -> RecentRequests:
    """Sum up the latest records, with room for other tasks in between; a router without records has empty sums."""
    recent = RecentRequests(core, now_s)
    records = [] if core.decisions is None else core.decisions.newest(LOOKED_MAX)
    for at in range(0, len(records), SLICE_RECORDS):
        for record in records[at : at + SLICE_RECORDS]:
            if record.at_s <= now_s - LOOK_BACK_S:
                recent.over_s = LOOK_BACK_S
                return recent
            recent.add(record)
        await asyncio.sleep(0)
    if records:
        recent.over_s = now_s - records[-1].at_s
        # A busy edge keeps less than that, and one that started has seen less.
        recent.rate_s = min(RATE_S, max(RATE_MIN_S, recent.over_s))
    return recent


def first_token_ms(record: DecisionRecord) -> float | None:
    """Time to first token as HAProxy measured it, else as the engine reported it; None while neither is known."""
    if record.line is not None and record.line.ttft.isdecimal():
        return float(record.line.ttft)
    return record.first.ttft_ms or None if record.first is not None else None


def percentile(ascending: Sequence[float], share: float) -> float:
    """Return the smallest sample that a share of all samples does not exceed; `ascending` has at least one."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
