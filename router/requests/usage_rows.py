"""The row of the ledger that counts a request: its tenant, key, and what the names of its replica mean."""

from __future__ import annotations

from pointsman.policies.candidates import NO_SLOT
from pointsman.policies.request import RequestFeatures
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.tenancy.usage import MAX_ROWS, UsageLedger, UsageRow


class UsageRowFinder:
    """Finds rows, and remembers those of this hour while no replica changes its names."""

    def __init__(self, ledger: UsageLedger, replicas: ReplicaRegistry) -> None:
        self._ledger = ledger
        self._replicas = replicas
        self._found: dict[tuple[str, str, str, int], UsageRow] = {}
        """Rows by tenant, key, requested model and slot."""
        self._changes = self._hour = -1

    def row(self, features: RequestFeatures | None, slot: int) -> UsageRow:
        """The row of a request that a slot serves. features: None for one that was decided by hand."""
        if features is None:
            return self._ledger.row("", "", self.model_of(slot), "")
        changes = self._replicas.memberships.changes
        if changes != self._changes or self._hour != self._ledger.hour or len(self._found) >= MAX_ROWS:
            self._changes, self._hour = changes, self._ledger.hour
            self._found.clear()
        names = (features.tenant, features.key, features.model, slot)
        row = self._found.get(names)
        if row is None:
            row = self._found[names] = self._new(features, slot)
        return row

    def model_of(self, slot: int) -> str:
        """The model of the replica on a slot; empty where there is none, or it has no name."""
        replica = None if slot == NO_SLOT else self._replicas.get(self._replicas.ids[slot])
        return "" if replica is None else replica.model

    def _new(self, features: RequestFeatures, slot: int) -> UsageRow:
        model, adapter = features.model, ""
        replica = None if slot == NO_SLOT else self._replicas.get(self._replicas.ids[slot])
        if replica is not None:
            if not model:
                model = replica.model
            elif replica.model and model != replica.model and model in replica.adapters:
                model, adapter = replica.model, model
        return self._ledger.row(features.tenant, features.key, model, adapter)
