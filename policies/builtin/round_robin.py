"""Every replica in turn."""

from __future__ import annotations

from typing import ClassVar

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.policy import Context, PlainPolicy, PolicyConfig
from pointsman.policies.request import RequestFeatures

MAX_TURNS = 1024
"""Models with a turn of their own; far more than one fleet serves. When met, the model that came first starts anew."""


class RoundRobinConfig(PolicyConfig, frozen=True, kw_only=True):
    """Nothing to configure."""


class RoundRobin(PlainPolicy[RoundRobinConfig]):
    """Chooses the next slot after the last one used; replicas that join or leave do not change the order of others.

    Memory: the last slot used, per model. One turn for all models would be dragged about by the mix of requests: were
    the models of two halves of a fleet asked for alternately, each half would serve from its first replica only.
    The first turn is drawn, so that the edges of a fleet do not march in step.
    """

    name: ClassVar[str] = "round_robin"
    Config: ClassVar[type[PolicyConfig]] = RoundRobinConfig

    def __init__(self, config: RoundRobinConfig) -> None:
        super().__init__(config)
        self._last: dict[str, int] = {}

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        slots = candidates.slots
        n = len(slots)
        last = self._last.get(features.model)
        if last is None:
            turn = int(context.rng.random() * n)
            if len(self._last) >= MAX_TURNS:
                del self._last[next(iter(self._last))]
        else:
            turn = int(slots.searchsorted(last, side="right")) % n
        self._last[features.model] = slots.item(turn)
        return [
            Ranked(slots.item((turn + ahead) % n), Reason.ROUND_ROBIN, float(ahead))
            for ahead in range(min(context.limit, n))
        ]
