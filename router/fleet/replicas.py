"""Membership of the fleet: registrations, leases, health, and the replicas eligible for a model.

`ReplicaRegistry` owns membership: registrations and leases, drain flags, and the health HAProxy observes. It gives each
replica a *slot*, a small integer other tables use as a column index; a slot is reused only after its replica is
removed, and `on_removed` is called first so that nothing keyed by the slot survives its replica.

A request's `model` names what it wants: a served model, one of its aliases or a LoRA adapter. What a replica may be
called comes from its registration and from its own `/v1/models`. A replica nobody named serves any; one that is still
to be asked waits while others have names, lest it draw what is not for it.

Readers get a `Membership`: the immutable, ascending array of slots eligible for a model, rebuilt only when something
changed. The registry is written by the admin front, the lease sweep and the edge sync, all on one event loop.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from pointsman.contract.registration import Registration, Role
from pointsman.haproxy.config import join_host_port
from pointsman.policies.candidates import NO_SLOT, Slots
from pointsman.router.errors import LimitError, SupersededError
from pointsman.router.fleet.saved import SavedReplica

MAX_REPLICAS = 4096
"""HAProxy's `use-server` walks a backend's servers one by one, which is fine to about 1,000."""

ANY_MODEL = ""

OTHER_MODEL = "\0"
"""A name nobody has: only replicas that serve any name may serve it."""

KEPT_S = 1.0
"""After so long it is asked again whether a replica without a lease of its own is kept."""

MAX_NARROWED = 64
"""Memberships less some members that are kept: with a few demoted replicas every subset of them fits."""

ANYTHING: frozenset[str] = frozenset()
"""Names of a replica whose model nobody knows."""


class Health(StrEnum):
    """Result of HAProxy's health checks."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class ServedNames:
    """Names in a replica's own `/v1/models`; both sets are empty where there is no such list."""

    models: Mapping[str, str] = field(default_factory=dict)
    """Model by name; names of one model are aliases."""
    adapters: frozenset[str] = frozenset()

    def aliases(self, name: str) -> Iterable[str]:
        """All names of the model that `name` is one of; none where it is not listed."""
        model = self.models.get(name)
        return [alias for alias, other in self.models.items() if other == model]


@dataclass(slots=True)
class Replica:
    """One registered replica. Mutated by the registry alone."""

    slot: int
    id: str
    url: str
    host: str
    port: int
    model: str
    ttl_s: float | None
    lease_until_s: float | None
    health: Health
    adapters: frozenset[str]
    """LoRA adapters it may be asked for, by registration or by its own list."""
    names: frozenset[str] | None
    """Model names that the replica serves, adapters included. Empty: any; None: not known yet."""
    registration: Registration
    listed: ServedNames | None = None
    """Names in the replica's own list; None before it was read."""
    draining: bool = False
    ejected: bool = False
    """Whether its answers failed so often that it gets no requests for a while (`pointsman.router.outliers.table`)."""
    probing: bool = False
    """Ejected, and due for the one request that shows whether it is well again."""
    role: Role = Role.BOTH
    heard_until_s: float | None = None
    """End of the lease by heartbeats that came here, to this edge; None without any."""
    pool: str = ""

    @property
    def eligible(self) -> bool:
        return self.health is Health.UP and not self.draining and (self.probing or not self.ejected)

    @property
    def address(self) -> str:
        """host:port; an IPv6 address in brackets."""
        return join_host_port(self.host, self.port)

    @property
    def state(self) -> str:
        """`draining`, the health, or `ejected` of a replica that is up otherwise: one word for people and metrics."""
        if self.draining:
            return "draining"
        return "ejected" if self.ejected and self.health is Health.UP else str(self.health)


@dataclass(frozen=True, slots=True)
class Membership:
    """Replicas that may serve one model. Two memberships have different `token`s exactly when slots or ids differ."""

    token: int
    slots: Slots
    """Eligible replicas that take requests: all roles but prefill."""
    prefills: Mapping[int, Slots] | None = None
    """For each of them that is a decode replica, the eligible prefill replicas of its model. None without any."""
    prefills_of_all: Slots | None = None
    """Prefill slots for all of `slots`, where these are decode replicas of one model."""


