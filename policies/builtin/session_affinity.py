"""A session stays where it is.

The session table is not here: the pipeline looks the session up, hands its home over as `candidates.pin` and pins it to
whatever this policy ranks first, so a session that moved stays moved.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from pointsman.policies.candidates import NO_SLOT, Candidates, Column
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.lib.load import TAKEN, least
from pointsman.policies.policy import ComposedPolicy, Context, Needs, Policy, PolicyConfig, PolicyDocument
from pointsman.policies.request import RequestFeatures


class SessionAffinityConfig(PolicyConfig, frozen=True, kw_only=True):
    """Lifetime of a session's pin, and the conditions of a move.

    The defaults move a session late: a bound on request counts spills on noise, and each move costs a prefill of the
    whole conversation.
    """

    ttl_s: Annotated[
        float,
        Meta(
            gt=0.0,
            le=604800.0,
            description="Seconds after its last request for which a session stays pinned to its replica (its home).",
        ),
    ] = 3600.0
    overload_factor: Annotated[
        float,
        Meta(
            ge=1.0,
            le=1000.0,
            description="Multiple of the mean of requests in flight beyond which a home is overloaded.",
        ),
    ] = 2.0
    overload_slack: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Requests in flight up to which a home is never overloaded, however idle the others are.",
        ),
    ] = 32
    fallback: Annotated[
        PolicyDocument,
        Meta(description="Policy for sessions without a home, sessions that move, and requests without a session key."),
    ] = msgspec.field(default_factory=lambda: {"policy": "least_load"})


class SessionAffinity(ComposedPolicy[SessionAffinityConfig]):
    """The session's home while it is a candidate and not overloaded, else the fallback's choice.

    A home is overloaded when `in_flight > max(overload_slack, overload_factor * mean)`, the mean taken over all
    candidates. Second is the least loaded of the others. An overloaded home is ranked last: it serves if no other can.

    Score: 0 for the home and its load for each other, in requests; of a session that moves, the fallback's.
    """

    name: ClassVar[str] = "session_affinity"
    Config: ClassVar[type[PolicyConfig]] = SessionAffinityConfig

    def __init__(self, config: SessionAffinityConfig, fallback: Policy) -> None:
        super().__init__(config, fallback)
        self.needs |= Needs.SESSION | Needs.PIN
        self.pin_ttl_s = config.ttl_s

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        home = candidates.pin
        if home == NO_SLOT or not features.session:
            return self.fallback.rank(features, candidates, context)
        at = candidates.position(home)
        if at is None:
            return _moved(self.fallback.rank(features, candidates, context), Reason.SESSION_MOVED_GONE)
        load = candidates.in_flight[candidates.slots]
        if self._is_overloaded(load, at):
            return self._rank_away_from(home, features, candidates, context)
        load[at] = TAKEN
        others = least(load, min(context.limit, len(load)) - 1, context.rng)
        return [
            Ranked(home, Reason.SESSION_PIN),
            *(Ranked(candidates.slots.item(at), Reason.LEAST_LOAD, float(carried)) for at, carried in others),
        ]

    def _is_overloaded(self, load: Column, at: int) -> bool:
        carried = load.item(at)
        return carried > self.config.overload_slack and carried * len(load) > (
            self.config.overload_factor * int(np.add.reduce(load))
        )

    def _rank_away_from(
        self, home: int, features: RequestFeatures, candidates: Candidates, context: Context
    ) -> list[Ranked]:
        # One place more than asked for, since the home may take one.
        wider = Context(context.now_s, context.rng, context.limit + 1)
        ranked = self.fallback.rank(features, candidates, wider)
        others = [place for place in ranked if place.slot != home]
        homes = [Ranked(home, Reason.SESSION_PIN, others[-1].score)] if len(others) < len(ranked) else []
        return _moved([*others, *homes][: context.limit], Reason.SESSION_MOVED_OVERLOAD)


def _moved(ranked: list[Ranked], reason: Reason) -> list[Ranked]:
    """The ranking with the reason of its first place replaced: why the session moved says more than how."""
    return [Ranked(ranked[0].slot, reason, ranked[0].score), *ranked[1:]]
