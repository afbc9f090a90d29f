"""Predicted time to first token alone, as Mooncake's Conductor (FAST'25) has it: queue and own prefill.

score = T(A) + T(L - m)      T as the router has fitted it for that replica
"""

from __future__ import annotations

from typing import ClassVar

from pointsman.policies.candidates import FloatColumn
from pointsman.policies.policy import PolicyConfig
from pointsman.simulator.peers.scores import PeerPolicy, Signals


class PredictedTtftConfig(PolicyConfig, frozen=True, kw_only=True):
    """The rule has no constants."""


class PredictedTtft(PeerPolicy[PredictedTtftConfig]):
    """`T(A) + T(L - m)`."""

    name: ClassVar[str] = "predicted_ttft"
    Config: ClassVar[type[PolicyConfig]] = PredictedTtftConfig

    def scores(self, signals: Signals) -> FloatColumn:
        slots, kv = signals.candidates.slots, signals.candidates.kv
        assert kv is not None
        missing = signals.length - signals.matched
        own_ms = kv.base_ms[slots] + (kv.per_token_ms[slots] + kv.per_square_ms[slots] * missing) * missing
        scores: FloatColumn = kv.prefill_ms[slots] + own_ms
        return scores
