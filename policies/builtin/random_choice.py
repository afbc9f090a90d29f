"""Any replica, each as likely."""

from __future__ import annotations

from typing import ClassVar

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.lib.dice import draw
from pointsman.policies.policy import Context, PlainPolicy, PolicyConfig
from pointsman.policies.request import RequestFeatures


class RandomChoiceConfig(PolicyConfig, frozen=True, kw_only=True):
    """Nothing to configure."""


class RandomChoice(PlainPolicy[RandomChoiceConfig]):
    """Chooses any replica with equal probability, without state or signals: the baseline for comparisons."""

    name: ClassVar[str] = "random"
    Config: ClassVar[type[PolicyConfig]] = RandomChoiceConfig

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        slots = candidates.slots
        return [Ranked(slots.item(at), Reason.RANDOM) for at in draw(context.rng, len(slots), context.limit)]
