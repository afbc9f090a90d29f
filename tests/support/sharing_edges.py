"""Edges that share state, without clocks, tasks or sockets: real tables and pipeline around an `EdgeProtocol`, and a
store in memory through which a test moves batches when it likes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from invariants import check
from residency import residents

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import Registration
from pointsman.policies.decision import Decision
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.edges.build import join
from pointsman.router.edges.documents import SharedDocument
from pointsman.router.edges.peers import HEARTBEAT_S
from pointsman.router.edges.records import EdgeInfo
from pointsman.router.edges.rounds import ROUND_S


class StreamStore:
    """Streams by edge, complete and at once."""

    def __init__(self) -> None:
        self.streams: dict[str, dict[int, bytes]] = {}

    def append(self, edge: str, seq: int, payload: bytes) -> None:
        self.streams.setdefault(edge, {})[seq] = payload

    def roster(self) -> list[EdgeInfo]:
        return [EdgeInfo(edge=edge, seq=max(entries, default=0)) for edge, entries in self.streams.items()]

    def after(self, edge: str, position: int) -> list[tuple[int, bytes]]:
        return sorted((seq, payload) for seq, payload in self.streams.get(edge, {}).items() if seq > position)

    def empty(self) -> None:
        self.streams.clear()


class SharingEdge:
    """One edge: the router's own tables, pipeline and protocol."""

    def __init__(self, name: str, policy: dict[str, Any] | None = None, *, seed: int = 1) -> None:
        self.name = name
        self.core = Core(policy or {"policy": "kv_cost"}, rng=random.Random(f"{seed} {name}"))
        self.load = self.core.load
        self.sessions = self.core.sessions
        self.kv = self.core.kv
        self.replicas = self.core.replicas
        self.pipeline = self.core.pipeline
        self.document: dict[str, Any] | None = None
        self.protocol = join(self.core, name, documents={"policy": SharedDocument(lambda: self.document, self._write)})
        self.engine_seqs: dict[str, int] = {}

    def _write(self, body: dict[str, Any], about: Mapping[str, str]) -> None:
        if body.get("policy") == "unknown":
            raise ValueError("unknown policy")
        self.document = body

    def put_document(self, body: dict[str, Any]) -> None:
        self.document = body
        self.protocol.document_changed()

    # What happens at it

    def register(self, *ids: str, now_s: float = 0.0, ttl_s: float | None = None, url: str = "http://h:1") -> None:
        for replica_id in ids:
            self.replicas.put(replica_id, Registration(url=url, ttl_s=ttl_s), ("127.0.0.1", 1), now_s)

    def ask(self, request_id: str, now_s: float = 0.0, **features: Any) -> Decision:
        return self.core.decide(RequestFeatures(request_id=request_id, **features), now_s)

    def end(self, request_id: str, now_s: float = 0.0, *, served: bool = True) -> None:
        self.core.requests.end(request_id, now_s, served=served)

    def report(self, replica_id: str, *, epoch: str = "e", now_s: float = 0.0, **events: Any) -> bool:
        """An engine's next message to this edge."""
        seq = self.engine_seqs[replica_id] = self.engine_seqs.get(replica_id, 0) + 1
        return self.core.engine_events(replica_id, EngineEvents(epoch=epoch, seq=seq, **events), now_s).resync

    # Moving bytes

    def publish(self, store: StreamStore, now_s: float) -> None:
        outgoing = self.protocol.next_batch(now_s)
        if outgoing is not None:
            store.append(self.name, outgoing.seq, outgoing.payload)

    def follow(self, store: StreamStore, now_s: float) -> None:
        self.protocol.peers.meet(store.roster(), now_s)
        for edge, position in self.protocol.following().items():
            for seq, payload in store.after(edge, position):
                self.protocol.receive(edge, seq, payload, now_s)

    # What it knows

    def knows(self) -> dict[str, Any]:
        """State that is the same on all edges once nothing changes."""
        ids = self.replicas.ids
        return {
            "replicas": sorted((r.id, r.url, r.draining) for r in self.replicas),
            "in_flight": {r.id: int(self.load.in_flight[r.slot]) for r in self.replicas},
            "waiting": {r.id: float(self.kv.columns.signals.waiting[r.slot]) for r in self.replicas},
            "footprint": {r.id: float(self.kv.columns.signals.footprint[r.slot]) for r in self.replicas},
            "sessions": {session: replica for session, replica, _ in self.sessions},
            "conversations": {c.name: (ids[c.slot], c.turn, c.tokens) for c in self.kv.conversations.by_name.values()},
            "resident": {key: sorted(ids[slot] for slot in slots) for key, slots in residents(self.kv.index).items()},
            "document": self.document,
            "book": sorted((document.name, document.rank) for document in self.core.book),
        }

    def validate(self) -> None:
        check(self.core)
        check(self.protocol)


def settle(
    store: StreamStore, edges: Iterable[SharingEdge], now_s: float, rounds: int = 6, step_s: float = 0.6
) -> float:
    """Every edge publishes and follows, so often; the time it is then."""
    edges = list(edges)
    for _ in range(rounds):
        now_s += step_s
        for edge in edges:
            edge.publish(store, now_s)
        for edge in edges:
            edge.follow(store, now_s)
            edge.protocol.peers.sweep(now_s)
            edge.validate()
    return now_s


def repeat(store: StreamStore, edges: Iterable[SharingEdge], now_s: float) -> float:
    """The same for two rounds of all states: by then whatever was lost is made up for."""
    return settle(store, edges, now_s, rounds=int(2 * ROUND_S / HEARTBEAT_S) + 2, step_s=HEARTBEAT_S)
