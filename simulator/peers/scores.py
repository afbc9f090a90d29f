"""Building blocks of peers' rules, read from the signals of Pointsman's own policies.

Information parity: a peer's rule sees the same candidates a Pointsman policy sees, no more and no less. `Signals` names
them as the peers' papers do. Ties are broken by the dice, as all of these routers do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from pointsman.policies.candidates import Candidates, FloatColumn
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.policy import ConfigT, Context, Needs, PlainPolicy
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.features import DEFAULT_OUTPUT_TOKENS


class Signals:
    """Columns by position: one number a candidate."""

    __slots__ = ("candidates", "length", "matched", "requests", "waiting")

    def __init__(self, candidates: Candidates) -> None:
        slots = candidates.slots
        assert candidates.kv is not None, "the policy needs KV"
        self.candidates = candidates
        self.length = float(candidates.prompt_tokens)
        """L: tokens of the prompt."""
        self.matched = np.minimum(candidates.resident.column(len(candidates.in_flight))[slots], self.length - 1)
        """m: leading tokens of the prompt the replica holds."""
        self.waiting = candidates.kv.waiting[slots]
        """A: uncached prompt tokens sent there whose first token is not known yet."""
        self.requests = candidates.in_flight[slots].astype(np.float64)
        """n: requests in flight."""

    def prompt_tokens_in_flight(self) -> FloatColumn:
        """Prompts of the requests in flight: the token load less the output it expects of each."""
        tokens = self.candidates.in_flight_tokens[self.candidates.slots]
        return np.maximum(0.0, tokens - DEFAULT_OUTPUT_TOKENS * self.requests)


class PeerPolicy(PlainPolicy[ConfigT], ABC):
    """A peer's rule as one score a candidate; least wins."""

    name: ClassVar[str]

    def __init__(self, config: ConfigT) -> None:
        super().__init__(config)
        self.needs = Needs.SESSION | Needs.TOKENS | Needs.PREFIX | Needs.KV

    @abstractmethod
    def scores(self, signals: Signals) -> FloatColumn:
        """One number a candidate, in the candidates' order."""

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        scores = self.scores(Signals(candidates))
        ties = [context.rng.random() for _ in range(len(scores))]
        best = np.lexsort((np.array(ties), scores))[: context.limit].tolist()
        return [Ranked(candidates.slots.item(at), Reason.CUSTOM, float(scores[at])) for at in best]
