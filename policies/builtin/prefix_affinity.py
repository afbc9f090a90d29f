"""Where most of the prompt is cached, as long as that one has room."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.policy import ComposedPolicy, Context, Needs, Policy, PolicyConfig, PolicyDocument
from pointsman.policies.request import RequestFeatures


class PrefixAffinityConfig(PolicyConfig, frozen=True, kw_only=True):
    """Conditions of a match, and the load bound of a matching replica."""

    min_tokens: Annotated[
        int,
        Meta(ge=1, le=10_000_000, description="Cached tokens of the prompt from which a replica counts as a match."),
    ] = 256
    min_share: Annotated[
        float, Meta(ge=0.0, le=1.0, description="Share of the prompt that must be cached for a match.")
    ] = 0.1
    load_factor: Annotated[
        float,
        Meta(
            ge=1.0,
            le=1000.0,
            description="Multiple of the mean of requests in flight beyond which a matching replica is full.",
        ),
    ] = 1.5
    load_slack: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Requests in flight up to which a matching replica is never full.")
    ] = 8
    fallback: Annotated[
        PolicyDocument, Meta(description="Policy for prompts without a match, and for the replicas behind the matches.")
    ] = msgspec.field(default_factory=lambda: {"policy": "least_load"})


class PrefixAffinity(ComposedPolicy[PrefixAffinityConfig]):
    """The longest resident prefix among replicas that are not full, else the fallback's choice.

    A match has at least `min_tokens` and `min_share` of the prompt; of equal matches the least loaded wins, then the
    dice. A replica is full when `in_flight > max(load_slack, load_factor * mean)`. Places behind the matches are the
    fallback's.

    Score: for matches the tokens left to compute, below 0 by the prompt's length; behind them the place.
    """

    name: ClassVar[str] = "prefix_affinity"
    Config: ClassVar[type[PolicyConfig]] = PrefixAffinityConfig

    def __init__(self, config: PrefixAffinityConfig, fallback: Policy) -> None:
        super().__init__(config, fallback)
        self.needs |= Needs.PREFIX

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        matches = self._matches(candidates, context)
        if not matches:
            return self.fallback.rank(features, candidates, context)
        # One place more for each match, since the fallback may name it as well.
        wider = Context(context.now_s, context.rng, context.limit + len(matches))
        ranked = [
            Ranked(slot, Reason.PREFIX_MATCH, -float(min(held, candidates.prompt_tokens))) for slot, held in matches
        ]
        taken = {place.slot for place in ranked}
        for place in self.fallback.rank(features, candidates, wider):
            if place.slot not in taken:
                ranked.append(Ranked(place.slot, place.reason, float(len(ranked))))
        return ranked[: context.limit]

    def _matches(self, candidates: Candidates, context: Context) -> list[tuple[int, int]]:
        """Replicas that hold enough and are not full, best first: (slot, resident tokens)."""
        config = self.config
        least = max(config.min_tokens, config.min_share * candidates.prompt_tokens)
        load = candidates.in_flight
        slots = candidates.slots
        mean = int(np.add.reduce(load[slots])) / len(slots)
        bound = max(config.load_slack, config.load_factor * mean)
        found = []
        for held, holders in candidates.resident.levels:
            if held >= least:
                found += [
                    (-held, load.item(slot), context.rng.random(), int(slot))
                    for slot in holders
                    if load.item(slot) <= bound and slot in candidates
                ]
        return [(slot, -negated) for negated, _, _, slot in sorted(found)]
