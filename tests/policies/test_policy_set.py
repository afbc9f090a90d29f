"""Policies by model: one document, and who is asked about a request."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pointsman.policies.errors import PolicyConfigError
from pointsman.policies.policy import Needs
from pointsman.policies.policy_set import MAX_MODELS, PolicySet, document_for
from pointsman.policies.registry import build_policy_set

BY_MODEL: dict[str, Any] = {
    "policy": "kv_cost",
    "tie_ms": 7.0,
    "models": {
        "Qwen/Qwen3-0.6B": {"policy": "least_load", "by": "tokens"},
        "chat": {"policy": "session_affinity", "fallback": {"policy": "random"}},
    },
}


def test_a_name_with_a_policy_of_its_own_has_that_and_all_others_share_one() -> None:
    """Names are compared as requests have them: a request without one gets the shared policy."""
    policies = build_policy_set(BY_MODEL)
    asked = {model: policies.of(model).name for model in ("Qwen/Qwen3-0.6B", "chat", "qwen/qwen3-0.6b", "other", "")}
    assert asked == {
        "Qwen/Qwen3-0.6B": "least_load",
        "chat": "session_affinity",
        "qwen/qwen3-0.6b": "kv_cost",
        "other": "kv_cost",
        "": "kv_cost",
    }


def test_signals_are_gathered_for_all_of_them() -> None:
    """And the model's name is read where one policy is asked or another."""
    assert build_policy_set(BY_MODEL).needs == (
        Needs.SESSION | Needs.PREFIX | Needs.KV | Needs.TOKENS | Needs.PIN | Needs.MODEL
    )
    assert build_policy_set({"policy": "least_load"}).needs == Needs.NOTHING


def test_a_document_comes_back_with_defaults_filled_in() -> None:
    """It describes the same policies again, from JSON as well; without policies by model it has no such key."""
    described = build_policy_set(BY_MODEL).describe()
    assert described["tie_ms"] == 7.0 and described["kappa_full"] == 2.0
    assert described["models"]["chat"]["fallback"] == {"policy": "random"}
    assert build_policy_set(msgspec.json.encode(described)).describe() == described
    assert build_policy_set({"policy": "random", "models": {}}).describe() == {"policy": "random"}


def test_the_part_of_a_document_about_a_model_is_a_document() -> None:
    """Of a past decision, only the policy that made it is built again."""
    described = build_policy_set(BY_MODEL).describe()
    assert document_for(described, "chat") == described["models"]["chat"]
    assert document_for(described, "other") == {key: described[key] for key in described if key != "models"}


@pytest.mark.parametrize(
    ("document", "key", "message"),
    [
        pytest.param({"policy": "random", "models": []}, "models", "policy documents by model", id="no-object"),
        pytest.param({"policy": "random", "models": {"": {"policy": "random"}}}, "models", "1 to 256", id="no-name"),
        pytest.param(
            {"policy": "random", "models": {f"m{number}": {"policy": "random"} for number in range(MAX_MODELS + 1)}},
            "models",
            f"at most {MAX_MODELS} models",
            id="too-many",
        ),
        pytest.param(
            {"policy": "random", "models": {"chat": {"policy": "rr"}}}, "models.chat.policy", "got 'rr'", id="unknown"
        ),
        pytest.param(
            {"policy": "random", "models": {"chat": {"policy": "least_load", "by": "x"}}},
            "models.chat.by",
            "'requests' or 'tokens'",
            id="value",
        ),
        pytest.param(
            {"policy": "random", "models": {"chat": {"policy": "random", "models": {}}}},
            "models.chat.models",
            "unknown key",
            id="nested",
        ),
        pytest.param({"policy": "least_load", "model": {}}, "model", "(did you mean 'models'?)", id="misspelt"),
    ],
)
def test_refuses_and_says_where(document: dict[str, Any], key: str, message: str) -> None:
    """As of any other policy document."""
    with pytest.raises(PolicyConfigError) as caught:
        build_policy_set(document)
    assert caught.value.key == key
    assert message in str(caught.value)


def test_all_are_closed_together() -> None:
    """Each once."""
    closed: list[str] = []
    policies = build_policy_set(BY_MODEL)
    for policy in policies:
        policy.close = lambda name=policy.name: closed.append(name)  # type: ignore[method-assign, misc]
    assert isinstance(policies, PolicySet)
    policies.close()
    assert closed == ["kv_cost", "least_load", "session_affinity"]
