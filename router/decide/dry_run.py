"""A policy document tried on past decisions: what it would have decided then, compared with what was decided.

`DryRun` judges one record after the other and owns the result. It sees the candidates as they were kept with each
record, so what it answers is about the fleet as the policies in force made it: a document that had been live would have
filled other caches and other queues. The dice are seeded: the same records have the same answer. Nothing is reserved,
pinned or counted.
"""

from __future__ import annotations

import random
from collections import Counter

from pointsman.policies.candidates import GONE_SLOT, NO_SLOT, Candidates
from pointsman.policies.policy import Context, Needs
from pointsman.policies.policy_set import PolicySet
from pointsman.router.decide.comparison import REFUSED, Comparison, predict, without_replica
from pointsman.router.requests.decision_record import DecisionRecord

SEED = 0

NO_CANDIDATES = "no-candidates"
OTHER_POLICY = "other-policy"
NOT_GATHERED = "not-gathered"
FAILED = "failed"

WHY_UNJUDGED = {
    NO_CANDIDATES: "No policy was asked: no replica could serve the request, or HAProxy placed it alone.",
    OTHER_POLICY: "The live document did not decide: the request named its policy, or generates nothing.",
    NOT_GATHERED: "Signals that the document needs were not gathered then; a shadow has them gathered.",
    FAILED: "The policy raised an exception.",
}
"""Why a decision cannot be judged, by the word that the answer counts it under."""


class DryRun:
    """One document on past decisions."""

    def __init__(self, policies: PolicySet) -> None:
        """policies: those of the document; the caller closes them."""
        self._policies = policies
        self._rng = random.Random(SEED)
        self._memberships: dict[tuple[str, ...], int] = {}
        self._went: dict[str, str] = {}
        """Replica by session: where the latest request went."""
        self.comparison = Comparison()
        self.unjudged: Counter[str] = Counter()
        """Decisions that could not be judged, by cause (`WHY_UNJUDGED`)."""
        self.missing = Needs.NOTHING
        """Signals for lack of which decisions could not be judged."""
        self.partial = 0
        """Judged decisions of which not all candidates were kept: a replica beyond those could not be chosen."""
        self.error = ""
        """The first exception that the policy raised."""

    def judge(self, record: DecisionRecord) -> None:
        """Judge one decision; records are to come in the order of their time."""
        cause = self._why_not(record)
        if not cause:
            try:
                self._judge(record)
            except Exception as error:  # a policy from outside may raise anything
                cause = FAILED
                self.error = self.error or f"{type(error).__name__}: {error}"
        if cause:
            self.unjudged[cause] += 1
        if record.features.session and record.decision.first:
            self._went[record.features.session] = record.decision.first

    def _why_not(self, record: DecisionRecord) -> str:
        """Why a decision cannot be judged; empty where it can."""
        if record.kept is None:
            return NO_CANDIDATES
        if not record.revision:
            return OTHER_POLICY
        missing = self._policies.of(record.features.model).needs & ~record.gathered
        if Needs.PIN in missing and (not record.features.session or self._pin(record) is not None):
            missing &= ~Needs.PIN
        if record.kept.seen.adapter is not None:
            # Room for adapters is not kept.
            missing |= self._policies.of(record.features.model).needs & Needs.ADAPTER
        if missing:
            self.missing |= missing
            return NOT_GATHERED
        return ""

    def _judge(self, record: DecisionRecord) -> None:
        kept, features, decision = record.kept, record.features, record.decision
        assert kept is not None
        candidates = kept.candidates()
        candidates.membership = self._membership(candidates)
        if Needs.PIN not in record.gathered and features.session:
            pin = self._pin(record)
            candidates.pin = NO_SLOT if not pin else candidates.ids.index(pin) if pin in candidates.ids else GONE_SLOT
        policy = self._policies.of(features.model)
        context = Context(record.at_s, self._rng, len(candidates))
        had = decision.first or REFUSED
        made = predict(candidates, candidates.ids.index(had)) if had in candidates.ids else None
        refusal = policy.admit(features, candidates, context)
        if refusal is not None:
            self.comparison.add(decision.reason, had, without_replica(refusal), made=made)
        else:
            ranked = policy.rank(features, candidates, context)
            best = ranked[0]
            tied = any(place.score == best.score and candidates.ids[place.slot] == had for place in ranked)
            other = predict(candidates, best.slot)
            self.comparison.add(decision.reason, had, candidates.ids[best.slot], tied=tied, made=made, other=other)
        self.partial += len(candidates) < len(kept.seen.slots)

    def _pin(self, record: DecisionRecord) -> str | None:
        """Replica that the latest request of a record's session went to, where nobody pinned it.

        Empty for a session that begins; None where nothing tells.
        """
        went = self._went.get(record.features.session)
        if went is not None:
            return went
        if Needs.KV in record.gathered and record.kept is not None:
            home = record.kept.seen.home
            return record.kept.ids[home] if 0 <= home < len(record.kept.ids) else ""
        return None

    def _membership(self, candidates: Candidates) -> int:
        """A token for these replicas, for what a policy keeps about a membership; none that the registry gives."""
        return self._memberships.setdefault(tuple(candidates.ids), -2 - len(self._memberships))
