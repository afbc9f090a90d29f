"""The registry: who may be routed to."""

import pytest

from pointsman.contract.registration import Registration
from pointsman.router.errors import LimitError, RegistrationError, SupersededError
from pointsman.router.fleet.replicas import OTHER_MODEL, Health, ReplicaRegistry, ServedNames
from pointsman.router.fleet.saved import SavedReplica
from pointsman.router.watch.endpoints import EndpointResolver, parse_endpoint


def put(registry: ReplicaRegistry, name: str, *, port: int = 8000, model: str = "", ttl_s: float | None = None,
        now_s: float = 0.0, up: bool = True):  # fmt: skip
    replica = registry.put(
        name, Registration(url=f"http://127.0.0.1:{port}", model=model, ttl_s=ttl_s), ("127.0.0.1", port), now_s
    )
    if up:
        registry.set_health(name, Health.UP)
    return replica


def names(registry: ReplicaRegistry, model: str = "") -> list[str]:
    return [registry.ids[slot] for slot in registry.membership(model).slots.tolist()]


def test_a_replica_serves_once_its_health_check_passed() -> None:
    """Registered is not yet eligible."""
    registry = ReplicaRegistry()
    put(registry, "a", up=False)
    assert names(registry) == []
    registry.set_health("a", Health.UP)
    assert names(registry) == ["a"]
    registry.set_health("a", Health.DOWN)
    assert names(registry) == []


def test_a_draining_replica_is_not_eligible_until_it_restarts_elsewhere() -> None:
    """Renewing keeps it draining; another address is another engine."""
    registry = ReplicaRegistry()
    put(registry, "a")
    registry.drain("a")
    put(registry, "a")
    assert names(registry) == []
    put(registry, "a", port=9000)
    assert names(registry) == ["a"]


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
    both = registry.membership("")
    put(registry, "a", now_s=5.0)
    assert registry.membership("").token == both.token
    registry.set_health("b", Health.DOWN)
    alone = registry.membership("")
    assert alone.token != both.token
    registry.remove("b")
    assert registry.membership("").token == alone.token
    put(registry, "c")  # takes b's slot
    assert registry.membership("").token not in (both.token, alone.token)


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
    registry.validate()


def test_an_earlier_life_gives_way_to_a_later_one() -> None:
    """Who comes later stands, whatever the earlier one goes on saying; without a birth it is anybody's word."""
    registry = ReplicaRegistry()

    def tell(port: int, born_ms: int, *, elsewhere: bool = False) -> str:
        registration = Registration(url=f"http://127.0.0.1:{port}", born_ms=born_ms)
        return registry.put("a", registration, ("127.0.0.1", port), 0.0, elsewhere=elsewhere).url

    assert tell(1, 100) == tell(1, 100) == "http://127.0.0.1:1"
    assert tell(2, 200) == "http://127.0.0.1:2"
    with pytest.raises(SupersededError, match=r"'a'.*:2"):
        tell(1, 100)
    assert tell(2, 200) == "http://127.0.0.1:2"
    assert tell(1, 100, elsewhere=True) == "http://127.0.0.1:1"  # What edges agree on, until the later one is heard.
    assert tell(2, 200) == "http://127.0.0.1:2"
    assert registry.saved()[0].born_ms == 200
    again = ReplicaRegistry()
    again.restore(registry.saved()[0], 0.0)
    with pytest.raises(SupersededError):
        again.check_life("a", 100)
    assert tell(3, 0) == "http://127.0.0.1:3"


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


def test_unknown_models_leave_no_trace() -> None:
    """Model names come from clients: asking for ten thousand of them remembers none."""
    registry = ReplicaRegistry()
    put(registry, "a", model="qwen")
    for number in range(10_000):
        registry.membership(f"model-{number}")
    assert len(registry._memberships) + len(registry._published) <= 4


def test_saved_registrations_come_back_with_their_drain_flag() -> None:
    """What was saved is what is restored; leases start afresh."""
    registry = ReplicaRegistry()
    put(registry, "a", model="qwen", ttl_s=10.0)
    put(registry, "b")
    registry.drain("b")
    again = ReplicaRegistry()
    for saved in registry.saved():
        again.restore(saved, now_s=100.0)
    assert again.saved() == registry.saved()
    assert again.get("a").lease_until_s == 110.0  # type: ignore[union-attr]
    assert isinstance(registry.saved()[0], SavedReplica)


@pytest.mark.parametrize("model", ["", "qwen"])
def test_names_that_nothing_registered_has_share_one_membership(model: str) -> None:
    """Asking for another unknown name builds nothing; a name that becomes known gets a membership of its own."""
    registry = ReplicaRegistry()
    put(registry, "a", model=model)
    put(registry, "any")
    unknown = registry.membership("llama")
    assert registry.membership("other") is unknown is registry.membership("llama") is registry.membership(OTHER_MODEL)
    assert names(registry, "llama") == (["any"] if model else ["a", "any"])
    put(registry, "l1", model="llama")
    assert names(registry, "llama") == (["any", "l1"] if model else ["a", "any", "l1"])
    assert names(registry, "other") == (["any"] if model else ["a", "any"])
    assert registry.membership("llama").token != registry.membership("other").token


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "https://a:1", "http://a", "http://a:0", "http://a:99999", "http://a:1/v1", "http://:1",
     "http://a:b", "http://[::1", "unix:///x", "http://a:1?x=1"],
)  # fmt: skip
def test_a_url_haproxy_cannot_connect_to_is_refused(url: str) -> None:
    """The error shows the value and the expected form."""
    with pytest.raises(RegistrationError, match="http://HOST:PORT"):
        parse_endpoint(url)


