"""The registered replicas of one edge: registrations, leases, drain flags, and the health that HAProxy observes.

`ReplicaRegistry` owns who is registered. It gives each replica a *slot*, a small integer other tables use as a column
index; a slot is reused only after its replica is removed, and `on_removed` is called first so that nothing keyed by the
slot survives its replica. Which replicas may serve a model is asked of `memberships`, which the registry tells of each
change.

The registry is written by the admin front, the lease sweep and the edge sync, all on one event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pointsman.contract.registration import Registration
from pointsman.policies.candidates import NO_SLOT
from pointsman.router.errors import LimitError
from pointsman.router.fleet.health_checks import HealthChecks
from pointsman.router.fleet.memberships import Memberships
from pointsman.router.fleet.replica import Health, Replica, ServedNames
from pointsman.router.fleet.saved import SavedReplica

MAX_REPLICAS = 4096
"""HAProxy's `use-server` walks a backend's servers one by one, which is fine to about 1,000."""

KEPT_S = 1.0
"""After so long it is asked again whether a replica without a lease of its own is kept."""


class ReplicaRegistry:
    """Registrations, leases, drain and health of all replicas of one edge."""

    def __init__(
        self,
        *,
        initial_health: Health = Health.STARTING,
        max_replicas: int = MAX_REPLICAS,
        lists_follow: bool = False,
        on_added: Callable[[int], None] = lambda slot: None,
        on_removed: Callable[[int], None] = lambda slot: None,
        on_changed: Callable[[], None] = lambda: None,
    ) -> None:
        """initial_health: health of a replica before its first check.
        lists_follow: whether somebody reads the replicas' own lists, and calls `set_listed`.
        on_added, on_removed: called with a slot after its replica came, and before its replica leaves.
        on_changed: called after each change that HAProxy, the state file or other edges have to learn of."""
        self._initial_health = initial_health
        self._lists_follow = lists_follow
        self._max_replicas = max_replicas
        self._on_added = on_added
        self._on_removed = on_removed
        self._on_changed = on_changed
        self._by_id: dict[str, Replica] = {}
        self._free_slots: list[int] = []
        self.ids: list[str] = []
        """Replica id by slot; empty string for a free slot."""
        self.memberships = Memberships(self._by_id)
        self.checks = HealthChecks()
        """HAProxy's health checks, which people are shown."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._by_id.values())

    def __repr__(self) -> str:
        return f"ReplicaRegistry({', '.join(f'{r.id}={r.state}' for r in self)})"

    def get(self, replica_id: str) -> Replica | None:
        return self._by_id.get(replica_id)

    def slot_of(self, replica_id: str) -> int:
        """Return the slot of a replica; NO_SLOT for one that is not registered."""
        replica = self._by_id.get(replica_id)
        return replica.slot if replica is not None else NO_SLOT

    def saved(self) -> list[SavedReplica]:
        """Return all registrations, by id."""
        return [replica.saved for replica in sorted(self, key=lambda r: r.id)]

    # Registrations

    def put(
        self,
        replica_id: str,
        registration: Registration,
        endpoint: tuple[str, int],
        now_s: float,
        *,
        remote: bool = False,
    ) -> Replica:
        """Registers a replica or renews its registration.

        endpoint: IP address and port behind the URL. Another one is a restarted engine: it starts unproven and no
        longer drains.
        remote: the replica registered with another edge, and edges agreed on it.
        Raises LimitError beyond `max_replicas`, and SupersededError when an earlier incarnation of a registered replica
        registers itself here. What edges agreed on is taken, until the later incarnation registers again.
        """
        replica = self._by_id.get(replica_id)
        is_new = replica is None
        if replica is None:
            replica = self._add(replica_id, registration, endpoint)
            replica.since_s = now_s
            changed = True
        else:
            if not remote:
                replica.check_incarnation(registration.born_ms)
            before = replica.state
            changed = replica.update(registration, endpoint, self._initial_health)
            _note_state(replica, before, now_s)
        replica.lease_until_s = None if registration.ttl_s is None else now_s + registration.ttl_s
        if not remote:
            replica.heard_until_s = replica.lease_until_s
        if changed:
            replica.find_names(lists_follow=self._lists_follow)
            if is_new:
                self._on_added(replica.slot)
            self._changed()
        return replica

    def _add(self, replica_id: str, registration: Registration, endpoint: tuple[str, int]) -> Replica:
        if len(self._by_id) >= self._max_replicas:
            raise LimitError(f"max_replicas: {self._max_replicas} replicas are registered")
        if not self._free_slots:
            self._free_slots.append(len(self.ids))
            self.ids.append("")
        slot = self._free_slots.pop()
        self.ids[slot] = replica_id
        host, port = endpoint
        replica = Replica(slot, replica_id, host, port, registration, self._initial_health, registration.role)
        self._by_id[replica_id] = replica
        return replica

    def restore(self, saved: SavedReplica, now_s: float) -> Replica:
        """Registers a replica of the state file; its lease starts afresh."""
        replica = self.put(saved.id, saved.registration, (saved.host, saved.port), now_s)
        if saved.draining:
            self.drain(saved.id, now_s)
        return replica

    def learn(self, saved: SavedReplica, now_s: float) -> Replica:
        """Registers a replica as another edge published it, drain flag included."""
        replica = self.put(saved.id, saved.registration, (saved.host, saved.port), now_s, remote=True)
        if _set_draining(replica, saved.draining, now_s):
            self._changed()
        return replica

    def remove(self, replica_id: str) -> bool:
        """Forgets a replica at once; True if it was known. Streams in flight are HAProxy's and end by themselves."""
        replica = self._by_id.pop(replica_id, None)
        if replica is None:
            return False
        self._on_removed(replica.slot)
        self.checks.clear_slot(replica.slot)
        self.ids[replica.slot] = ""
        self._free_slots.append(replica.slot)
        self._changed()
        return True

    # What is found out about them

    def set_listed(self, replica_id: str, names: ServedNames) -> bool:
        """Takes the names in a replica's own list; True if that changes what the replica may be called."""
        replica = self._by_id.get(replica_id)
        if replica is None or replica.listed == names:
            return False
        replica.listed = names
        if not replica.find_names(lists_follow=self._lists_follow):
            return False
        self._changed()
        return True

    def drain(self, replica_id: str, now_s: float) -> bool:
        """Routes no further request to a replica; True if the replica is known."""
        replica = self._by_id.get(replica_id)
        if replica is not None and _set_draining(replica, True, now_s):
            self._changed()
        return replica is not None

    def undrain(self, replica_id: str, now_s: float) -> bool:
        """Routes requests to a replica that was drained; True if the replica is known."""
        replica = self._by_id.get(replica_id)
        if replica is not None and _set_draining(replica, False, now_s):
            self._changed()
        return replica is not None

    def set_health(self, replica_id: str, health: Health, now_s: float) -> bool:
        """Applies what HAProxy observes; True if the health changed."""
        replica = self._by_id.get(replica_id)
        if replica is None or replica.health is health:
            return False
        before, replica.health = replica.state, health
        _note_state(replica, before, now_s)
        self._changed()
        return True

    def set_ejected(self, replica_id: str, ejected: bool, now_s: float, *, probing: bool = False) -> bool:
        """Takes a replica out because of its answers, or back in; True if that changed anything.

        Decisions of this edge follow it, and nothing else: HAProxy, other edges and the state file do not learn of it.
        """
        replica = self._by_id.get(replica_id)
        if replica is None or (replica.ejected, replica.probing) == (ejected, probing):
            return False
        before = replica.state
        replica.ejected, replica.probing = ejected, probing
        _note_state(replica, before, now_s)
        self.memberships.eligibility_changed()
        return True

    def _changed(self) -> None:
        self.memberships.names_changed()
        self._on_changed()

    # Leases

    def expire_leases(self, now_s: float, keeps: Callable[[Replica], bool] = lambda replica: False) -> list[str]:
        """Removes replicas whose lease ended, unless somebody else `keeps` them; returns their ids."""
        gone = []
        for replica in self:
            if replica.lease_until_s is not None and replica.lease_until_s <= now_s:
                if keeps(replica):
                    replica.lease_until_s = now_s + KEPT_S
                else:
                    gone.append(replica.id)
        for replica_id in gone:
            self.remove(replica_id)
        return gone

    def extend_leases(self, by_s: float) -> None:
        """Extends all leases by a time in which no heartbeat could be received, in seconds."""
        for replica in self:
            if replica.lease_until_s is not None:
                replica.lease_until_s += by_s
            if replica.heard_until_s is not None:
                replica.heard_until_s += by_s


def _set_draining(replica: Replica, draining: bool, now_s: float) -> bool:
    """Drains a replica or ends that; True if it was not so before."""
    if replica.draining is draining:
        return False
    before, replica.draining = replica.state, draining
    _note_state(replica, before, now_s)
    return True


def _note_state(replica: Replica, before: str, now_s: float) -> None:
    """Notes when a replica came into its state, which was `before` until then."""
    if replica.state != before:
        replica.since_s = now_s