class ReplicaRegistry:
    """Membership, drain and health of all replicas of one edge."""

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
        """`lists_follow`: somebody reads the lists of replicas and tells with `listed`."""
        self._initial_health = initial_health
        self._lists_follow = lists_follow
        self._max_replicas = max_replicas
        self._on_added = on_added
        self._on_removed = on_removed
        self._on_changed = on_changed
        self._by_id: dict[str, Replica] = {}
        self._ids: list[str] = []
        self._free_slots: list[int] = []
        self._names: frozenset[str] | None = None
        self._adapters: frozenset[str] | None = None
        self._memberships: dict[str, Membership] = {}
        self._published: dict[str, tuple[tuple[tuple[int, str], ...], Membership]] = {}
        self._tokens = itertools.count(1)
        self._narrowed: dict[tuple[int, frozenset[int]], Membership] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._by_id.values())

    def __repr__(self) -> str:
        return f"ReplicaRegistry({', '.join(f'{r.id}={r.state}' for r in self)})"

    def slot_of(self, replica_id: str) -> int:
        """A replica's slot; NO_SLOT for one that is not registered."""
        replica = self.get(replica_id)
        return replica.slot if replica is not None else NO_SLOT

    def get(self, replica_id: str) -> Replica | None:
        return self._by_id.get(replica_id)

    @property
    def ids(self) -> list[str]:
        """Replica id by slot; empty string for a free slot."""
        return self._ids

    def names(self) -> frozenset[str]:
        """All names by which something registered may be asked for: models, aliases, adapters."""
        if self._names is None:
            self._names = ANYTHING.union(*(r.names for r in self if r.names))
        return self._names

    def adapters(self) -> frozenset[str]:
        """Names that are LoRA adapters."""
        if self._adapters is None:
            self._adapters = frozenset().union(*(r.adapters for r in self))
        return self._adapters

    def serves(self, model: str) -> bool:
        """Whether something registered may serve that name, whatever its state; who comes to an empty fleet may."""
        return model == ANY_MODEL or not self._by_id or model in self.names() or any(not r.names for r in self)

    # Writers

    def put(
        self,
        replica_id: str,
        registration: Registration,
        endpoint: tuple[str, int],
        now_s: float,
        *,
        elsewhere: bool = False,
    ) -> Replica:
        """Registers or renews; `endpoint` is the IP address and port behind the URL. `elsewhere`: it was not this edge
        that the replica told.

        Another endpoint is a restarted engine: it starts unproven and no longer drains. Raises LimitError beyond
        `max_replicas`, and SupersededError when the replica itself tells that it is an earlier life of what is
        registered; what edges agree on stands, until the later life tells again.
        """
        if not elsewhere:
            self.check_life(replica_id, registration.born_ms)
        host, port = endpoint
        lease_until_s = None if registration.ttl_s is None else now_s + registration.ttl_s
        replica = self._by_id.get(replica_id)
        if replica is None:
            if len(self._by_id) >= self._max_replicas:
                raise LimitError(f"max_replicas: {self._max_replicas} replicas are registered")
            slot = self._free_slots.pop() if self._free_slots else len(self._ids)
            if slot == len(self._ids):
                self._ids.append(replica_id)
            else:
                self._ids[slot] = replica_id
            replica = Replica(
                slot, replica_id, registration.url, host, port, registration.model,
                registration.ttl_s, lease_until_s, self._initial_health, ANYTHING, None, registration,
                role=registration.role, pool=registration.pool,
            )  # fmt: skip
            replica.heard_until_s = None if elsewhere else lease_until_s
            self._name(replica)
            self._by_id[replica_id] = replica
            self._on_added(slot)
            self._changed()
            return replica
        replica.ttl_s, replica.lease_until_s = registration.ttl_s, lease_until_s
        if not elsewhere:
            replica.heard_until_s = lease_until_s
        replica.pool = registration.pool
        moved = (host, port) != (replica.host, replica.port)
        replica.url = registration.url  # another name of the same address, perhaps
        if moved:
            replica.host, replica.port = host, port
            replica.health, replica.draining, replica.listed = self._initial_health, False, None
            replica.ejected = replica.probing = False
        before, replica.registration = replica.registration, registration
        if moved or (registration.model, registration.adapters, registration.health_path, registration.role) != (
            before.model,
            before.adapters,
            before.health_path,
            before.role,
        ):
            replica.role = registration.role
            self._name(replica)
            self._changed()
        return replica

    def listed(self, replica_id: str, names: ServedNames) -> bool:
        """Takes what a replica's own list says; True if that changes what it may be called."""
        replica = self._by_id.get(replica_id)
        if replica is None or replica.listed == names:
            return False
        replica.listed = names
        before = (replica.names, replica.adapters, replica.model)
        self._name(replica)
        if (replica.names, replica.adapters, replica.model) == before:
            return False
        self._changed()
        return True

    def _name(self, replica: Replica) -> None:
        """Names: the registered model with its aliases and adapters as listed, else all that is listed."""
        registration, listed = replica.registration, replica.listed
        replica.adapters = frozenset(registration.adapters)
        if registration.model:
            names = [registration.model]
            if listed is not None and registration.model in listed.models:
                replica.adapters |= listed.adapters
                names += listed.aliases(registration.model)
            replica.model = registration.model
            replica.names = replica.adapters.union(names)
        elif listed is not None and listed.models:
            replica.adapters |= listed.adapters
            replica.model = min(listed.models)
            replica.names = replica.adapters.union(listed.models)
        else:
            replica.model = ""
            replica.names = None if listed is None and self._lists_follow else ANYTHING

    def restore(self, saved: SavedReplica, now_s: float) -> Replica:
        """Takes a saved registration over; its lease starts afresh."""
        replica = self.put(saved.id, saved.registration, (saved.host, saved.port), now_s)
        if saved.draining:
            self.drain(saved.id)
        return replica

    def learn(self, saved: SavedReplica, now_s: float) -> Replica:
        """Makes a registration what another edge says it is."""
        replica = self.put(saved.id, saved.registration, (saved.host, saved.port), now_s, elsewhere=True)
        if replica.draining is not saved.draining:
            replica.draining = saved.draining
            self._changed()
        return replica

    def remove(self, replica_id: str) -> bool:
        """Forgets a replica at once; True if it was known. Streams in flight are HAProxy's and end by themselves."""
        replica = self._by_id.pop(replica_id, None)
        if replica is None:
            return False
        self._on_removed(replica.slot)
        self._ids[replica.slot] = ""
        self._free_slots.append(replica.slot)
        self._changed()
        return True

    def check_life(self, replica_id: str, born_ms: int) -> None:
        """Raises SupersededError when an earlier life of a replica than is registered says something; 0 is unsaid."""
        replica = self._by_id.get(replica_id)
        if replica is not None and 0 < born_ms < replica.registration.born_ms:
            raise SupersededError(f"replica {replica_id!r}: a later life of it is registered, at {replica.url}")

    def renew(self, replica: Replica, born_ms: int, now_s: float) -> bool:
        """Renews the lease for a message of the replica itself, as `put` does. False when there is no lease, or when
        it is an earlier life that speaks (`born_ms`; 0 is unsaid)."""
        if replica.ttl_s is None or 0 < born_ms < replica.registration.born_ms:
            return False
        replica.lease_until_s = replica.heard_until_s = now_s + replica.ttl_s
        return True

    def drain(self, replica_id: str) -> bool:
        """No further request is routed to it; True if it is known."""
        replica = self._by_id.get(replica_id)
        if replica is None:
            return False
        if not replica.draining:
            replica.draining = True
            self._changed()
        return True

    def set_health(self, replica_id: str, health: Health) -> bool:
        """Applies what HAProxy observes; True if it changed."""
        replica = self._by_id.get(replica_id)
        if replica is None or replica.health is health:
            return False
        replica.health = health
        self._changed()
        return True

    def set_ejected(self, replica_id: str, ejected: bool, *, probing: bool = False) -> bool:
        """Takes a replica out because of its answers, or back in; True if that changed anything.

        Decisions of this edge follow it, and nothing else: HAProxy, other edges and the state file do not learn of it.
        """
        replica = self._by_id.get(replica_id)
        if replica is None or (replica.ejected, replica.probing) == (ejected, probing):
            return False
        replica.ejected, replica.probing = ejected, probing
        self._memberships.clear()
        return True

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
        """Time went by in which no heartbeat could be heard."""
        for replica in self:
            if replica.lease_until_s is not None:
                replica.lease_until_s += by_s
            if replica.heard_until_s is not None:
                replica.heard_until_s += by_s

    def _changed(self) -> None:
        self._names = self._adapters = None
        self._memberships.clear()
        self._on_changed()

    # Readers

    def membership(self, model: str) -> Membership:
        """Eligible slots for a name. An empty one may go anywhere; a replica nobody named serves any.

        Model names come from clients: all that nothing registered has share one membership, so few are kept.
        """
        found = self._memberships.get(model)
        if found is None:
            known = model == ANY_MODEL or model in self.names()
            name = model if known else OTHER_MODEL
            found = self._memberships.get(name)
            if found is None:
                found = self._memberships[name] = self._build_membership(name)
        return found

    def _build_membership(self, model: str) -> Membership:
        named = self.names()
        members = tuple(
            sorted(
                (r.slot, r.id)
                for r in self
                if r.eligible and r.role is not Role.PREFILL and _may_serve(r, model, bool(named))
            )
        )
        prefills, of_all = self._prefills(members)
        previous = self._published.get(model)
        if previous is not None and previous[0] == members:
            before = previous[1]
            if prefills is None and before.prefills is None:
                return before
            built = Membership(before.token, before.slots, prefills, of_all)
        else:
            slots = np.array([slot for slot, _ in members], dtype=np.intp)
            built = Membership(next(self._tokens), slots, prefills, of_all)
        self._published[model] = (members, built)
        return built

    def without(self, members: Membership, slots: frozenset[int]) -> Membership:
        """The membership less some of its slots, which are not all of it. Asked again it is the same, token and all."""
        key = (members.token, slots)
        found = self._narrowed.get(key)
        if found is None or found.prefills is not members.prefills:
            while len(self._narrowed) >= MAX_NARROWED:
                del self._narrowed[next(iter(self._narrowed))]
            left = members.slots[~np.isin(members.slots, list(slots))]
            token = next(self._tokens) if found is None else found.token
            found = self._narrowed[key] = Membership(token, left, members.prefills, members.prefills_of_all)
        return found

    def _prefills(self, members: tuple[tuple[int, str], ...]) -> tuple[dict[int, Slots] | None, Slots | None]:
        """`Membership.prefills` and `prefills_of_all`."""
        decodes = [replica for _, name in members if (replica := self._by_id[name]).role is Role.DECODE]
        if not decodes:
            return None, None
        by_model: dict[str, list[int]] = {replica.model: [] for replica in decodes}
        for replica in self:
            if replica.role is Role.PREFILL and replica.eligible and replica.model in by_model:
                by_model[replica.model].append(replica.slot)
        slots = {model: np.array(sorted(found), dtype=np.intp) for model, found in by_model.items()}
        of_all = next(iter(slots.values())) if len(slots) == 1 and len(decodes) == len(members) else None
        return {replica.slot: slots[replica.model] for replica in decodes}, of_all

    def saved(self) -> list[SavedReplica]:
        return [
            SavedReplica(
                id=r.id,
                url=r.url,
                host=r.host,
                port=r.port,
                model=r.registration.model,
                ttl_s=r.ttl_s,
                draining=r.draining,
                role=r.role,
                pool=r.pool,
                adapters=r.registration.adapters,
                health_path=r.registration.health_path,
                born_ms=r.registration.born_ms,
            )
            for r in sorted(self, key=lambda r: r.id)
        ]

    def why_none_serves(self) -> str:
        """The reason why no replica can take a request; empty while one can."""
        serving = [r for r in self if r.role is not Role.PREFILL]
        if any(r.eligible for r in serving):
            return ""
        if not serving:
            return "no replica can serve: none is registered"
        counts = Counter(r.state for r in serving)
        return f"no replica can serve: {', '.join(f'{count} {state}' for state, count in sorted(counts.items()))}"

    def validate(self) -> None:
        """Raises AssertionError when the registry contradicts itself (tests call it after every step)."""
        slots = [r.slot for r in self]
        assert len(set(slots)) == len(slots), "two replicas share a slot"
        assert all(self._ids[r.slot] == r.id for r in self), "ids by slot are stale"
        assert not set(slots) & set(self._free_slots), "a used slot is free"


def _may_serve(replica: Replica, model: str, others_are_named: bool) -> bool:
    if replica.names is None:
        return not others_are_named
    return model == ANY_MODEL or not replica.names or model in replica.names
