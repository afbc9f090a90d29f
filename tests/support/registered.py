"""Replicas in a registry of their own, without a router."""

from __future__ import annotations

from pointsman.contract.registration import Registration
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.fleet.replicas import ReplicaRegistry


def put(
    registry: ReplicaRegistry,
    name: str,
    *,
    port: int = 8000,
    model: str = "",
    ttl_s: float | None = None,
    now_s: float = 0.0,
    up: bool = True,
) -> Replica:
    """Register a replica of this machine, healthy unless told otherwise."""
    registration = Registration(url=f"http://127.0.0.1:{port}", model=model, ttl_s=ttl_s)
    replica = registry.put(name, registration, ("127.0.0.1", port), now_s)
    if up:
        registry.set_health(name, Health.UP, 0.0)
    return replica


def names(registry: ReplicaRegistry, model: str = "") -> list[str]:
    """Return the ids of the replicas eligible for a model, in the order of their slots."""
    return [registry.ids[slot] for slot in registry.memberships.of(model).slots.tolist()]
