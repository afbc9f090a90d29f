"""A session's replica by hash, with a bound on how much one replica may carry.

The bound is that of *Consistent Hashing with Bounded Loads* (Mirrokni, Thorup, Zadimoghaddam, 2017). With `total`
requests in flight on `n` candidates, a replica is *full* when it carries at least

    bound = max(min_bound, ceil(load_factor * (total + 1) / n))

so that no replica is ever sent more than the bound, this request counted. At least one replica is open whatever the
load: were all full, `total >= n * bound > total`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Ranked, Reason
from pointsman.policies.lib.ring import Rings, walk
from pointsman.policies.policy import ComposedPolicy, Context, Needs, Policy, PolicyConfig, PolicyDocument
from pointsman.policies.request import RequestFeatures

DEFAULT_LOAD_FACTOR = 1.25
"""Default load factor; HAProxy writes it, after the same paper, as `hash-balance-factor 125`."""


class ConsistentHashConfig(PolicyConfig, frozen=True, kw_only=True):
    """The ring and its bound."""

    virtual_nodes: Annotated[
        int, Meta(ge=1, le=1000, description="Points of each replica on the ring; more points spread keys more evenly.")
    ] = 100
    load_factor: (
        Annotated[
            float,
            Meta(
                ge=1.0,
                le=1000.0,
                description="Multiple of the mean of requests in flight beyond which a replica is full and its keys "
                "go to the next on the ring; null: no bound. Default 1.25, with `compat: ray` null.",
            ),
        ]
        | UnsetType
        | None
    ) = UNSET
    min_bound: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Requests in flight below which a replica is never full, however idle the others are.",
        ),
    ] = 1
    compat: Annotated[
        Literal["ray"] | None,
        Meta(
            description="Compatibility mode. `ray` maps every key to the replica that Ray Serve's "
            "ConsistentHashRouter uses, without a load bound by default; null: none."
        ),
    ] = None
    fallback: Annotated[PolicyDocument, Meta(description="Policy for requests without a session key.")] = msgspec.field(
        default_factory=lambda: {"policy": "least_load"}
    )


class ConsistentHash(ComposedPolicy[ConsistentHashConfig]):
    """The first open replica clockwise of the session key; the next distinct open one is second.

    Full replicas come last, in ring order. When a replica leaves, only its keys move. Memory: `Rings`, a cache.

    Score: points passed on the ring, one whole turn more for a full replica.
    """

    name: ClassVar[str] = "consistent_hash"
    Config: ClassVar[type[PolicyConfig]] = ConsistentHashConfig

    def __init__(self, config: ConsistentHashConfig, fallback: Policy) -> None:
        factor = config.load_factor
        if isinstance(factor, UnsetType):
            factor = None if config.compat == "ray" else DEFAULT_LOAD_FACTOR
        super().__init__(msgspec.structs.replace(config, load_factor=factor), fallback)
        self.needs |= Needs.SESSION
        # The decimal as written, so that the bound is exact: 1.1 * 50 in floats is above 55, and its ceiling 56.
        self._share = None if factor is None else Fraction(str(factor)).as_integer_ratio()
        self._rings = Rings(config.virtual_nodes)

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        if not features.session:
            return self.fallback.rank(features, candidates, context)
        slots = candidates.slots
        turn = self._rings.of(candidates).turn(features.session)
        n = len(slots)
        bound = None if self._share is None else self.bound(candidates.total_in_flight, n)
        ranking = walk(turn, min(context.limit, n), slots, candidates.in_flight, bound)
        reason = Reason.HASH if ranking[0][0] == turn.near[0] else Reason.HASH_SPILL
        return [Ranked(slots.item(at), reason, float(passed)) for at, passed in ranking]

    def bound(self, total: int, n: int) -> int:
        """Requests in flight at which one of `n` replicas that carry `total` is full; the module says how."""
        if self._share is None:
            raise ValueError("this policy has no load bound")
        numerator, denominator = self._share
        return max(self.config.min_bound, -(-numerator * (total + 1) // (denominator * n)))

    def close(self) -> None:
        super().close()
        self._rings = Rings(self.config.virtual_nodes)
