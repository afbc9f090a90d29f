"""The contract every policy keeps.

A policy is synchronous, does no I/O and is a function of its arguments plus its own declared memory (a round-robin
turn, a cached ring). Eligibility (health, drain, model) is settled before it is called: it can only choose among the
candidates it is given. Clock and dice come in with `Context`.
"""

from __future__ import annotations

import random
from enum import Flag, auto
from typing import ClassVar, Protocol

import msgspec

from policies.types import Candidates, Ranked, RequestFeatures


class Needs(Flag):
    """Signals a policy cannot work without; what is not named here is not gathered, and HAProxy does not send it."""

    NOTHING = 0
    SESSION = auto()
    """`features.session`, read from the body where no header carries it."""
    PIN = auto()
    """`candidates.pin`: the session table is consulted, and remembers where the session went."""
    TOKENS = auto()
    """`features.max_tokens` and `candidates.in_flight_tokens`."""
    PREFIX = auto()
    """`features.prefix_keys` and resident depths."""


class Context(msgspec.Struct, gc=False):
    """What a ranking may use besides its candidates. `limit` is how many places the caller wants, best first."""

    now_s: float
    rng: random.Random
    limit: int = 2


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of each policy's own configuration; decoded strictly, an unknown key is an error naming the known ones."""


class Policy(Protocol):
    """One way to choose. See `docs/writing-a-policy.md`."""

    name: ClassVar[str]
    """The word used in configuration, metrics and docs."""
    Config: ClassVar[type[PolicyConfig]]

    @property
    def needs(self) -> Needs:
        """Own needs and those of nested fallbacks; constant for the life of the instance."""

    @property
    def pin_ttl_s(self) -> float:
        """How long a session unseen keeps its pin; read only when `needs` has PIN."""

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        """The best `context.limit` candidates, best first, none twice; at least one, since `candidates` is not empty."""

    def describe(self) -> dict[str, object]:
        """The full configuration with defaults filled in: `{"policy": name, ..., "fallback": {...}}`."""

    def close(self) -> None:
        """Called once, after the last `rank`, when another policy has taken over."""
