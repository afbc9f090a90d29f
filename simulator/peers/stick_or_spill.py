"""llm-d's recommended pair since 2026: prefix-cache-affinity-filter and token-load-scorer, "sticky until saturated".

Replicas that hold 80 % of the prompt stay in; they are let go when the best of them would take `max_ttft_penalty_ms`
longer than the best of all, by uncached tokens in flight over a prefill rate. Of those that stay the one with the least
such tokens wins. Where llm-d shuffles equals, this one takes requests in flight, which is generous to it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from pointsman.policies.candidates import FloatColumn
from pointsman.policies.policy import PolicyConfig
from pointsman.simulator.peers.scores import PeerPolicy, Signals

_FAR = 1e12
"""More than any number of tokens in flight: puts a candidate behind all others."""
_TIE = 1e-3
"""Tokens a request counts: decides only between equals."""


class StickOrSpillConfig(PolicyConfig, frozen=True, kw_only=True):
    """llm-d's defaults."""

    affinity_threshold: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.8
    max_ttft_penalty_ms: Annotated[float, Meta(ge=0.0)] = 18_000.0
    peak_prefill_tokens_per_s: Annotated[float, Meta(gt=0.0)] = 15_928.0


class StickOrSpill(PeerPolicy[StickOrSpillConfig]):
    """The warm ones until they are saturated, then all; least uncached tokens in flight."""

    name: ClassVar[str] = "stick_or_spill"
    Config: ClassVar[type[PolicyConfig]] = StickOrSpillConfig

    def scores(self, signals: Signals) -> FloatColumn:
        config = self.config
        load = signals.waiting + _TIE * signals.requests
        warm = signals.matched >= config.affinity_threshold * signals.length
        if not warm.any():
            return load
        penalty_ms = (load[warm].min() - load.min()) / config.peak_prefill_tokens_per_s * 1000
        if penalty_ms > config.max_ttft_penalty_ms:
            return load
        return np.where(warm, load, load + _FAR)
