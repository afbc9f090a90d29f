"""The adapter is followed inside a load bound."""

from __future__ import annotations

from candidates import make_candidates, make_context, make_features, names

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Reason
from pointsman.policies.policy import Needs
from pointsman.policies.registry import build_policy


def ranked(fleet: Candidates, **config: object) -> list[tuple[str, Reason]]:
    policy = build_policy({"policy": "lora_affinity", **config})
    places = policy.rank(make_features(), fleet, make_context(limit=len(fleet)))
    return list(zip(names(places, fleet), [place.reason for place in places], strict=True))


def test_who_has_it_loaded_comes_first_then_who_has_room() -> None:
    """By the load of each only among equals."""
    fleet = make_candidates(a=0, b=3, c=2, d=1, adapter=["b", "c"], adapter_room={"a": 0})
    assert ranked(fleet) == [
        ("c", Reason.LORA_LOADED),
        ("b", Reason.LORA_LOADED),
        ("d", Reason.LORA_ROOM),
        ("a", Reason.LORA_SWAP),
    ]


def test_a_full_holder_loses_to_one_that_has_to_load_it() -> None:
    """20 requests against a bound of max(8, 1.25 * 7); last comes who is full and has to load it."""
    fleet = make_candidates(a=20, b=1, c=0, d=20, e=0, f=1, adapter=["a"], adapter_room={"b": 0, "e": 0})
    assert [name for name, _ in ranked(fleet)] == ["c", "f", "e", "b", "a", "d"]
    assert ranked(fleet, load_factor=3.0)[0] == ("a", Reason.LORA_LOADED)


def test_a_request_without_an_adapter_is_the_fallbacks() -> None:
    """Reasons and all."""
    assert ranked(make_candidates(a=1, b=0)) == [("b", Reason.LEAST_LOAD), ("a", Reason.LEAST_LOAD)]


def test_among_equals_the_fallback_decides() -> None:
    """With `prefix_affinity` below, the holder that has the prompt cached wins over one with less to do."""
    fleet = make_candidates(a=1, b=0, c=0, adapter=["a", "b"], prompt=1000, resident={"a": 900, "c": 1000})
    below = {"policy": "prefix_affinity"}
    assert [name for name, _ in ranked(fleet, fallback=below)] == ["a", "b", "c"]


def test_a_holder_that_is_no_candidate_is_not_named() -> None:
    """It drains, or is down."""
    assert ranked(make_candidates(a=0, adapter=["gone"])) == [("a", Reason.LORA_ROOM)]


def test_it_needs_the_model_of_the_body() -> None:
    """And what its fallback needs."""
    policy = build_policy({"policy": "lora_affinity", "fallback": {"policy": "session_affinity"}})
    assert policy.needs & Needs.ADAPTER and policy.needs & Needs.PIN
