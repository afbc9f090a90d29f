"""A weighted sum of named scorers, each from 0 to 1: for people who think in terms of scorers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from pointsman.contract.errors import ConfigurationError
from pointsman.policies.candidates import NO_SLOT, Candidates, FloatColumn, KVSignals
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.lib.load import least
from pointsman.policies.policy import Context, Needs, PlainPolicy, PolicyConfig
from pointsman.policies.request import RequestFeatures

Scorer = Callable[[Candidates], FloatColumn]
"""Quality of each candidate by one measure, from 0 (worst) to 1; aligned with `slots`."""


def few_is_good(values: FloatColumn) -> FloatColumn:
    """1 for the least value, 0 for the largest, in between by proportion; all 1 where they are equal."""
    low, high = values.min(), values.max()
    return np.ones(len(values)) if low == high else (high - values) / (high - low)


def _prefix(candidates: Candidates) -> FloatColumn:
    held = candidates.resident.column(len(candidates.in_flight))[candidates.slots]
    return np.minimum(1.0, held / candidates.prompt_tokens)


def _queue(candidates: Candidates) -> FloatColumn:
    return few_is_good(_kv(candidates).prefill_ms[candidates.slots])


def _kv_room(candidates: Candidates) -> FloatColumn:
    return np.clip(1.0 - _kv(candidates).fill[candidates.slots], 0.0, 1.0)


def _load(candidates: Candidates) -> FloatColumn:
    return few_is_good(candidates.in_flight[candidates.slots].astype(float))


def _tokens(candidates: Candidates) -> FloatColumn:
    return few_is_good(candidates.in_flight_tokens[candidates.slots].astype(float))


def _session(candidates: Candidates) -> FloatColumn:
    return (
        (candidates.slots == candidates.pin).astype(float) if candidates.pin != NO_SLOT else np.zeros(len(candidates))
    )


def _kv(candidates: Candidates) -> KVSignals:
    assert candidates.kv is not None, "gathered for whoever needs KV"
    return candidates.kv


SCORERS: dict[str, tuple[Scorer, Needs]] = {
    "prefix": (_prefix, Needs.PREFIX),
    "queue": (_queue, Needs.KV),
    "kv_room": (_kv_room, Needs.KV),
    "load": (_load, Needs.NOTHING),
    "tokens": (_tokens, Needs.TOKENS),
    "session": (_session, Needs.SESSION | Needs.PIN),
}
"""By name: the scorer and what it needs."""

PIN_TTL_S = 3600.0
"""Seconds after its last request for which a session counts on its replica, for the scorer `session`."""


class WeightedConfig(PolicyConfig, frozen=True, kw_only=True):
    """The scorers and how much each counts."""

    weights: Annotated[
        dict[str, Annotated[float, Meta(ge=0.0, le=1000.0)]],
        Meta(
            min_length=1,
            description="Scorer to weight: `prefix` (share of the prompt resident), `queue` (little prefill backlog), "
            "`kv_room` (KV free of live conversations), `load` (few requests), `tokens` (few tokens), "
            "`session` (where the session was).",
        ),
    ] = msgspec.field(default_factory=lambda: {"prefix": 3.0, "queue": 2.0, "kv_room": 2.0, "load": 1.0})

    def __post_init__(self) -> None:
        unknown = sorted(self.weights.keys() - SCORERS.keys())
        if unknown:
            raise ConfigurationError("weights", unknown[0], f"one of the scorers {', '.join(SCORERS)}")
        if not any(self.weights.values()):
            raise ConfigurationError("weights", self.weights, "at least one above 0")


class Weighted(PlainPolicy[WeightedConfig]):
    """The largest weighted sum of normalised scorers; equals by dice.

    Score: 1 less the weighted mean, from 0 (best by every scorer) to 1.
    """

    name: ClassVar[str] = "weighted"
    Config: ClassVar[type[PolicyConfig]] = WeightedConfig

    def __init__(self, config: WeightedConfig) -> None:
        super().__init__(config)
        total = sum(config.weights.values())
        self._scorers = {
            name: (SCORERS[name][0], weight / total) for name, weight in config.weights.items() if weight > 0
        }
        for name in self._scorers:
            self.needs |= SCORERS[name][1]
        self.pin_ttl_s = PIN_TTL_S if Needs.PIN in self.needs else 0.0

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        slots = candidates.slots
        score = 1.0 - sum(self.terms(features, candidates).values(), np.zeros(len(slots)))
        return [
            Ranked(slots.item(at), Reason.WEIGHTED, value)
            for at, value in least(score, min(context.limit, len(slots)), context.rng)
        ]

    def terms(self, features: RequestFeatures, candidates: Candidates) -> Mapping[str, FloatColumn]:
        return {name: share * scorer(candidates) for name, (scorer, share) in self._scorers.items()}
