"""Which policy decides a request: by its model, by its header, by what it asks for."""

from __future__ import annotations

import random
from typing import Any

from recorded_fleet import RecordedFleet

from pointsman.contract.registration import Registration
from pointsman.policies.request import Naming, RequestFeatures
from pointsman.router.core import Core, CoreConfig
from pointsman.router.decide.body_needs import BodyNeeds, body_needs
from pointsman.router.decide.fleet_state import DecisionSettings
from pointsman.router.fleet.sessions import DEFAULT_TTL_S

BY_MODEL: dict[str, Any] = {
    "policy": "least_load",
    "models": {"chat": {"policy": "kv_cost"}, "small": {"policy": "session_affinity", "ttl_s": 7200.0}},
}


def make_core(document: dict[str, Any], *models: str, override_header: bool = False) -> Core:
    settings = CoreConfig(decisions=DecisionSettings(override_header=override_header))
    core = Core(document, rng=random.Random(1), config=settings)
    for model in models:
        for number in range(2):
            core.replicas.put(f"{model}-{number}", Registration(url="http://h:1", model=model), ("h", 1), 0.0)
    return core


def decided_by(core: Core, **features: Any) -> str:
    core.decide(RequestFeatures(request_id=f"r{len(core.requests)}", body_bytes=4000, **features), 0.0)
    ((policy, _),) = core.decision_metrics.by_reason
    core.decision_metrics.by_reason.clear()
    return policy


def test_a_request_is_decided_by_the_policy_of_its_model() -> None:
    """Others by the one for all; counters name the policy that decided."""
    core = make_core(BY_MODEL, "chat", "small", "large")
    assert [decided_by(core, model=model) for model in ("chat", "small", "large")] == [
        "kv_cost",
        "session_affinity",
        "least_load",
    ]


def test_header_and_kind_of_request_come_before_the_model() -> None:
    """Where the override header is enabled it still wins; what generates nothing goes by load."""
    core = make_core(BY_MODEL, "chat", override_header=True)
    assert decided_by(core, model="chat", policy="random") == "random"
    assert decided_by(core, model="chat", policy="nobody knows it") == "kv_cost"
    assert decided_by(core, model="chat", generates=False) == "least_load"
    assert decided_by(make_core(BY_MODEL, "chat"), model="chat", policy="random") == "kv_cost"


def test_sessions_are_pinned_and_kept_for_the_policy_that_uses_them() -> None:
    """By that model's policy alone, and for as long as it wants."""
    core = make_core(BY_MODEL, "small", "large")
    decided_by(core, model="large", session="l")
    decided_by(core, model="small", session="s")
    assert core.sessions.names() == ["s"]
    core.sweep(DEFAULT_TTL_S + 60)
    assert core.sessions.names() == ["s"]
    core.sweep(7200.0 + 1)
    assert core.sessions.names() == []


def test_the_model_of_a_session_is_recalled_from_whatever_policy_keeps_it() -> None:
    """A pin of the one model's policy tells it, though the policy for all makes none."""
    core = make_core(BY_MODEL, "small", "large")
    decided_by(core, model="small", session="s")
    assert core.pipeline.recall_model("s", Naming.UNSEEN, 1.0) == "small"


def test_the_body_is_read_for_all_of_them() -> None:
    """HAProxy is asked for the model's name even where there is only one."""
    core = make_core({"policy": "least_load", "models": {"chat": {"policy": "random"}}}, "chat")
    assert body_needs(core.pipeline.choice.needs, names=1) == BodyNeeds.FIELDS
    core.policy.put({"policy": "least_load"})
    assert body_needs(core.pipeline.choice.needs, names=1) == BodyNeeds.NOTHING


def test_terms_of_a_past_decision_are_those_of_its_models_policy() -> None:
    """Also after the document changed."""
    fleet = RecordedFleet(policy={"policy": "kv_cost", "models": {"chat": {"policy": "kv_cost", "tie_ms": 500.0}}})
    fleet.ask("busy", keys=5)
    fleet.ask("main", keys=5)
    fleet.ask("own", keys=5, model="chat")
    fleet.core.policy.put({"policy": "random"})
    ties = {
        name: max(candidate.terms["tie"] for candidate in fleet.view(name).candidates)  # type: ignore[union-attr, index]
        for name in ("main", "own")
    }
    assert 0 < ties["main"] < ties["own"] / 50


def test_explaining_shows_the_policy_of_the_model() -> None:
    """The whole document is what is live."""
    core = make_core(BY_MODEL, "chat", "large")
    told = core.pipeline.explain(RequestFeatures(request_id="", model="chat"), 0.0)
    assert told.policy["policy"] == "kv_cost"
    assert core.policy.document["models"]["chat"]["policy"] == "kv_cost"  # type: ignore[index]


def test_a_policy_for_a_model_that_nobody_serves_is_a_warning() -> None:
    """It may be a name that is registered next; in an empty fleet nothing is said."""
    core = make_core({"policy": "random"}, "chat")
    assert core.policy.warnings({"policy": "random", "models": {"chat": {"policy": "random"}}}) == []
    (warning,) = core.policy.warnings({"policy": "random", "models": {"caht": {"policy": "random"}}})
    assert "no replica serves caht" in warning
    assert make_core({"policy": "random"}).policy.warnings(BY_MODEL) == []
