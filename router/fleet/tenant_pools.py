"""Pools that are kept for some tenants, or from some: which replicas may serve a tenant's requests.

`TenantPools` narrows a membership by the pools of its replicas. A pool that any tenant reserves serves those tenants
that reserve it; a pool that a tenant excludes does not serve that one. Prefill replicas are not narrowed: they hold a
prompt's KV no longer than it takes to hand it over.
"""

from __future__ import annotations

import numpy as np

from pointsman.router.fleet.memberships import Membership
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.tenancy.tenants import TenantTable

MAX_KEPT = 1024
"""Pairs of membership and barred pools whose slots are remembered."""

MAX_TENANTS = 65_536
"""Tenants whose barred pools are remembered."""

NOBODY = Membership(0, np.array([], dtype=np.intp))
"""Membership of a request that no replica may serve."""


class TenantPools:
    """Which pools serve which tenant."""

    def __init__(self, tenants: TenantTable, replicas: ReplicaRegistry) -> None:
        self._tenants = tenants
        self._replicas = replicas
        self.active = False
        """Whether any tenant reserves or excludes a pool; else nobody need ask."""
        self._barred: dict[str, frozenset[str]] = {}
        self._slots: dict[tuple[int, frozenset[str]], frozenset[int]] = {}
        self._changes = -1
        tenants.on_changed.append(lambda name: self._changed())

    def barred(self, tenant: str) -> frozenset[str]:
        """The pools that do not serve a tenant; an empty name is that of requests without one."""
        found = self._barred.get(tenant)
        if found is None:
            if len(self._barred) >= MAX_TENANTS:
                self._barred.clear()
            one = self._tenants.of(tenant)
            reserved = {pool for other in self._tenants for pool in other.reserved_pools}
            found = self._barred[tenant] = frozenset((reserved - set(one.reserved_pools)) | set(one.excluded_pools))
        return found

    def narrowed(self, members: Membership, tenant: str) -> Membership:
        """The members that may serve a tenant; `NOBODY` where none may."""
        barred = self.barred(tenant)
        if not barred or not len(members.slots):
            return members
        memberships = self._replicas.memberships
        if memberships.changes != self._changes or len(self._slots) >= MAX_KEPT:
            self._changes = memberships.changes
            self._slots.clear()
        key = (members.token, barred)
        out = self._slots.get(key)
        if out is None:
            out = self._slots[key] = frozenset(slot for slot in members.slots.tolist() if self._pool(slot) in barred)
        if not out:
            return members
        return memberships.without(members, out) if len(out) < len(members.slots) else NOBODY

    def _pool(self, slot: int) -> str:
        replica = self._replicas.get(self._replicas.ids[slot])
        assert replica is not None, "members are registered"
        return replica.pool

    def _changed(self) -> None:
        self._barred.clear()
        self.active = any(tenant.reserved_pools or tenant.excluded_pools for tenant in self._tenants)
