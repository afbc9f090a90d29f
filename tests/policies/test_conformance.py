"""What every policy promises, whatever it chooses by.

Runs over every installed policy with its defaults, plus the configurations below; a policy of your own joins by being
installed where these tests run.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import numpy as np
import pytest
from candidates import make_candidates, make_context, make_features, names
from hypothesis import given
from hypothesis import strategies as st

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Reason
from pointsman.policies.policy import Needs, Policy
from pointsman.policies.registry import POLICIES, build_policy, installed_policies

BOUNDS: dict[str, Any] = {
    "prefill_s": None,
    "kv_use": None,
    "running": None,
    "wait_s": 0.0,
    "retry_after_s": 2,
    "batch": {"prefill_s": 0.005, "kv_use": 0.7, "running": None, "delays": 0.002, "gather": 32, "wait_s": 300.0},
}
"""Bounds of `admission` as they are described where none is given."""

CONFIGURED: list[dict[str, Any]] = [
    {"policy": "least_load", "by": "tokens"},
    {"policy": "power_of_two", "by": "tokens"},
    {"policy": "consistent_hash", "compat": "ray"},
    {"policy": "consistent_hash", "load_factor": 1.0, "virtual_nodes": 3},
    {"policy": "consistent_hash", "min_bound": 5, "fallback": {"policy": "round_robin"}},
    {"policy": "kv_cost", "admission": BOUNDS | {"limit": 0.5, "retry_after_s": 9}},
    {"policy": "kv_cost", "admission": BOUNDS | {"limit": 0.5, "wait_s": 2.0}},
    {"policy": "least_load", "admission": BOUNDS | {"running": 3, "wait_s": 2.0}},
    {"policy": "kv_cost", "kappa_full": 1.0, "evict_weight": 0.0, "interference": 0.0},
    {"policy": "kv_cost", "overload_at": 0.01, "overload": 100.0},
    {"policy": "prefix_affinity", "min_tokens": 1, "min_share": 0.0, "load_slack": 0, "load_factor": 1.0},
    {"policy": "prefix_affinity", "fallback": {"policy": "kv_cost"}},
    {"policy": "lora_affinity", "load_slack": 0, "load_factor": 1.0, "fallback": {"policy": "kv_cost"}},
    {"policy": "lora_affinity", "fallback": {"policy": "session_affinity"}},
    {"policy": "weighted", "weights": {"session": 1.0, "tokens": 0.5, "prefix": 0.0}},
    {"policy": "session_affinity", "overload_factor": 1.0, "overload_slack": 0},
    {"policy": "session_affinity", "overload_slack": 0, "fallback": {"policy": "random"}},
    {"policy": "session_affinity", "overload_slack": 0, "fallback": {"policy": "power_of_two", "by": "tokens"}},
    {
        "policy": "session_affinity",
        "overload_factor": 1.5,
        "overload_slack": 1,
        "fallback": {"policy": "consistent_hash", "fallback": {"policy": "round_robin"}},
    },
]

DOCUMENTS = [{"policy": name} for name in installed_policies()] + CONFIGURED


def label(document: dict[str, Any]) -> str:
    own = [f"{key}={value}" for key, value in document.items() if key not in ("policy", "fallback")]
    below = [label(document["fallback"])] if "fallback" in document else []
    return "-".join([document["policy"], *own, *below])


@pytest.fixture(params=DOCUMENTS, ids=label)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    given_document: dict[str, Any] = request.param
    return given_document


@pytest.fixture
def policy(document: dict[str, Any]) -> Policy:
    return build_policy(document)


@st.composite
def fleets(draw: st.DrawFn) -> Candidates:
    """Up to twelve replicas with any load and KV, slots with gaps, perhaps a pin: to one of them or one that left."""
    loads = draw(st.lists(st.integers(0, 40), min_size=1, max_size=12))
    slots = sorted(draw(st.sets(st.integers(0, 60), min_size=len(loads), max_size=len(loads))))
    ids = [f"r{slot}" for slot in slots]
    tokens = draw(st.lists(st.integers(0, 5000), min_size=len(loads), max_size=len(loads)))
    pin = draw(st.sampled_from([None, "gone", *ids]))
    kept = [draw(st.integers(0, 120_000)) for _ in ids]
    return make_candidates(
        dict(zip(ids, loads, strict=True)),
        tokens=dict(zip(ids, tokens, strict=True)),
        slots=slots,
        pin=pin,
        prompt=draw(st.integers(1, 50_000)),
        resident=draw(st.dictionaries(st.sampled_from(ids), st.integers(1, 50_000))),
        keeper=draw(st.sampled_from([None, *ids])),
        home_tokens=draw(st.integers(0, 50_000)),
        adapter=draw(st.none() | st.sets(st.sampled_from([*ids, "gone"]))),
        adapter_room={name: draw(st.integers(0, 3)) for name in ids},
        kv={
            "footprint": kept,
            "waiting": [draw(st.sampled_from([0, 0, 700, 9000])) for _ in ids],
            "active_usage": draw(st.sampled_from([0.0, 1.7])),
        },
    )


def columns(fleet: Candidates) -> list[list[float]]:
    """All that a policy must leave as it is."""
    assert fleet.kv is not None
    own = [fleet.in_flight, fleet.in_flight_tokens, fleet.slots]
    if fleet.adapter is not None:
        own += [fleet.adapter.room, np.array(fleet.adapter.holders)]
    return [column.tolist() for column in (*own, *(getattr(fleet.kv, name) for name in fleet.kv.cells._fields))]


class TestRanking:
    """`rank` on random fleets, sessions, limits and dice."""

    @given(
        fleet=fleets(),
        session=st.text(max_size=8),
        limit=st.integers(1, 14),
        seed=st.integers(0, 2**32),
        document=st.sampled_from(DOCUMENTS),
    )
    def test_ranks_candidates_once_each(
        self, fleet: Candidates, session: str, limit: int, seed: int, document: dict[str, Any]
    ) -> None:
        """A ranking names given candidates only, none twice, as many as asked for or there are; scores never fall."""
        ranked = build_policy(document).rank(make_features(session), fleet, make_context(seed, limit=limit))
        slots = [place.slot for place in ranked]
        assert set(slots) <= set(fleet.slots.tolist())
        assert len(slots) == len(set(slots)) == min(limit, len(fleet))
        assert all(type(slot) is int for slot in slots)
        scores = [place.score for place in ranked]
        assert scores == sorted(scores)
        assert all(isinstance(place.reason, Reason) for place in ranked)

    @given(
        fleet=fleets(),
        session=st.text(max_size=8),
        limit=st.integers(1, 14),
        seed=st.integers(0, 2**32),
        document=st.sampled_from(DOCUMENTS),
    )
    def test_same_dice_same_answer(
        self, fleet: Candidates, session: str, limit: int, seed: int, document: dict[str, Any]
    ) -> None:
        """Two instances with the same dice answer the same, and a longer ranking begins with the shorter one."""
        features = make_features(session)
        answers = [build_policy(document).rank(features, fleet, make_context(seed, limit=limit)) for _ in range(2)]
        assert answers[0] == answers[1]
        longest = build_policy(document).rank(features, fleet, make_context(seed, limit=14))
        assert longest[:limit] == answers[0]

    @given(fleet=fleets(), session=st.text(max_size=8), document=st.sampled_from(DOCUMENTS))
    def test_leaves_the_columns_alone(self, fleet: Candidates, session: str, document: dict[str, Any]) -> None:
        """The load table's columns are read, never written."""
        before = columns(fleet)
        policy = build_policy(document)
        policy.admit(make_features(session), fleet, make_context())
        policy.rank(make_features(session), fleet, make_context())
        assert columns(fleet) == before

    @given(fleet=fleets(), session=st.text(max_size=8), document=st.sampled_from(DOCUMENTS))
    def test_terms_are_columns_of_the_candidates(
        self, fleet: Candidates, session: str, document: dict[str, Any]
    ) -> None:
        """Whatever a policy tells of its scores has one finite number for each candidate."""
        for column in build_policy(document).terms(make_features(session), fleet).values():
            assert len(column) == len(fleet)
            assert np.isfinite(column).all()


