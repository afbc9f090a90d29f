"""Leases of fleets' drivers, with the last status of their pools.

Nothing of it is saved: a router that starts again has it back with the next heartbeat of each driver, which owns the
pools. A pool belongs to the fleet that named it first, until that fleet leaves or its lease ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pointsman.contract.pools import FLEETS_MAX, FleetLease, PoolStatus
from pointsman.router.errors import LimitError, RegistrationError


@dataclass(frozen=True, slots=True)
class Fleet:
    """One driver's lease."""

    name: str
    control: str
    until_s: float
    pools: dict[str, PoolStatus]
    token: str = field(default="", repr=False)
    """Bearer token with which the driver took the lease, and by which it knows the router's orders; empty for none."""


class FleetTable:
    """Owner of the leases; written by the admin front alone."""

    def __init__(self, *, max_fleets: int = FLEETS_MAX) -> None:
        self._max_fleets = max_fleets
        self._fleets: dict[str, Fleet] = {}

    def __len__(self) -> int:
        return len(self._fleets)

    def put(self, name: str, lease: FleetLease, now_s: float, *, token: str = "") -> bool:
        """Takes or renews a lease; True if it is a first one. `token` is the driver's bearer token.

        Raises LimitError beyond `max_fleets`, RegistrationError when a pool is another fleet's.
        """
        self.expire(now_s)
        known = name in self._fleets
        if not known and len(self._fleets) >= self._max_fleets:
            raise LimitError(f"max_fleets: {self._max_fleets} fleets are known")
        for pool in lease.pools:
            owner = self.owner(pool.name, now_s)
            if owner is not None and owner.name != name:
                problem = f"{pool.name!r} belongs to the fleet {owner.name!r}"
                raise RegistrationError("pools", pool.name, "pools of no other fleet", problem)
        pools = {pool.name: pool for pool in lease.pools}
        self._fleets[name] = Fleet(name, lease.control.rstrip("/"), now_s + lease.ttl_s, pools, token)
        return not known

    def remove(self, name: str) -> bool:
        """Forgets a fleet; True if it was known."""
        return self._fleets.pop(name, None) is not None

    def expire(self, now_s: float) -> None:
        """Forgets fleets whose lease ended."""
        for fleet in [fleet for fleet in self._fleets.values() if fleet.until_s <= now_s]:
            del self._fleets[fleet.name]

    def owner(self, pool: str, now_s: float) -> Fleet | None:
        """The fleet that has a pool."""
        return next((f for f in self._fleets.values() if pool in f.pools and f.until_s > now_s), None)

    def pools(self, now_s: float) -> list[tuple[str, PoolStatus]]:
        """Every pool with its fleet's name, by name of the pool."""
        found = [(f.name, pool) for f in self._fleets.values() if f.until_s > now_s for pool in f.pools.values()]
        return sorted(found, key=lambda named: named[1].name)
