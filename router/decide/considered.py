"""Input and result of one decision, before anything changes.

`Pipeline` makes a `Considered` for each request it can place. `decide` applies it, `explain` renders it; both see the
same, because one step makes it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

import msgspec

from pointsman.policies.candidates import Candidates, KVSignals
from pointsman.policies.decision import Decision, Ranked, Refusal
from pointsman.policies.lib.pair import Pair
from pointsman.policies.policy import Context, Needs, Policy, admission_of, needs_of
from pointsman.policies.request import RequestFeatures
from pointsman.router.kv.parts import Prompt
from pointsman.router.requests.decision_record import ShadowChoice

OF_BODIES = Needs.SESSION | Needs.TOKENS | Needs.MODEL
"""Signals that are features of the request: read from the body for all policies if one needs them."""


class ActivePolicy:
    """A policy and its needs as plain booleans: `&` of two Flags takes as long as a short ranking."""

    __slots__ = ("admission", "by_adapter", "by_kv", "gathers", "name", "needs", "pins", "policy", "revision")

    def __init__(self, policy: Policy, revision: int = 0) -> None:
        """revision: of the live policy's document; 0 for a policy that is not live."""
        self.policy = policy
        self.revision = revision
        self.name = policy.name
        self.admission = admission_of(policy)
        """Bounds from which requests wait; None where only batch requests do."""
        self.needs = needs_of(policy)
        self.pins = Needs.PIN in self.needs
        self.by_adapter = Needs.ADAPTER in self.needs
        self.by_kv = bool(self.needs & (Needs.PREFIX | Needs.KV))
        self.gathers = self.needs
        """Signals that are there when the policy is asked, as records keep them."""
        self.gather(Needs.NOTHING, Needs.NOTHING)

    def gather(self, of_all: Needs, besides: Needs) -> None:
        """Note what is gathered for others and is there for this policy, too.

        of_all: what all live policies need; of that, features that are read from bodies are there.
        besides: what policies need that are tried beside the live ones; all of it is there but pins.
        """
        needs = self.needs | (of_all & OF_BODIES) | (besides & ~Needs.PIN)
        # Prompts and KV are looked at together.
        self.gathers = needs | Needs.PREFIX | Needs.KV if needs & (Needs.PREFIX | Needs.KV) else needs


def add_prompt(candidates: Candidates, prompt: Prompt, signals: KVSignals) -> None:
    """Add to the candidates of a request what the fleet's KV tells of its prompt."""
    candidates.kv = signals
    candidates.resident = prompt.resident
    candidates.prompt_tokens = prompt.tokens
    known = prompt.conversation
    if known is not None:
        candidates.home = known.slot
        candidates.home_tokens = known.counted_tokens


class Considered(msgspec.Struct, gc=False):
    """One request that at least one replica may serve, and the answer to it."""

    active: ActivePolicy
    """The policy that was asked."""
    longest: int
    """Tokens of the longest prompt that counts in full: the model's context, or the general limit."""
    prompt: Prompt | None
    """The prompt as the fleet's KV sees it; None for policies that do not look at prompts."""
    candidates: Candidates
    context: Context
    decision: Decision
    """The answer. With `hold_ms` the request should wait."""
    refusal: Refusal | None
    """The policy's refusal; None where the request is placed."""
    ranked: Sequence[Ranked] = ()
    """Best first; empty where the policy refused."""
    pair: Pair | None = None
    """Pair that computes the prompt; None where the best replica is no decode replica, or the policy refused."""


class Watcher(Protocol):
    """Observer of decisions before they are applied."""

    def watch(self, features: RequestFeatures, considered: Considered, now_s: float) -> ShadowChoice | None:
        """Look at a decision; what a shadow would have decided, None without one. Never raises."""


def copied_dice(rng: random.Random) -> random.Random:
    """Dice that fall as the given ones will, which stay as they are."""
    copied = random.Random()
    copied.setstate(rng.getstate())
    return copied
