"""Ramjet (Helix, github.com/helixml/ramjet): affinity in units of 512 tokens, capped, less a price for load.

affinity = min(M, cap) - min(M - m, cap)     M: the longest match anywhere
score    = affinity - 4 * (n + A / 8192)     most wins
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from pointsman.policies.candidates import FloatColumn
from pointsman.policies.policy import PolicyConfig
from pointsman.simulator.peers.scores import PeerPolicy, Signals


class RamjetConfig(PolicyConfig, frozen=True, kw_only=True):
    """Ramjet's constants."""

    unit_tokens: Annotated[int, Meta(ge=1)] = 512
    affinity_cap: Annotated[int, Meta(ge=1)] = 32
    load_weight: Annotated[float, Meta(ge=0.0)] = 4.0
    prefill_tokens_per_request: Annotated[float, Meta(gt=0.0)] = 8192.0


class Ramjet(PeerPolicy[RamjetConfig]):
    """Capped affinity against weighted load."""

    name: ClassVar[str] = "ramjet"
    Config: ClassVar[type[PolicyConfig]] = RamjetConfig

    def scores(self, signals: Signals) -> FloatColumn:
        config = self.config
        units = signals.matched // config.unit_tokens
        warmest = units.max()
        affinity = min(warmest, config.affinity_cap) - np.minimum(warmest - units, config.affinity_cap)
        load = signals.requests + signals.waiting / config.prefill_tokens_per_request
        scores: FloatColumn = config.load_weight * load - np.maximum(0.0, affinity)
        return scores
