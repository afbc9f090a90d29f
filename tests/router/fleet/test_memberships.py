"""Memberships: which replicas may serve which name."""

import pytest
from registered import names, put

from pointsman.router.fleet.replica import OTHER_MODEL, Health, ServedNames
from pointsman.router.fleet.replicas import ReplicaRegistry


def listed(*models: str, adapters: tuple[str, ...] = ()) -> ServedNames:
    return ServedNames({model: model for model in models}, frozenset(adapters))


def test_membership_is_by_model_and_an_unnamed_replica_serves_any() -> None:
    """Known models narrow; an unknown request model may go anywhere."""
    registry = ReplicaRegistry()
    put(registry, "q1", model="qwen")
    put(registry, "l1", model="llama")
    put(registry, "any")
    assert names(registry, "qwen") == ["q1", "any"]
    assert names(registry, "llama") == ["l1", "any"]
    assert names(registry) == ["q1", "l1", "any"]
    assert names(registry, "other") == ["any"]


def test_a_membership_keeps_its_token_while_it_is_the_same() -> None:
    """A replica that goes and comes back gives the same members; a policy's ring for them stays good or is rebuilt,
    but two different memberships never share a token."""
    registry = ReplicaRegistry()
    put(registry, "a")
    put(registry, "b")
    both = registry.memberships.of("")
    put(registry, "a", now_s=5.0)
    assert registry.memberships.of("").token == both.token
    registry.set_health("b", Health.DOWN, 0.0)
    alone = registry.memberships.of("")
    assert alone.token != both.token
    registry.remove("b")
    assert registry.memberships.of("").token == alone.token
    put(registry, "c")  # takes b's slot
    assert registry.memberships.of("").token not in (both.token, alone.token)


def test_unknown_models_leave_no_trace() -> None:
    """Model names come from clients: asking for ten thousand of them remembers none."""
    registry = ReplicaRegistry()
    put(registry, "a", model="qwen")
    for number in range(10_000):
        registry.memberships.of(f"model-{number}")
    assert len(registry.memberships._current) + len(registry.memberships._latest) <= 4


@pytest.mark.parametrize("model", ["", "qwen"])
def test_names_that_nothing_registered_has_share_one_membership(model: str) -> None:
    """Asking for another unknown name builds nothing; a name that becomes known gets a membership of its own."""
    registry = ReplicaRegistry()
    put(registry, "a", model=model)
    put(registry, "any")
    unknown = registry.memberships.of("llama")
    assert (
        registry.memberships.of("other")
        is unknown
        is registry.memberships.of("llama")
        is registry.memberships.of(OTHER_MODEL)
    )
    assert names(registry, "llama") == (["any"] if model else ["a", "any"])
    put(registry, "l1", model="llama")
    assert names(registry, "llama") == (["any", "l1"] if model else ["a", "any", "l1"])
    assert names(registry, "other") == (["any"] if model else ["a", "any"])
    assert registry.memberships.of("llama").token != registry.memberships.of("other").token


def test_a_replica_nobody_named_is_held_back_until_it_is_asked() -> None:
    """While others have names it is not for them; alone it may serve anything."""
    registry = ReplicaRegistry(lists_follow=True)
    put(registry, "new")
    assert names(registry, "qwen") == names(registry) == ["new"]
    put(registry, "q1", model="qwen")
    assert names(registry, "qwen") == names(registry) == ["q1"]
    assert registry.set_listed("new", listed("llama", "alias"))
    assert names(registry, "alias") == ["new"]
    assert names(registry) == ["new", "q1"]
    assert registry.memberships.names() == {"qwen", "llama", "alias"}


def test_a_replica_that_was_asked_in_vain_serves_anything() -> None:
    """A replica that is up and has no list serves any name."""
    registry = ReplicaRegistry(lists_follow=True)
    put(registry, "q1", model="qwen")
    put(registry, "odd")
    registry.set_listed("odd", ServedNames())
    assert names(registry, "qwen") == ["q1", "odd"]
    assert names(registry, "other") == ["odd"]


def test_a_list_that_says_the_same_changes_nothing() -> None:
    """Memberships, and rings built on them, stay."""
    registry = ReplicaRegistry(lists_follow=True)
    put(registry, "a", model="qwen")
    assert not registry.set_listed("a", listed("qwen"))
    assert not registry.set_listed("gone", listed("qwen"))


def test_models_that_no_replica_can_serve_are_named_while_others_are_served() -> None:
    """With the states of their replicas; a replica that serves any name serves them, too."""
    registry = ReplicaRegistry()
    why = registry.memberships.why_some_models_are_out
    put(registry, "q1", model="qwen")
    put(registry, "q2", model="qwen")
    assert why() == ""
    registry.drain("q1", 0.0)
    registry.set_health("q2", Health.DOWN, 0.0)
    assert why() == ""  # nothing else is served
    put(registry, "l1", model="llama")
    assert why() == "no replica can serve qwen: 1 down, 1 draining"
    put(registry, "any")
    assert why() == ""
    registry.drain("any", 0.0)
    for number in range(20):
        put(registry, f"m{number}", model=f"m{number}", up=False)
    assert why().endswith("no replica can serve m17: 1 starting; and 11 models more")


def test_names_that_are_gone_leave_no_trace() -> None:
    """A fleet whose adapters come and go for months keeps only what is known of those it has."""
    registry = ReplicaRegistry()
    put(registry, "a", model="qwen")
    for number in range(100):
        registry.set_listed("a", ServedNames({"qwen": "qwen"}, frozenset({f"adapter-{number}"})))
        assert names(registry, f"adapter-{number}") == ["a"]
    assert len(registry.memberships._current) + len(registry.memberships._latest) <= 8
