"""Requests for aliases as they are placed: on replicas of their version, with what that costs counted."""

import random
from typing import Any

from pointsman.contract.events import EngineEvents
from pointsman.contract.prefix_keys import BOUNDARIES, scope_of, scoped
from pointsman.contract.registration import Registration
from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.decide.features import extract
from pointsman.router.fleet.replica import ServedNames

HEAD = tuple(range(100, 108))
"""Keys of a prompt's head, 4 KiB, as HAProxy sends them."""


def core_with(**replicas: str) -> Core:
    """A core with a replica of the named model for each keyword, which renames the model itself."""
    core = Core({"policy": "kv_cost"}, rng=random.Random(1))
    for replica, model in replicas.items():
        registration = Registration(url="http://h:1", model=model, renames_model=True)
        core.replicas.put(replica, registration, ("127.0.0.1", 1), 0.0)
    return core


def weigh(core: Core, one: float, two: float, **fields: Any) -> None:
    versions = [{"model": "one", "weight": one}, {"model": "two", "weight": two}]
    core.book.write("alias/chat", {"name": "chat", "versions": versions, **fields})


def features_of(core: Core, number: int, session: str, keys: tuple[int, ...] = HEAD, **more: Any) -> RequestFeatures:
    packed = (4).to_bytes(2, "little") + b"chat" + bytes(2) + (16).to_bytes(4, "little")
    packed += BOUNDARIES[len(keys) - 1].to_bytes(4, "little") + bytes(8)
    packed += b"".join(key.to_bytes(8, "little") for key in keys)
    arguments = {"id": f"r{number}".encode(), "path": b"/v1/completions", "body": packed, "session": session.encode()}
    return extract({**arguments, **more}, aliases=core.aliases)


def ask(core: Core, number: int, session: str, keys: tuple[int, ...] = HEAD, **more: Any) -> Decision:
    decision = core.decide(features_of(core, number, session, keys, **more), float(number))
    core.requests.end(f"r{number}", float(number))
    return decision


def holds(core: Core, replica: str, model: str, keys: tuple[int, ...]) -> None:
    """The engine reports that it holds the keys of a prompt."""
    stored = scoped(keys, scope_of(model))
    core.engine_events(replica, EngineEvents(epoch=replica, seq=1, snapshot=True, stored=list(stored)), 0.0)


def test_the_version_decides_who_may_serve_and_how_keys_are_scoped() -> None:
    """And the answer says by what name the replica knows it."""
    core = core_with(a="one", b="two")
    weigh(core, 0, 1)
    features = features_of(core, 1, "s")
    assert (features.model, features.alias) == ("two", "chat")
    assert features.scope == f"{scope_of('two'):016x}"
    decision = core.decide(features, 1.0)
    assert (decision.first, decision.real_model) == ("b", "two")
    assert decision.variables()["real_model"] == "two"


def test_a_request_that_names_its_model_is_as_without_aliases() -> None:
    """The alias changes nothing for it."""
    core = core_with(a="one", b="two")
    weigh(core, 0, 1)
    decision = core.decide(RequestFeatures(request_id="r", model="one", session="s"), 1.0)
    assert (decision.first, decision.real_model) == ("a", "")
    assert len(core.aliases.sessions) == 0


def test_replicas_that_would_refuse_the_name_are_not_chosen() -> None:
    """A plain endpoint has to list the alias; where none does, the request is refused as one without a replica."""
    core = core_with(a="two")
    weigh(core, 1, 0)
    for replica in ("p", "q"):
        core.replicas.put(replica, Registration(url="http://h:1", model="one"), ("127.0.0.1", 1), 0.0)
    refused = ask(core, 1, "s")
    assert (refused.first, refused.status, refused.reason) == ("", 503, Reason.NO_CANDIDATES)
    core.replicas.set_listed("q", ServedNames({"one": "one", "chat": "one"}))
    assert {ask(core, number, f"s{number}").first for number in range(2, 8)} == {"q"}
    members = core.replicas.memberships
    assert members.of_alias("one", "chat").token == members.of_alias("one", "chat").token


def test_a_session_without_replicas_of_its_version_goes_to_the_stable_one() -> None:
    """It is served, and counted as one that changed its version."""
    core = core_with(a="one", b="two")
    weigh(core, 0, 1)
    assert ask(core, 1, "s").first == "b"
    core.replicas.drain("b", 1.0)
    assert ask(core, 2, "s").first == "a"
    assert core.aliases.moved["chat"] == 1


def test_tokens_that_a_rollback_has_computed_again_are_counted() -> None:
    """Those that the session's conversation had on the withdrawn version, once."""
    core = core_with(a="one", b="two")
    weigh(core, 0, 1)
    ask(core, 1, "s")
    assert core.aliases.recomputed["chat"] == 0
    tokens = core.kv.conversations.by_name["s"].tokens
    alias = core.aliases.get("chat")
    assert alias is not None
    core.book.write("alias/chat", alias.rolled_back().body())
    assert ask(core, 2, "s").first == "a"
    lost = core.aliases.recomputed["chat"]
    assert 0 < lost <= tokens
    assert lost > tokens // 2
    ask(core, 3, "s")
    assert core.aliases.recomputed["chat"] == lost


def test_a_head_that_only_another_version_holds_is_counted_where_a_session_begins() -> None:
    """A system prompt is computed again once on each version, not with each session."""
    core = core_with(a="one", b="two")
    weigh(core, 0, 1)
    holds(core, "a", "one", HEAD[:4])
    ask(core, 1, "s")
    once = core.aliases.recomputed["chat"]
    assert once > 0
    holds(core, "b", "two", HEAD)
    ask(core, 2, "t")
    assert core.aliases.recomputed["chat"] == once


def test_a_session_whose_later_requests_hide_the_name_keeps_its_version() -> None:
    """What is remembered of it is the alias."""
    core = core_with(a="one", b="two")
    weigh(core, 0, 1)
    ask(core, 1, "s")
    weigh(core, 1, 0)
    hidden = (2 << 14).to_bytes(2, "little") + bytes(2)
    arguments = {"id": b"r2", "path": b"/v1/completions", "body": hidden, "session": b"s"}
    recall = lambda session, naming: core.pipeline.recall_model(session, naming, 2.0)  # noqa: E731
    features = extract(arguments, recall=recall, aliases=core.aliases)
    assert (features.model, features.alias) == ("two", "chat")


def test_a_tester_names_the_version_and_the_session_stays_with_it() -> None:
    """Where the alias allows it."""
    core = core_with(a="one", b="two")
    weigh(core, 1, 0, override=True)
    assert ask(core, 1, "s", version=b"two").first == "b"
    assert ask(core, 2, "s").first == "b"
    assert ask(core, 3, "t").first == "a"
