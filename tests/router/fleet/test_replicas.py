"""The registry: who may be routed to."""

import pytest
from invariants import check
from registered import names, put

from pointsman.contract.registration import Registration
from pointsman.router.errors import LimitError, SupersededError
from pointsman.router.fleet.replica import Health, ServedNames
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.fleet.saved import SavedReplica


def test_a_replica_serves_once_its_health_check_passed() -> None:
    """Registered is not yet eligible."""
    registry = ReplicaRegistry()
    put(registry, "a", up=False)
    assert names(registry) == []
    registry.set_health("a", Health.UP, 0.0)
    assert names(registry) == ["a"]
    registry.set_health("a", Health.DOWN, 0.0)
    assert names(registry) == []


def test_a_draining_replica_is_not_eligible_until_it_restarts_elsewhere() -> None:
    """Renewing keeps it draining; another address is another engine."""
    registry = ReplicaRegistry()
    put(registry, "a")
    registry.drain("a", 0.0)
    put(registry, "a")
    assert names(registry) == []
    put(registry, "a", port=9000)
    assert names(registry) == ["a"]


def test_a_drain_ends_when_somebody_ends_it_and_a_registration_brings_none_back() -> None:
    """Renewing leaves the replica as it is, either way; nobody is told twice."""
    changes: list[bool] = []
    registry = ReplicaRegistry(on_changed=lambda: changes.append(True))
    put(registry, "a")
    registry.drain("a", 1.0)
    changes.clear()
    assert registry.undrain("a", 2.0) and registry.undrain("a", 3.0)
    assert len(changes) == 1
    put(registry, "a")
    assert names(registry) == ["a"]
    assert not registry.saved()[0].draining
    assert not registry.undrain("nobody", 2.0)


def test_a_state_has_the_time_it_began() -> None:
    """Of the word that people read: what does not change it leaves its time alone."""
    registry = ReplicaRegistry()
    replica = put(registry, "a", up=False, now_s=1.0)
    assert (replica.state, replica.since_s) == ("starting", 1.0)
    registry.set_health("a", Health.UP, 2.0)
    assert (replica.state, replica.since_s) == ("up", 2.0)
    put(registry, "a", up=False, now_s=3.0)
    registry.set_ejected("a", True, 4.0)
    registry.set_ejected("a", True, 5.0, probing=True)
    assert (replica.state, replica.since_s) == ("ejected", 4.0)
    registry.drain("a", 6.0)
    registry.set_health("a", Health.DOWN, 7.0)
    registry.drain("a", 8.0)
    assert (replica.state, replica.since_s) == ("draining", 6.0)
    registry.undrain("a", 9.0)
    assert (replica.state, replica.since_s) == ("down", 9.0)
    put(registry, "a", port=9000, up=False, now_s=10.0)
    assert (replica.state, replica.since_s) == ("starting", 10.0)


def test_a_slot_is_cleared_before_another_replica_takes_it() -> None:
    """Owners of columns hear of it in order: removed, then added."""
    heard: list[tuple[str, int]] = []
    registry = ReplicaRegistry(
        on_added=lambda slot: heard.append(("added", slot)), on_removed=lambda slot: heard.append(("removed", slot))
    )
    put(registry, "a")
    registry.remove("a")
    put(registry, "b")
    assert heard == [("added", 0), ("removed", 0), ("added", 0)]
    check(registry)


def test_an_earlier_incarnation_gives_way_to_a_later_one() -> None:
    """The later one stays, however often the earlier one registers; one without a start time is never refused."""
    registry = ReplicaRegistry()

    def register(port: int, born_ms: int, *, remote: bool = False) -> str:
        registration = Registration(url=f"http://127.0.0.1:{port}", born_ms=born_ms)
        return registry.put("a", registration, ("127.0.0.1", port), 0.0, remote=remote).url

    assert register(1, 100) == register(1, 100) == "http://127.0.0.1:1"
    assert register(2, 200) == "http://127.0.0.1:2"
    with pytest.raises(SupersededError, match=r"'a'.*:2"):
        register(1, 100)
    assert register(2, 200) == "http://127.0.0.1:2"
    assert register(1, 100, remote=True) == "http://127.0.0.1:1"  # Until the later one registers again.
    assert register(2, 200) == "http://127.0.0.1:2"
    assert registry.saved()[0].born_ms == 200
    again = ReplicaRegistry()
    again.restore(registry.saved()[0], 0.0)
    with pytest.raises(SupersededError):
        again.put("a", Registration(url="http://h:1", born_ms=100), ("10.0.0.1", 1), 0.0)
    assert register(3, 0) == "http://127.0.0.1:3"


def test_a_lease_ends_unless_renewed() -> None:
    """Ten seconds of silence remove a leased replica; a permanent one stays."""
    registry = ReplicaRegistry()
    put(registry, "leased", ttl_s=10.0)
    put(registry, "permanent")
    put(registry, "leased", ttl_s=10.0, now_s=5.0)
    assert registry.expire_leases(now_s=14.9) == []
    assert registry.expire_leases(now_s=15.0) == ["leased"]
    assert [r.id for r in registry] == ["permanent"]


def test_the_registry_is_bounded() -> None:
    """The limit is named when it is met, and a renewal is not a registration."""
    registry = ReplicaRegistry(max_replicas=1)
    put(registry, "a")
    put(registry, "a")
    with pytest.raises(LimitError, match="max_replicas"):
        put(registry, "b")


def test_saved_registrations_come_back_with_their_drain_flag() -> None:
    """What was saved is what is restored; leases start afresh."""
    registry = ReplicaRegistry()
    put(registry, "a", model="qwen", ttl_s=10.0)
    put(registry, "b")
    registry.drain("b", 0.0)
    again = ReplicaRegistry()
    for saved in registry.saved():
        again.restore(saved, now_s=100.0)
    assert again.saved() == registry.saved()
    assert again.get("a").lease_until_s == 110.0  # type: ignore[union-attr]
    assert isinstance(registry.saved()[0], SavedReplica)


def listed(*models: str, adapters: tuple[str, ...] = ()) -> ServedNames:
    return ServedNames({model: model for model in models}, frozenset(adapters))


def test_names_of_the_fleet_are_those_of_its_replicas() -> None:
    """A registered model hides what else its server lists."""
    registry = ReplicaRegistry(lists_follow=True)
    put(registry, "a", model="qwen")
    registry.set_listed("a", listed("qwen", "llama", adapters=("sql",)))
    assert registry.memberships.names() == {"qwen", "sql"}
    assert registry.memberships.adapters() == {"sql"}
    assert not registry.memberships.serves("llama")
    assert names(registry, "sql") == ["a"]


def test_another_address_is_asked_anew() -> None:
    """What the old engine listed says nothing of the new one."""
    registry = ReplicaRegistry(lists_follow=True)
    put(registry, "a")
    registry.set_listed("a", listed("qwen"))
    put(registry, "a", port=9000)
    replica = registry.get("a")
    assert replica is not None and replica.names is None


def test_adapters_and_health_path_survive_a_restart() -> None:
    """As registered, not as listed."""
    registry = ReplicaRegistry()
    registration = Registration(url="http://h:1", adapters=["sql"], health_path="/v1/models")
    registry.put("a", registration, ("10.0.0.1", 1), 0.0)
    (saved,) = registry.saved()
    again = ReplicaRegistry()
    assert again.restore(saved, 0.0).registration == registration
