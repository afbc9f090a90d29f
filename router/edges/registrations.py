"""Registrations that are the same on all edges.

`SharedReplicas` stands between one edge's `ReplicaRegistry` and the others'. It finds changes made here by comparing
the registry with the agreed records, so the registry knows nothing of edges; records of other edges it writes into the
registry. Each change has a version one above the agreed one; the greater `ReplicaRecord.rank` is right on every edge.
"""

from __future__ import annotations

from collections.abc import Iterable

from pointsman.router.edges.records import ReplicaRecord
from pointsman.router.errors import LimitError
from pointsman.router.fleet.replicas import ReplicaRegistry

MAX_GONE = 4096
"""Removed replicas that are remembered, so that a late record does not bring them back. When met, the first goes."""


class SharedReplicas:
    """The agreed state of each replica, and the registry that follows it."""

    def __init__(self, replicas: ReplicaRegistry) -> None:
        self._replicas = replicas
        self._agreed: dict[str, ReplicaRecord] = {}
        self._gone: dict[str, None] = {}
        self._lease_ended: set[str] = set()
        self._refused: set[str] = set()
        """Replicas that are agreed, but the registry is full."""
        self.changed = False
        """The registry may differ from what is agreed."""

    def __repr__(self) -> str:
        return f"SharedReplicas({', '.join(f'{r.id}@{r.version}' for r in self._agreed.values())})"

    def records(self) -> list[ReplicaRecord]:
        """All agreed records, those of removed replicas included."""
        return list(self._agreed.values())

    def ids(self) -> list[str]:
        """Ids of all replicas of which a record is agreed."""
        return list(self._agreed)

    def get(self, replica_id: str) -> ReplicaRecord | None:
        """The agreed record of a replica."""
        return self._agreed.get(replica_id)

    def lease_ended(self, replica_ids: Iterable[str]) -> None:
        """Note that replicas were removed because their heartbeats ceased."""
        self._lease_ended.update(name for name in replica_ids if name in self._agreed)

    def changes(self) -> list[ReplicaRecord]:
        """Return local changes since the last call as records of the next version; they are agreed from here on."""
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
        """Take over the record of another edge; True when it is right and was not known.

        `changes` was called before: else the record would undo a local change that nobody learned of.
        """
        assert not self.changed, "changes of the registry come first"
        agreed = self._agreed.get(record.id)
        if agreed is not None and (agreed == record or agreed.rank >= record.rank):
            return False
        self._agree(record)
        replica = self._replicas.get(record.id)
        published_again = False
        if record.replica is not None:
            try:
                self._replicas.learn(record.replica, now_s)
                self._refused.discard(record.id)
            except LimitError:
                self._refused.add(record.id)
        elif replica is not None:
            heard = replica.heard_until_s
            if record.lease_ended and heard is not None and heard > now_s:
                published_again = True  # its heartbeats reach this edge
            else:
                self._replicas.remove(record.id)
        # The registry reports a change, but that of the agreed record.
        self.changed = published_again
        return True

    def _agree(self, record: ReplicaRecord) -> None:
        self._agreed[record.id] = record
        self._gone.pop(record.id, None)
        if record.replica is None:
            self._refused.discard(record.id)
            self._gone[record.id] = None
            if len(self._gone) > MAX_GONE:
                first = next(iter(self._gone))
                del self._gone[first], self._agreed[first]
