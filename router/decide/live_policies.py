"""The policies that decide: those of the live document, and which of them is asked about a request.

`PolicyChoice` owns the live policies and those that the override header names. A `Chooser` may stand before the live
ones: policies by model are one, a rollout is another.
"""

from __future__ import annotations

from typing import Protocol

from pointsman.policies.policy import Needs
from pointsman.policies.policy_set import PolicySet
from pointsman.policies.registry import build_policy, installed_policies
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.considered import ActivePolicy


class Chooser(Protocol):
    """Names the policy of each request, where it is not always the same."""

    def choose(self, features: RequestFeatures, now_s: float) -> ActivePolicy:
        """The policy for a request that is about to be decided."""

    def peek(self, features: RequestFeatures, now_s: float) -> ActivePolicy:
        """The policy for a request, which is not decided; nothing is remembered of it."""


class LivePolicies:
    """The policies of one document; a `Chooser` by model."""

    __slots__ = ("main", "models", "pin_ttl_s", "policies", "revision")

    def __init__(self, policies: PolicySet, revision: int = 0) -> None:
        """revision: of the document; 0 for one that is no revision."""
        self.policies = policies
        self.revision = revision
        self.main = ActivePolicy(policies.main, revision)
        self.models = {model: ActivePolicy(policy, revision) for model, policy in policies.models.items()}
        pinning = [policy.pin_ttl_s for policy in policies if Needs.PIN in policy.needs]
        self.pin_ttl_s: float | None = max(pinning) if pinning else None
        """Seconds for which a pin counts under the policy that keeps pins longest; None where none makes any."""

    def gather(self, of_all: Needs, besides: Needs) -> None:
        """Note what is gathered for others and is there for these policies, too; arguments as of `ActivePolicy`."""
        for active in (self.main, *self.models.values()):
            active.gather(of_all, besides)

    def of(self, model: str) -> ActivePolicy:
        """The policy for the name that a request asks for."""
        return self.models.get(model, self.main)

    def choose(self, features: RequestFeatures, now_s: float) -> ActivePolicy:
        """The policy for the model of a request."""
        return self.models.get(features.model, self.main)

    def peek(self, features: RequestFeatures, now_s: float) -> ActivePolicy:
        """The policy for the model of a request."""
        return self.models.get(features.model, self.main)


class PolicyChoice:
    """Which policy is asked about each request."""

    __slots__ = (
        *("_by_load", "_override_header", "_overrides", "by_kv", "chooser", "live", "main", "needs", "pin_ttl_s"),
    )

    def __init__(self, policies: PolicySet, *, override_header: bool) -> None:
        """policies: those that decide first.
        override_header: whether a request may name its policy."""
        self._override_header = override_header
        self._overrides: dict[str, ActivePolicy] = {}
        self._by_load = ActivePolicy(build_policy({"policy": "least_load"}))
        self.put(LivePolicies(policies, 1))

    def put(self, live: LivePolicies) -> None:
        """Put others in place of the live policies; of a rollout nothing is left."""
        self.live = live
        self.main = live.main
        """Asked about every request that generates and names no policy, where `chooser` is None."""
        self.set_chooser(None, Needs.NOTHING)

    def set_chooser(self, chooser: Chooser | None, besides: Needs, pin_ttl_s: float | None = None) -> None:
        """Have a chooser name the policy of each request; None: the live document does.

        besides: signals to be gathered that the live policies do not need.
        pin_ttl_s: how long the chooser's other policies keep pins; None where they make none.
        """
        live = self.live
        self.chooser = chooser if chooser is not None else live if live.models else None
        self.needs = live.policies.needs | besides
        """Signals that are gathered for whatever decides."""
        live.gather(self.needs, besides)
        ttls_s = [ttl_s for ttl_s in (live.pin_ttl_s, pin_ttl_s) if ttl_s is not None]
        self.pin_ttl_s: float | None = max(ttls_s) if ttls_s else None
        """Seconds after its last request for which a session keeps its pin; None where no policy makes any."""
        self.by_kv = bool(self.needs & (Needs.PREFIX | Needs.KV))
        """Whether any of it looks at prompts or KV."""

    def of(self, features: RequestFeatures, now_s: float) -> ActivePolicy:
        """The policy that decides a request: the one that it names, with its defaults, else the live one for its model.

        Least load for a request that generates nothing.
        """
        return self._named(features) or (self.main if self.chooser is None else self.chooser.choose(features, now_s))

    def peek(self, features: RequestFeatures, now_s: float) -> ActivePolicy:
        """The policy that would decide a request; nothing is remembered of it."""
        return self._named(features) or (self.main if self.chooser is None else self.chooser.peek(features, now_s))

    def _named(self, features: RequestFeatures) -> ActivePolicy | None:
        if not features.generates:
            return self._by_load
        name = features.policy
        if not name or not self._override_header:
            return None
        active = self._overrides.get(name)
        if active is None and name in installed_policies():
            active = self._overrides[name] = ActivePolicy(build_policy({"policy": name}))
        return active
