"""The replica with the least work in flight."""

from __future__ import annotations

from typing import ClassVar

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.lib.load import By, least, table_of
from pointsman.policies.policy import Context, Needs, PlainPolicy, PolicyConfig
from pointsman.policies.request import RequestFeatures


class LeastLoadConfig(PolicyConfig, frozen=True, kw_only=True):
    """In which unit load is counted."""

    by: By = "requests"


class LeastLoad(PlainPolicy[LeastLoadConfig]):
    """Chooses the least load, equal replicas at random: the first of equals would get all work of a quiet fleet.

    Score: the load, in the configured unit.
    """

    name: ClassVar[str] = "least_load"
    Config: ClassVar[type[PolicyConfig]] = LeastLoadConfig

    def __init__(self, config: LeastLoadConfig) -> None:
        super().__init__(config)
        self.score_unit = config.by
        if config.by == "tokens":
            self.needs = Needs.TOKENS

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        slots = candidates.slots
        load = table_of(candidates, self.config.by)[slots]
        return [
            Ranked(slots.item(at), Reason.LEAST_LOAD, float(carried))
            for at, carried in least(load, min(context.limit, len(slots)), context.rng)
        ]