async def test_names_are_resolved_when_registered() -> None:
    """HAProxy takes addresses only, and IPv4 is preferred."""
    resolver = EndpointResolver()
    assert await resolver.resolve("http://localhost:8000") == ("127.0.0.1", 8000)
    assert await resolver.resolve("http://[::1]:8000/") == ("::1", 8000)
    with pytest.raises(RegistrationError, match="no address"):
        await resolver.resolve("http://no-such-host.invalid:8000")


def listed(*models: str, adapters: tuple[str, ...] = ()) -> ServedNames:
    return ServedNames({model: model for model in models}, frozenset(adapters))


def test_a_replica_nobody_named_is_held_back_until_it_is_asked() -> None:
    """While others have names it is not for them; alone it may serve anything."""
    registry = ReplicaRegistry(lists_follow=True)
    put(registry, "new")
    assert names(registry, "qwen") == names(registry) == ["new"]
    put(registry, "q1", model="qwen")
    assert names(registry, "qwen") == names(registry) == ["q1"]
    assert registry.listed("new", listed("llama", "alias"))
    assert names(registry, "alias") == ["new"]
    assert names(registry) == ["new", "q1"]
    assert registry.names() == {"qwen", "llama", "alias"}


def test_a_replica_that_was_asked_in_vain_serves_anything() -> None:
    """It is up, so it serves something."""
    registry = ReplicaRegistry(lists_follow=True)
    put(registry, "q1", model="qwen")
    put(registry, "odd")
    registry.listed("odd", ServedNames())
    assert names(registry, "qwen") == ["q1", "odd"]
    assert names(registry, "other") == ["odd"]


def test_a_registered_model_is_all_that_is_served_there() -> None:
    """Its owner chose among what the server lists; adapters of that model come along."""
    registry = ReplicaRegistry(lists_follow=True)
    put(registry, "a", model="qwen")
    registry.listed("a", listed("qwen", "llama", adapters=("sql",)))
    assert registry.names() == {"qwen", "sql"}
    assert not registry.serves("llama")
    assert names(registry, "sql") == ["a"]


def test_aliases_of_a_registered_model_are_served_too() -> None:
    """`--served-model-name a b` is one model."""
    registry = ReplicaRegistry(lists_follow=True)
    put(registry, "a", model="qwen")
    registry.listed("a", ServedNames({"qwen": "/weights/q", "chat": "/weights/q", "llama": "/weights/l"}))
    assert registry.names() == {"qwen", "chat"}


def test_another_address_is_asked_anew() -> None:
    """What the old engine listed says nothing of the new one."""
    registry = ReplicaRegistry(lists_follow=True)
    put(registry, "a")
    registry.listed("a", listed("qwen"))
    put(registry, "a", port=9000)
    replica = registry.get("a")
    assert replica is not None and replica.names is None


def test_a_list_that_says_the_same_changes_nothing() -> None:
    """Memberships, and rings built on them, stay."""
    registry = ReplicaRegistry(lists_follow=True)
    put(registry, "a", model="qwen")
    assert not registry.listed("a", listed("qwen"))
    assert not registry.listed("gone", listed("qwen"))


def test_adapters_and_health_path_survive_a_restart() -> None:
    """As registered, not as listed."""
    registry = ReplicaRegistry()
    registration = Registration(url="http://h:1", adapters=["sql"], health_path="/v1/models")
    registry.put("a", registration, ("10.0.0.1", 1), 0.0)
    (saved,) = registry.saved()
    again = ReplicaRegistry()
    assert again.restore(saved, 0.0).registration == registration


def test_a_message_of_the_replica_renews_its_lease() -> None:
    """As a heartbeat would; not that of an earlier life, and nothing where there is no lease."""
    replicas = ReplicaRegistry()
    leased = replicas.put("a", Registration(url="http://h:1", ttl_s=10.0, born_ms=5), ("10.0.0.1", 1), 0.0)
    forever = replicas.put("b", Registration(url="http://h:2"), ("10.0.0.1", 2), 0.0)
    assert replicas.renew(leased, 0, 5.0)
    assert replicas.renew(leased, 6, 8.0)
    assert not replicas.renew(leased, 4, 9.0)
    assert not replicas.renew(forever, 0, 9.0)
    assert (leased.lease_until_s, leased.heard_until_s, forever.lease_until_s) == (18.0, 18.0, None)
    assert replicas.expire_leases(17.9) == []
    assert replicas.expire_leases(18.0) == ["a"]
