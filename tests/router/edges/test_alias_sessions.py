"""Versions of sessions on edges that share state: one session has one version, whichever edge it asks."""

import random
from typing import Any

from sharing_edges import SharingEdge, StreamStore, repeat, settle

from pointsman.contract.registration import Registration
from pointsman.router.decide.features import extract

SESSIONS = [f"s{n}" for n in range(300)]


class AliasEdge(SharingEdge):
    """An edge with a replica of each of two versions, and requests as HAProxy asks for them."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        for model in ("one", "two"):
            registration = Registration(url="http://h:1", model=model, renames_model=True)
            self.replicas.put(f"r-{model}", registration, ("127.0.0.1", 1), 0.0)
        self.asked = 0

    def weigh(self, one: float, two: float, **fields: Any) -> None:
        versions = [{"model": "one", "weight": one}, {"model": "two", "weight": two}]
        self.core.book.write("alias/chat", {"name": "chat", "versions": versions, **fields})

    def turn(self, session: str, now_s: float) -> str:
        """The replica that the next request of a session goes to."""
        self.asked += 1
        name = b"chat"
        body = len(name).to_bytes(2, "little") + name
        request_id = f"{self.name}-{self.asked}"
        arguments = {"id": request_id.encode(), "path": b"/v1/completions", "session": session.encode(), "body": body}
        features = extract(arguments, aliases=self.core.aliases)
        first = self.core.decide(features, now_s).first
        self.end(request_id, now_s)
        return first


def test_a_session_keeps_its_version_on_two_edges_through_weights_and_a_restart() -> None:
    """Sessions begin at one edge and go on at the other, while weights change, the alias is paused, and an edge starts
    again without a memory of its own."""
    store, first, second = StreamStore(), AliasEdge("a"), AliasEdge("b")
    edges = [first, second]
    for edge in edges:
        edge.weigh(90, 10)
    began = {session: first.turn(session, 0.0) for session in SESSIONS}
    assert 15 < sum(replica == "r-two" for replica in began.values()) < 50
    now_s = settle(store, edges, 0.0)
    dice = random.Random(1)
    for one, two, fields in ((50, 50, {}), (1, 0, {}), (90, 10, {"paused": True})):
        for edge in edges:
            edge.weigh(one, two, **fields)
        assert all(dice.choice(edges).turn(session, now_s) == replica for session, replica in began.items())
        now_s = settle(store, edges, now_s)
    second = AliasEdge("b2")
    second.weigh(90, 10, paused=True)
    now_s = repeat(store, [first, second], now_s)
    assert all(second.turn(session, now_s) == replica for session, replica in began.items())
    assert [edge.core.aliases.moved.total() for edge in (first, second)] == [0, 0]


def test_a_rollback_at_one_edge_moves_sessions_everywhere() -> None:
    """The move outranks what the other edge remembers."""
    store, first, second = StreamStore(), AliasEdge("a"), AliasEdge("b")
    for edge in (first, second):
        edge.weigh(50, 50)
    for session in SESSIONS:
        first.turn(session, 0.0)
    now_s = settle(store, [first, second], 0.0)
    alias = first.core.aliases.get("chat")
    assert alias is not None
    first.core.book.write("alias/chat", alias.rolled_back().body())
    assert {first.turn(session, now_s) for session in SESSIONS} == {"r-one"}
    now_s = settle(store, [first, second], now_s)
    states = [sorted((session, model) for session, model, _ in edge.core.aliases.sessions) for edge in (first, second)]
    assert states[0] == states[1]
    assert {model for _, model in states[1]} == {"one"}
