"""LMetric (arXiv 2603.15202), as Dynamo's port has it: uncached tokens times batch size."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pointsman.policies.candidates import FloatColumn
from pointsman.policies.policy import PolicyConfig
from pointsman.simulator.peers.scores import PeerPolicy, Signals


class LMetricConfig(PolicyConfig, frozen=True, kw_only=True):
    """The rule has no constants."""


class LMetric(PeerPolicy[LMetricConfig]):
    """`max(1, L - m) * (n + 1)`."""

    name: ClassVar[str] = "lmetric"
    Config: ClassVar[type[PolicyConfig]] = LMetricConfig

    def scores(self, signals: Signals) -> FloatColumn:
        return np.maximum(1.0, signals.length - signals.matched) * (signals.requests + 1)
