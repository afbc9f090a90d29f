"""State that a decision reads and changes, and settings that it follows, as one value each.

`Core` makes both once and hands them to `Pipeline`. They own nothing: each part has its own module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pointsman.policies.lib.pair import PairConfig
from pointsman.router.fleet.adapters import AdapterTable
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.fleet.tenant_pools import TenantPools
from pointsman.router.kv.state import KVState
from pointsman.router.outliers.table import OutlierTable
from pointsman.router.requests.decision_log import DecisionLog
from pointsman.router.requests.table import RequestTable
from pointsman.router.tenancy.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """The state of one edge that decisions read and change."""

    replicas: ReplicaRegistry
    requests: RequestTable
    """Where requests are reserved and placed."""
    load: LoadTable
    sessions: SessionTable
    kv: KVState
    adapters: AdapterTable
    """Where LoRA adapters are loaded."""
    outliers: OutlierTable
    """Which replicas get fewer requests or none."""
    decisions: DecisionLog | None
    """Where decisions are remembered; None where they are not."""
    context_tokens: Callable[[str], int]
    """The longest context of a model by its name, in tokens; 0 where it is unknown."""
    limits: Limits
    """Limits of tenants and keys."""
    pools: TenantPools
    """Pools that do not serve a tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSettings:
    """Settings of decisions besides the policy."""

    pair: PairConfig = field(default_factory=PairConfig)
    """When a prefill replica computes a prompt."""
    silence_s: Mapping[str, float] = field(default_factory=dict)
    """Longest silence of a replica in seconds, by model, where it differs from HAProxy's own timeout."""
    override_header: bool = False
    """Whether a request may name its policy (`x-pointsman-policy`)."""


DEFAULT_SETTINGS = DecisionSettings()
