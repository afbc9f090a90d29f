"""The wanted state of a fleet, where it outlives the driver: the key-value store of Ray's control service (GCS).

Without it a driver that starts again would undo scales and changed configurations. As with a router's policy, a
configuration changed in the file wins over an order. The store also names the fleet's driver, so that there is never a
second one. Ray calls this store internal; its own libraries keep their state there.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from pointsman.engine.vllm.errors import ClusterError
from pointsman.engine.vllm.fleet.config import FleetConfig, PoolConfig

CLAIM_S = 10.0
"""Seconds for which a killed driver may count as alive, until Ray notices that its connection closed."""

_CLAIM_POLL_S = 0.2
_NAMESPACE = b"pointsman"


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A pool as it was configured, and as it was wanted last."""

    configured: PoolConfig
    wanted: PoolConfig


class FleetStore:
    """The entry of one fleet."""

    def __init__(self, fleet: str) -> None:
        self._pools = f"fleet:{fleet}:pools".encode()
        self._driver = f"fleet:{fleet}:driver".encode()
        self._fleet = fleet

    async def claim(self) -> None:
        """Become the fleet's driver. Raises ClusterError while another one is."""
        import ray

        own = ray.get_runtime_context().get_job_id().encode()
        other: bytes | None = None
        for _ in range(int(CLAIM_S / _CLAIM_POLL_S)):
            other = _get(self._driver)
            if other is None or other == own or not _is_alive(other.decode()):
                _put(self._driver, own)
                return
            await asyncio.sleep(_CLAIM_POLL_S)
        raise ClusterError(f"fleet {self._fleet!r} is run by another driver (Ray job {(other or b'').decode()})")

    def wanted(self, config: FleetConfig) -> dict[str, PoolConfig]:
        """By name, what is wanted of each configured pool: what was ordered, unless its configuration has changed."""
        raw = _get(self._pools)
        saved = msgspec.json.decode(raw, type=dict[str, Saved]) if raw else {}
        return {
            pool.name: entry.wanted if (entry := saved.get(pool.name)) and entry.configured == pool else pool
            for pool in config.pools
        }

    def save(self, config: FleetConfig, wanted: dict[str, PoolConfig]) -> None:
        """Store what is wanted, by name of the pool, beside how it is configured."""
        entries = {pool.name: Saved(configured=pool, wanted=wanted[pool.name]) for pool in config.pools}
        _put(self._pools, msgspec.json.encode(entries))

    def clear(self) -> None:
        """Remove the entry: the fleet ended and has no driver."""
        from ray.experimental.internal_kv import _internal_kv_del

        for key in (self._pools, self._driver):
            _internal_kv_del(key, namespace=_NAMESPACE)


def _get(key: bytes) -> bytes | None:
    from ray.experimental.internal_kv import _internal_kv_get

    found: bytes | None = _internal_kv_get(key, namespace=_NAMESPACE)
    return found


def _put(key: bytes, value: bytes) -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key, value, overwrite=True, namespace=_NAMESPACE)


def _is_alive(job: str) -> bool:
    from ray._private.state import jobs

    entries: list[dict[str, Any]] = jobs()
    return any(entry["JobID"] == job and not entry["IsDead"] for entry in entries)
