"""The contract every policy keeps.

A policy is synchronous, does no I/O and is a function of its arguments plus its own declared memory (a round-robin
turn, a cached ring). Eligibility (health, drain, model) is settled before it is called: it can only choose among the
candidates it is given. Clock and dice come in with `Context`.

`Policy` is the contract; `PlainPolicy` and `ComposedPolicy` are its bookkeeping (configuration, fallback, what follows
from the two), for whoever does not want to write that again. `docs/writing-a-policy.md` walks through one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from enum import Flag, auto
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from pointsman.policies.admission import Admission
from pointsman.policies.candidates import Candidates, FloatColumn
from pointsman.policies.decision import Ranked, Refusal
from pointsman.policies.request import RequestFeatures

PolicyDocument = dict[str, Any]
"""A policy as configuration names it: `{"policy": name, ...its config, "fallback": {...}}`."""


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
    """`features.prefix_keys`, `candidates.prompt_tokens` and `candidates.resident`."""
    KV = auto()
    """`candidates.kv`, `home` and `home_tokens`: prefill backlogs, prefill times, live conversations, capacities."""
    ADAPTER = auto()
    """`features.model` and `candidates.adapter`: where the LoRA adapter is loaded that the request names."""
    MODEL = auto()
    """`features.model`, where there is one model only, too."""


class Context(msgspec.Struct, gc=False):
    """Clock, random numbers and wanted places of one ranking; `limit` is 1 or more."""

    now_s: float
    rng: random.Random
    limit: int = 2
    waiting: bool = False
    """Whether requests that came before this one are held for the same replicas (`Refusal.wait_s`)."""


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of each policy's own configuration; decoded strictly, an unknown key is an error naming the known ones.

    A field called `fallback` of type `PolicyDocument` makes the policy a composed one: the registry builds that
    document and hands the result to the constructor. No field may be called `policy`, which
    names the policy, or `models`, which has policies by model.
    """


class Policy(Protocol):
    """One way to choose. Constructed as `cls(config)`, or `cls(config, fallback)` where its configuration has one.

    A longer ranking begins with the shorter one: with the same memory and dice, `limit` changes only where it is cut.
    """

    name: ClassVar[str]
    """The word used in configuration, metrics and docs."""
    Config: ClassVar[type[PolicyConfig]]

    @property
    def needs(self) -> Needs:
        """Own needs and those of nested fallbacks; constant for the life of the instance."""

    @property
    def pin_ttl_s(self) -> float:
        """Seconds after its last request for which a session keeps its pin; read only when `needs` has PIN."""

    @property
    def score_unit(self) -> str:
        """Unit of all its scores, for people: `ms`, `requests`, `tokens`; empty where scores only make an order."""

    def rank(self, features: RequestFeatures, candidates: Candidates, context: Context) -> list[Ranked]:
        """The best `min(context.limit, len(candidates))` candidates, best first, none twice. Scores never fall."""

    def admit(self, features: RequestFeatures, candidates: Candidates, context: Context) -> Refusal | None:
        """Asked before `rank`: whether to refuse, or to hold for a while. None lets the request pass.

        Where `context.waiting`, what the policy would hold without room must be held, else it overtakes the others.
        """

    def terms(self, features: RequestFeatures, candidates: Candidates) -> Mapping[str, FloatColumn]:
        """The parts its scores are made of, by name, aligned with `candidates.slots`; for people, never for ranking."""

    def describe(self) -> PolicyDocument:
        """The full configuration with defaults filled in: `{"policy": name, ..., "fallback": {...}}`."""

    def close(self) -> None:
        """Called once, after the last `rank`, when another policy has taken over."""


def score_unit(policy: Policy) -> str:
    """Return the unit of a policy's scores; empty for a policy from outside that does not say."""
    return getattr(policy, "score_unit", "")


def admission_of(policy: Policy) -> Admission | None:
    """Return the admission bounds of a policy, else those of the nearest fallback that has some."""
    found: Any = policy
    while found is not None:
        admission = getattr(found, "admission", None)
        if isinstance(admission, Admission):
            return admission
        found = getattr(found, "fallback", None)
    return None


def needs_of(policy: Policy) -> Needs:
    """Return the needs of a policy and of its admission bounds."""
    admission = admission_of(policy)
    if admission is None or not admission.by_kv:
        return policy.needs
    return policy.needs | Needs.SESSION | Needs.PREFIX | Needs.KV


ConfigT = TypeVar("ConfigT", bound=PolicyConfig)


class PlainPolicy(Generic[ConfigT]):
    """All of `Policy` but `rank`, for a policy that stands alone."""

    name: ClassVar[str]
    Config: ClassVar[type[PolicyConfig]]

    def __init__(self, config: ConfigT) -> None:
        self.config = config
        self.needs = Needs.NOTHING
        self.pin_ttl_s = 0.0
        self.score_unit = ""
        self.admission: Admission | None = None
        """Bounds from which requests wait at the edge; None: only batch requests wait."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r})"

    def admit(self, features: RequestFeatures, candidates: Candidates, context: Context) -> Refusal | None:
        return None

    def terms(self, features: RequestFeatures, candidates: Candidates) -> Mapping[str, FloatColumn]:
        return {}

    def describe(self) -> PolicyDocument:
        document = {"policy": self.name, **msgspec.to_builtins(self.config)}
        if self.admission is not None:
            document["admission"] = msgspec.to_builtins(self.admission)
        return document

    def close(self) -> None:
        """Nothing to let go."""


class ComposedPolicy(PlainPolicy[ConfigT]):
    """All of `Policy` but `rank`, for a policy that leaves some requests to a fallback, which it owns."""

    def __init__(self, config: ConfigT, fallback: Policy) -> None:
        super().__init__(config)
        self.fallback = fallback
        self.needs = fallback.needs
        self.pin_ttl_s = fallback.pin_ttl_s

    def admit(self, features: RequestFeatures, candidates: Candidates, context: Context) -> Refusal | None:
        return self.fallback.admit(features, candidates, context)

    def describe(self) -> PolicyDocument:
        return {**super().describe(), "fallback": self.fallback.describe()}

    def close(self) -> None:
        self.fallback.close()
