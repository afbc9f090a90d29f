"""Learning from first tokens: length of a prompt, cached part, and time of its prefill.

`Lessons` compares what an engine or HAProxy reported of one request with what was predicted when it was placed, and
writes the difference where predictions come from. It owns nothing and keeps nothing of its own.
"""

from __future__ import annotations

from pointsman.contract.events import FirstToken
from pointsman.router.kv.hit_rates import HitRates
from pointsman.router.kv.key_tokens import KeyTokens
from pointsman.router.kv.parts import KVCounters, Placement
from pointsman.router.kv.prefill_times import PrefillTimes
from pointsman.router.kv.token_ratio import TokenRatio

UNQUEUED = 0.1
"""A first token teaches the prefill time when what was in front of it was at most this share of it."""


class Lessons:
    """The writer of prefill times, token ratio, key lengths and prediction errors."""

    def __init__(
        self,
        *,
        times: PrefillTimes,
        ratio: TokenRatio,
        key_tokens: KeyTokens,
        counters: KVCounters,
        hit_rates: HitRates,
    ) -> None:
        self._times = times
        self._hit_rates = hit_rates
        self._ratio = ratio
        self._key_tokens = key_tokens
        self._counters = counters

    def first_token(self, placement: Placement, first: FirstToken) -> None:
        """Learn from the first token of a request, reported with the length of its prompt."""
        if placement.paired:  # another replica computed the prompt
            self._ratio.observe(placement.model, placement.prompt_bytes, first.prompt_tokens)
            return
        self._hit_rates.saw(placement.slot, first.prompt_tokens, first.cached_tokens, placement.cached)
        self._counters.prediction_error.observe(abs(placement.cached - first.cached_tokens) / first.prompt_tokens)
        if placement.at >= 0:
            per_byte = 1.0 / self._ratio.bytes_per_token(placement.model)
            self._key_tokens.found(placement.keys, placement.at, first.cached_tokens, per_byte)
        self._ratio.observe(placement.model, placement.prompt_bytes, first.prompt_tokens)
        placement.uncached = first.prompt_tokens - first.cached_tokens
        if first.ttft_ms:
            self.prefill_time(placement, first.ttft_ms)

    def prefill_time(self, placement: Placement, took_ms: float) -> None:
        """Learn from the time between a request and its first token."""
        if placement.ahead <= UNQUEUED * placement.uncached:
            self._times.observe(placement.slot, placement.uncached, took_ms)
