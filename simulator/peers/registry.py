"""Peers by name, each with the constants it does best with. Known to the simulator alone: none of these ships.

Consistent hashing, with and without a bound, and sticky sessions are our own policies under the peers' settings.
"""

from __future__ import annotations

from typing import Any

from pointsman.policies.policy import Policy
from pointsman.policies.registry import PolicyTable, installed_policies
from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.peers.dynamo import Dynamo
from pointsman.simulator.peers.lmetric import LMetric
from pointsman.simulator.peers.predicted_ttft import PredictedTtft
from pointsman.simulator.peers.ramjet import Ramjet
from pointsman.simulator.peers.stick_or_spill import StickOrSpill
from pointsman.simulator.peers.two_tier import TwoTier

PEER_POLICIES: dict[str, type[Policy]] = {
    Dynamo.name: Dynamo,
    LMetric.name: LMetric,
    PredictedTtft.name: PredictedTtft,
    Ramjet.name: Ramjet,
    StickOrSpill.name: StickOrSpill,
    TwoTier.name: TwoTier,
}

UNBOUNDED = 1_000_000
"""Requests in flight no replica reaches: a bound that never binds."""

PEERS: dict[str, dict[str, Any]] = {
    "hash_ring": {"policy": "consistent_hash", "compat": "ray"},
    "chwbl": {"policy": "consistent_hash", "load_factor": 1.25},
    "sticky_least_load": {"policy": "session_affinity", "overload_slack": UNBOUNDED},
    "dynamo_default": {"policy": "dynamo"},
    "dynamo_tuned": {"policy": "dynamo", "overlap_score_credit": 2.0, "prefill_load_scale": 16.0},
    "dynamo_agentic": {
        "policy": "dynamo",
        "overlap_score_credit": 2.0,
        "prefill_load_scale": 4.0,
        "decode_active_request_weight": 64.0,
    },
    "two_tier": {"policy": "two_tier"},
    "lmetric": {"policy": "lmetric"},
    "ramjet": {"policy": "ramjet"},
    "stick_or_spill": {"policy": "stick_or_spill"},
    "predicted_ttft": {"policy": "predicted_ttft"},
}


def known_policies() -> PolicyTable:
    """Policies that a document may name in a simulation: all installed ones, and the peers."""
    return {**installed_policies(), **PEER_POLICIES}


def policy_named(name: str) -> dict[str, Any]:
    """The document of a peer, or of an installed policy with its defaults. Raises ExperimentError."""
    if name in PEERS:
        return PEERS[name]
    if name in known_policies():
        return {"policy": name}
    names = sorted({*PEERS, *known_policies()})
    raise ExperimentError("policies", name, f"one of {', '.join(names)}")