def test_one_candidate_always_wins(policy: Policy) -> None:
    """A fleet of one is served by that one, whatever its load, its pin and the session."""
    for pin in (None, "only", "gone"):
        for session in ("", "s"):
            fleet = make_candidates({"only": 500}, pin=pin, slots=[7])
            assert names(policy.rank(make_features(session), fleet, make_context()), fleet) == ["only"]


def test_vanished_replica_is_never_named(policy: Policy) -> None:
    """A replica that left between two lookups is out of the second, though it won the first."""
    features = make_features("session")
    before = make_candidates(a=0, b=1, c=2, d=3, pin="a")
    for _ in range(20):
        winner = names(policy.rank(features, before, make_context()), before)[0]
        left = {replica: load for replica, load in {"a": 0, "b": 1, "c": 2, "d": 3}.items() if replica != winner}
        slots = [slot for slot in range(4) if before.ids[slot] != winner]
        after = make_candidates(left, slots=slots, pin=winner)
        assert winner not in names(policy.rank(features, after, make_context(limit=4)), after)


def test_configuration_round_trips(document: dict[str, Any], policy: Policy) -> None:
    """What `describe` says builds an equal policy, through JSON too, and contains what was configured."""
    described = policy.describe()
    assert build_policy(described).describe() == described
    assert build_policy(msgspec.json.encode(described)).describe() == described
    for key, value in document.items():
        if key != "fallback":
            assert described[key] == value


def test_needs_are_constant_and_include_the_fallbacks(document: dict[str, Any], policy: Policy) -> None:
    """Needs are those of the policy and of all below it, before and after ranking."""
    before = policy.needs
    policy.rank(make_features("s"), make_candidates(a=1, b=2), make_context())
    assert policy.needs == before
    below = policy.describe().get("fallback")
    if below is not None:
        fallback = build_policy(below)
        assert policy.needs & fallback.needs == fallback.needs
    if Needs.PIN in policy.needs:
        assert policy.pin_ttl_s > 0


def test_copies_are_independent(policy: Policy) -> None:
    """A deep copy may be asked without moving the original: that is how a decision is explained."""
    fleet = make_candidates(a=1, b=1, c=1)
    policy.rank(make_features("s"), fleet, make_context())
    twin = copy.deepcopy(policy)
    first = twin.rank(make_features("s"), fleet, make_context(5))
    assert policy.rank(make_features("s"), fleet, make_context(5)) == first


def test_close_is_quiet(policy: Policy) -> None:
    """Closing frees what a policy holds and raises nothing, used or not."""
    policy.rank(make_features("s"), make_candidates(a=1, b=2), make_context())
    policy.close()


def test_every_shipped_policy_is_covered() -> None:
    """The suite runs on each policy of the table."""
    assert {document["policy"] for document in DOCUMENTS} >= set(POLICIES)
