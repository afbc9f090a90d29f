"""SGLang's cache-aware routing (sgl-router; Dynamo ships it as dynamo-two-tier-cost-fn).

Out of balance, by requests: the least loaded. Else the longest match if it covers enough of the prompt, the least
loaded among equals. Else the least loaded.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from pointsman.policies.candidates import FloatColumn
from pointsman.policies.policy import PolicyConfig
from pointsman.simulator.peers.scores import PeerPolicy, Signals

_FAR = 1e9
"""More than any number of requests in flight: puts a candidate behind all others."""


class TwoTierConfig(PolicyConfig, frozen=True, kw_only=True):
    """SGLang's defaults."""

    cache_threshold: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5
    balance_abs_threshold: Annotated[int, Meta(ge=0)] = 32
    balance_rel_threshold: Annotated[float, Meta(ge=1.0)] = 1.1


class TwoTier(PeerPolicy[TwoTierConfig]):
    """Balanced: the longest match; otherwise the least loaded."""

    name: ClassVar[str] = "two_tier"
    Config: ClassVar[type[PolicyConfig]] = TwoTierConfig

    def scores(self, signals: Signals) -> FloatColumn:
        config, requests, matched = self.config, signals.requests, signals.matched
        most, least, longest = requests.max(), requests.min(), matched.max()
        if most - least > config.balance_abs_threshold and most > config.balance_rel_threshold * least:
            return requests
        if longest > config.cache_threshold * signals.length:
            return np.where(matched == longest, requests, requests + _FAR)
        return requests
