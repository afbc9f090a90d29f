"""What is known of a request whose body does not show its model."""

from __future__ import annotations

import random

import pytest

from pointsman.contract.registration import Registration
from pointsman.policies.request import Naming
from pointsman.router.core import Core, CoreConfig
from pointsman.router.decide.model_recall import ModelRecall
from pointsman.router.fleet.replica import ServedNames

ABSENT, UNSEEN = Naming.ABSENT, Naming.UNSEEN


class Fleet:
    """A registry of replicas that are up, and what recalls their sessions' models."""

    def __init__(self, *models: str, adapters: tuple[tuple[str, ...], ...] = (), lists_follow: bool = False) -> None:
        core = Core({"policy": "kv_cost"}, rng=random.Random(1), config=CoreConfig(lists_follow=lists_follow))
        self.sessions, self.kv, self.replicas = core.sessions, core.kv, core.replicas
        self.recall = ModelRecall(self.replicas, self.sessions, self.kv)
        for number, model in enumerate(models):
            self.put(f"r{number}", model, *(adapters[number] if adapters else ()))

    def put(self, name: str, model: str = "", *adapters: str) -> None:
        registration = Registration(url="http://h:1", model=model, adapters=list(adapters))
        self.replicas.put(name, registration, ("10.0.0.1", 1), 0.0)

    def model_of(self, session: str = "", naming: Naming = UNSEEN, *, pin_ttl_s: float | None = None) -> str | None:
        return self.recall.model_of(session, naming, 0.0, pin_ttl_s=pin_ttl_s, by_kv=True)


def test_the_only_model_is_meant() -> None:
    """Nobody is refused where there is one. Without names any replica will do."""
    assert Fleet("m", "m").model_of() == "m"
    assert Fleet("").model_of() == Fleet().model_of() == ""
    assert Fleet("m", "n").model_of() is None


def test_who_names_none_wants_the_model_and_no_adapter() -> None:
    """A name that was not seen may be an adapter's, which some replicas do not have."""
    differ = Fleet("m", "m", adapters=(("sql",), ("math",)))
    assert (differ.model_of(naming=ABSENT), differ.model_of(naming=UNSEEN)) == ("m", None)
    alike = Fleet("m", "m", adapters=(("sql",), ("sql",)))
    assert (alike.model_of(naming=ABSENT), alike.model_of(naming=UNSEEN)) == ("m", "m")


def test_a_replica_that_serves_any_name_may_take_it() -> None:
    """And only that one, where another has a name."""
    fleet = Fleet("m", "")
    name = fleet.model_of()
    assert name is not None
    members = fleet.replicas.memberships.of(name)
    assert [fleet.replicas.ids[slot] for slot in members.slots] == ["r1"]
    assert fleet.replicas.memberships.of(name) is members, "it is made once"


def test_who_is_still_to_be_asked_changes_nothing() -> None:
    """A newcomer's names are not known for a moment."""
    fleet = Fleet(lists_follow=True)
    fleet.put("old", "m")
    fleet.put("fresh")
    assert fleet.model_of() == "m"
    fleet.replicas.set_listed("fresh", ServedNames({"n": "n"}))
    assert fleet.model_of() is None


def test_a_session_has_the_model_it_asked_for() -> None:
    """One that asked for two has none, and never again."""
    fleet = Fleet("m", "n")
    for model in ("m", "m"):
        fleet.recall.asked("s", model)
    assert (fleet.model_of("s"), fleet.model_of("other")) == ("m", None)
    fleet.recall.asked("s", "n")
    fleet.recall.asked("s", "m")
    assert fleet.model_of("s") is None


@pytest.mark.parametrize("pinned", [True, False])
def test_a_session_of_before_is_known_by_where_it_is_at_home(pinned: bool) -> None:
    """By its pin, or by the conversation whose KV is kept: after a restart, or on another edge."""
    fleet = Fleet("m", "n")
    if pinned:
        fleet.sessions.pin("s", "r1", 0.0)
    else:
        fleet.kv.conversations.place(
            None, "s", fleet.replicas.slot_of("r1"), (), tokens=9, resident=0, prompt_bytes=36, now_s=0.0
        )
    assert fleet.model_of("s", pin_ttl_s=10.0) == "n"
    fleet.replicas.remove("r1")
    fleet.put("r2", "o")
    assert fleet.model_of("s", pin_ttl_s=10.0) is None
