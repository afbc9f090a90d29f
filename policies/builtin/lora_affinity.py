"""Where the LoRA adapter is loaded, as long as there is room."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from pointsman.policies.candidates import AdapterSignals, Candidates
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.policy import ComposedPolicy, Context, Needs, Policy, PolicyConfig, PolicyDocument
from pointsman.policies.request import RequestFeatures

HORIZON = 64
"""Places of the fallback's ranking in which replicas without the adapter are searched; plenty in larger fleets."""


class LoraAffinityConfig(PolicyConfig, frozen=True, kw_only=True):
    """Load bound of a replica with the adapter, and the policy that orders equal replicas."""

    load_factor: Annotated[
        float,
        Meta(
            ge=1.0, le=1000.0, description="Multiple of the mean of requests in flight beyond which a replica is full."
        ),
    ] = 1.25
    load_slack: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Requests in flight up to which a replica is never full.")
    ] = 8
    fallback: Annotated[
        PolicyDocument,
        Meta(description="Policy for requests without an adapter, and for the order among equal replicas."),
    ] = msgspec.field(default_factory=lambda: {"policy": "least_load"})


class LoraAffinity(ComposedPolicy[LoraAffinityConfig]):
    """Replicas with the adapter loaded first, then those with room for it, each in the fallback's order.

    A replica is full when `in_flight > max(load_slack, load_factor * mean)`, and comes after all that are not: a busy
    adapter spreads. Requests without an adapter are the fallback's.

    Score: the place.
    """

    name: ClassVar[str] = "lora_affinity"
    Config: ClassVar[type[PolicyConfig]] = LoraAffinityConfig

    def __init__(self, config: LoraAffinityConfig, fallback: Policy) -> None:
        super().__init__(config, fallback)
        self.needs |= Needs.ADAPTER

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        adapter = candidates.adapter
        if adapter is None:
            return self.fallback.rank(features, candidates, context)
        wider = Context(context.now_s, context.rng, max(context.limit, HORIZON))
        order = [place.slot for place in self.fallback.rank(features, candidates, wider)]
        near, far = order[:HORIZON], order[HORIZON:]
        load = candidates.in_flight
        if len(near) < len(candidates):
            seen = set(near)
            missed = [slot for slot in adapter.holders if slot not in seen and slot in candidates]
            near += sorted(missed, key=lambda slot: (load.item(slot), slot))
            far = [slot for slot in far if slot not in missed]
        classes = self._classes(near, adapter, candidates)
        # Sorting is stable: within a class the fallback's order stands.
        near.sort(key=classes.__getitem__)
        classes |= self._classes(far, adapter, candidates)
        return [
            Ranked(slot, _REASONS[classes[slot] % len(_REASONS)], float(at))
            for at, slot in enumerate((near + far)[: context.limit])
        ]

    def _classes(self, slots: list[int], adapter: AdapterSignals, candidates: Candidates) -> dict[int, int]:
        """By slot: 0 loaded, 1 room, 2 none; 3 more where it is full."""
        config, load, room = self.config, candidates.in_flight, adapter.room
        own = candidates.slots
        bound = max(config.load_slack, config.load_factor * int(np.add.reduce(load[own])) / len(own))
        holders = set(adapter.holders)
        return {
            slot: (0 if slot in holders else 1 if room.item(slot) > 0 else 2) + 3 * (load.item(slot) > bound)
            for slot in slots
        }


_REASONS = (Reason.LORA_LOADED, Reason.LORA_ROOM, Reason.LORA_SWAP)
