"""The environment of a fleet's pools, as one value: how replicas are made, and what routers are asked.

`launch` makes the real one; tests make their own, without Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from pointsman.engine.vllm.fleet.actor import Incarnation
from pointsman.engine.vllm.fleet.cluster import Say
from pointsman.engine.vllm.fleet.config import PoolConfig


def _nothing() -> None:
    """Do nothing."""


async def _none_registered(replicas: Iterable[str]) -> None:
    """Do nothing: the replicas register with no router."""


@dataclass(frozen=True, kw_only=True)
class PoolEnvironment:
    """Services that pools use to make replicas and to reach routers."""

    incarnation: Callable[[PoolConfig, int], Incarnation]
    """Makes one incarnation of a pool's replica, by its number; nothing happens before its `start`."""
    revision: Callable[[PoolConfig], str]
    """The digest of a configuration; replicas with another one are rolled."""
    wait_routed: Callable[[Iterable[str]], Coroutine[Any, Any, None]]
    """Returns when routers send requests to these replicas, or after a time limit."""
    drain_s: float
    """Seconds that running requests have to finish when a replica stops."""
    start_timeout_s: float
    """From the making of a replica to its first token."""
    say: Say
    on_change: Callable[[], None] = _nothing
    """Called whenever a pool's status may differ."""
    deregister: Callable[[Iterable[str]], Coroutine[Any, Any, None]] = _none_registered
    """Removes dead replicas from routers."""
