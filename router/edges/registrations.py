"""Registrations that are the same on all edges.

`SharedReplicas` stands between one edge's `ReplicaRegistry` and the others'. What changed here it finds by comparing
the registry with what is agreed, so the registry needs to know nothing of edges; what others say it writes into the
registry. Each change has a version one above what was known; the greater `ReplicaRecord.rank` is right, everywhere.
Registrations last: who says a lesser one than is agreed here is told what is, since it may not hear of it otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable

from pointsman.router.edges.records import ReplicaRecord
from pointsman.router.errors import LimitError
from pointsman.router.fleet.replicas import ReplicaRegistry

MAX_GONE = 4096
"""Replicas that left are remembered, so that late word of them does not bring them back. When met, the first goes."""


class SharedReplicas:
    """The agreed state of each replica, and the registry that follows it."""

    def __init__(self, replicas: ReplicaRegistry) -> None:
        self._replicas = replicas
        self._agreed: dict[str, ReplicaRecord] = {}
        self._gone: dict[str, None] = {}
        self._lease_ended: set[str] = set()
        self._refused: set[str] = set()
        """Agreed, but the registry is full."""
        self.changed = False
        """The registry may differ from what is agreed."""

    def __repr__(self) -> str:
        return f"SharedReplicas({', '.join(f'{r.id}@{r.version}' for r in self._agreed.values())})"

    def records(self) -> list[ReplicaRecord]:
        """All that is agreed, those that left included."""
        return list(self._agreed.values())

    def lease_ended(self, replica_ids: Iterable[str]) -> None:
        """These are removed for want of heartbeats."""
        self._lease_ended.update(name for name in replica_ids if name in self._agreed)

    def changes(self) -> list[ReplicaRecord]:
        """What this edge's registry has that is not agreed; it is agreed then."""
        if not self.changed:
            return []
        self.changed = False
        here = {saved.id: saved for saved in self._replicas.saved()}
        changes = []
        for replica_id, saved in here.items():
            agreed = self._agreed.get(replica_id)
            if agreed is None or agreed.replica != saved:
                version = 1 if agreed is None else agreed.version + 1
                changes.append(ReplicaRecord(id=replica_id, version=version, replica=saved))
        for agreed in list(self._agreed.values()):
            if agreed.replica is not None and agreed.id not in here and agreed.id not in self._refused:
                ended = agreed.id in self._lease_ended
                changes.append(ReplicaRecord(id=agreed.id, version=agreed.version + 1, lease_ended=ended))
        self._lease_ended.clear()
        for record in changes:
            self._agree(record)
        return changes

    def merge(self, record: ReplicaRecord, now_s: float) -> bool:
        """Another edge says; True when that is right and was not known. What changed here was taken by `changes`
        before: else the other's word would undo it unheard."""
        assert not self.changed, "changes of the registry come first"
        agreed = self._agreed.get(record.id)
        if agreed is not None and agreed.rank >= record.rank:
            return False
        self._agree(record)
        replica = self._replicas.get(record.id)
        said_anew = False
        if record.replica is not None:
            try:
                self._replicas.learn(record.replica, now_s)
                self._refused.discard(record.id)
            except LimitError:
                self._refused.add(record.id)
        elif replica is not None:
            heard = replica.heard_until_s
            if record.lease_ended and heard is not None and heard > now_s:
                said_anew = True  # its heartbeats come here
            else:
                self._replicas.remove(record.id)
        # The registry says that it changed, but by what was agreed.
        self.changed = said_anew
        return True

    def better(self, record: ReplicaRecord) -> ReplicaRecord | None:
        """What is agreed of that replica, where another edge that says `record` does not know it."""
        agreed = self._agreed.get(record.id)
        return agreed if agreed is not None and agreed.rank > record.rank else None

    def _agree(self, record: ReplicaRecord) -> None:
        self._agreed[record.id] = record
        self._gone.pop(record.id, None)
        if record.replica is None:
            self._refused.discard(record.id)
            self._gone[record.id] = None
            if len(self._gone) > MAX_GONE:
                first = next(iter(self._gone))
                del self._gone[first], self._agreed[first]

    def validate(self) -> None:
        """Raises AssertionError when the registry, with nothing left to tell, is not what is agreed."""
        if self.changed:
            return
        here = {saved.id: saved for saved in self._replicas.saved()}
        agreed = {r.id: r.replica for r in self._agreed.values() if r.replica is not None and r.id not in self._refused}
        assert here == agreed, f"registry {sorted(here)}, agreed {sorted(agreed)}"
