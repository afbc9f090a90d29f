"""One replica: the names it may be asked for, and its lease."""

from pointsman.contract.registration import Registration
from pointsman.router.fleet.replica import Health, Replica, ServedNames

URL = "http://127.0.0.1:8000"


def replica(**given: object) -> Replica:
    registration = Registration(url=URL, **given)  # type: ignore[arg-type]
    return Replica(0, "a", "127.0.0.1", 8000, registration, Health.UP, registration.role)


def named(replica: Replica, listed: ServedNames | None = None, *, lists_follow: bool = True) -> frozenset[str] | None:
    replica.listed = listed
    replica.find_names(lists_follow=lists_follow)
    return replica.names


def test_a_registered_model_is_all_that_is_served() -> None:
    """Whoever registered it chose among what the server lists; adapters of that model come along."""
    registered = replica(model="qwen")
    listed = ServedNames({"qwen": "qwen", "llama": "llama"}, frozenset({"sql"}))
    assert named(registered, listed) == {"qwen", "sql"}
    assert registered.adapters == {"sql"}
    assert named(registered, ServedNames({"llama": "llama"}, frozenset({"sql"}))) == {"qwen"}


def test_aliases_of_a_registered_model_are_served_too() -> None:
    """`--served-model-name a b` is one model."""
    listed = ServedNames({"qwen": "/weights/q", "chat": "/weights/q", "llama": "/weights/l"})
    assert named(replica(model="qwen"), listed) == {"qwen", "chat"}


def test_a_replica_without_a_model_serves_what_its_list_says() -> None:
    """Without a list that is anything, or not known yet while somebody will read it."""
    assert named(replica(adapters=["sql"]), ServedNames({"qwen": "qwen"})) == {"qwen", "sql"}
    assert named(replica(), ServedNames()) == frozenset()
    assert named(replica()) is None
    assert named(replica(), lists_follow=False) == frozenset()


def test_finding_the_same_names_is_no_change() -> None:
    """Memberships, and rings built on them, stay."""
    registered = replica(model="qwen")
    assert registered.find_names(lists_follow=True)
    assert not registered.find_names(lists_follow=True)
    registered.listed = ServedNames({"qwen": "qwen"}, frozenset({"sql"}))
    assert registered.find_names(lists_follow=True)


def test_a_message_of_the_replica_renews_its_lease() -> None:
    """As a heartbeat does; not that of an earlier incarnation, and nothing where there is no lease."""
    leased, forever = replica(ttl_s=10.0, born_ms=5), replica()
    assert leased.renew(0, 5.0)
    assert leased.renew(6, 8.0)
    assert not leased.renew(4, 9.0)
    assert not forever.renew(0, 9.0)
    assert (leased.lease_until_s, leased.heard_until_s, forever.lease_until_s) == (18.0, 18.0, None)


def test_what_is_saved_is_the_registration() -> None:
    """As registered, not as listed, with the drain flag."""
    given = replica(model="qwen", ttl_s=10.0, adapters=["sql"], health_path="/v1/models", pool="p", born_ms=7)
    named(given, ServedNames({"qwen": "qwen"}, frozenset({"other"})))
    given.draining = True
    assert given.saved.registration == given.registration
    assert (given.saved.id, given.saved.host, given.saved.port, given.saved.draining) == ("a", "127.0.0.1", 8000, True)
