"""Records of decisions as the pipeline makes them.

`Recorder` copies what a decision saw before the decision changes it, and hands the record to the `DecisionLog`. It
decides nothing, and a pipeline without one does no work for records.
"""

from __future__ import annotations

from collections.abc import Mapping

from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.considered import Considered
from pointsman.router.decide.explain import why_excluded, why_ineligible
from pointsman.router.fleet.memberships import Membership
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.kv.columns import KVColumns
from pointsman.router.requests.decision_log import DecisionLog, Fleet
from pointsman.router.requests.decision_record import DecisionRecord, ShadowChoice, keep
from pointsman.router.requests.hold_queue import HoldQueue

NOBODY: Mapping[str, str] = {}


class Recorder:
    """The writer of decision records."""

    def __init__(self, log: DecisionLog, replicas: ReplicaRegistry, columns: KVColumns, holds: HoldQueue) -> None:
        self._log = log
        self._replicas = replicas
        self._columns = columns
        self._holds = holds

    def considered(
        self,
        features: RequestFeatures,
        considered: Considered,
        eligible: Membership,
        now_s: float,
        beside: ShadowChoice | None = None,
    ) -> DecisionRecord:
        """Record a decision that a policy made, before any of it is applied.

        beside: what a shadow would have decided.
        """
        log, candidates, ranked = self._log, considered.candidates, considered.ranked
        fleet = log.fleet(candidates.membership, eligible.token)
        if fleet is None:
            reach = candidates.slots.item(-1) + 1
            excluded = why_excluded(self._replicas, eligible, candidates)
            fleet = Fleet(eligible.token, tuple(self._replicas.ids[:reach]), excluded)
            log.add_fleet(candidates.membership, fleet)
        active = considered.active
        record = DecisionRecord(
            now_s,
            features,
            considered.decision,
            active.name,
            active.revision,
            keep(candidates, ranked, fleet.ids, self._columns.table),
            fleet.excluded,
            ranked[0].score if ranked else 0.0,
            gathered=active.gathers,
            shadow=beside,
        )
        self._add(record)
        return record

    def unplaceable(self, features: RequestFeatures, decision: Decision, eligible: Membership, now_s: float) -> None:
        """Record the answer to a request that no policy was asked about."""
        excluded = why_ineligible(self._replicas, eligible) if not features.naming else NOBODY
        self._add(DecisionRecord(now_s, features, decision, "", 0, None, excluded))

    def refused(self, features: RequestFeatures, refusal: Decision, policy: str, revision: int, now_s: float) -> None:
        """Record a refusal that was formed when the request began to wait."""
        self._add(DecisionRecord(now_s, features, refusal, policy, revision, None, NOBODY))

    def _add(self, record: DecisionRecord) -> None:
        if self._holds.held:
            held = self._holds.held.get(record.features.request_id)
            if held is not None:
                record.held_s = record.at_s - held.since_s
        self._log.add(record)
