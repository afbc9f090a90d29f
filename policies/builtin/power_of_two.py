"""The less loaded of two drawn at random."""

from __future__ import annotations

from typing import ClassVar

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.lib.dice import draw
from pointsman.policies.lib.load import By, table_of
from pointsman.policies.policy import Context, Needs, PlainPolicy, PolicyConfig
from pointsman.policies.request import RequestFeatures


class PowerOfTwoConfig(PolicyConfig, frozen=True, kw_only=True):
    """In which unit load is counted."""

    by: By = "requests"


class PowerOfTwo(PlainPolicy[PowerOfTwoConfig]):
    """Chooses the less loaded of two replicas drawn at random; equals stay as drawn. Further places are further draws.

    Score: the place. A load would not do: a third draw may carry less than the first two.
    """

    name: ClassVar[str] = "power_of_two"
    Config: ClassVar[type[PolicyConfig]] = PowerOfTwoConfig

    def __init__(self, config: PowerOfTwoConfig) -> None:
        super().__init__(config)
        if config.by == "tokens":
            self.needs = Needs.TOKENS

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        slots = candidates.slots
        drawn = [slots.item(at) for at in draw(context.rng, len(slots), max(2, context.limit))]
        load = table_of(candidates, self.config.by)
        if len(drawn) > 1 and load.item(drawn[1]) < load.item(drawn[0]):
            drawn[0], drawn[1] = drawn[1], drawn[0]
        return [Ranked(slot, Reason.POWER_OF_TWO, float(place)) for place, slot in enumerate(drawn[: context.limit])]
