"""NVIDIA Dynamo 1.6's default cost function (lib/kv-router, selector/default.rs), in blocks.

    cost = prefill_load_scale * max(0, (A + L) / block - credit * floor(m / block))
           + prompt blocks in flight + L / block + active_request_weight * n

Dynamo counts distinct blocks in flight; here a block two requests share counts twice. Its shipped defaults are credit 1
and scale 1; credit 2 and scale 16 are the best of a sweep in Dynamo's own replay.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from pointsman.policies.candidates import FloatColumn
from pointsman.policies.policy import PolicyConfig
from pointsman.simulator.peers.scores import PeerPolicy, Signals


class DynamoConfig(PolicyConfig, frozen=True, kw_only=True):
    """Dynamo's knobs under their names there."""

    overlap_score_credit: Annotated[float, Meta(ge=0.0)] = 1.0
    prefill_load_scale: Annotated[float, Meta(ge=0.0)] = 1.0
    decode_active_request_weight: Annotated[float, Meta(ge=0.0)] = 0.0
    block_tokens: Annotated[int, Meta(ge=1)] = 64


class Dynamo(PeerPolicy[DynamoConfig]):
    """Blocks to prefill, scaled, and blocks to decode beside."""

    name: ClassVar[str] = "dynamo"
    Config: ClassVar[type[PolicyConfig]] = DynamoConfig

    def scores(self, signals: Signals) -> FloatColumn:
        config, block = self.config, self.config.block_tokens
        prefill = (signals.waiting + signals.length) / block - config.overlap_score_credit * (signals.matched // block)
        decode = (signals.prompt_tokens_in_flight() + signals.length) / block
        return (
            config.prefill_load_scale * np.maximum(0.0, prefill)
            + decode
            + config.decode_active_request_weight * signals.requests
        )
