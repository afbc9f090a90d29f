"""Edges that share state, without clocks, tasks or sockets: real tables and pipeline around an `EdgeProtocol`, and a
store in memory through which a test moves batches when it likes."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import Registration
from pointsman.policies.decision import Decision
from pointsman.policies.registry import build_policy
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.fleet_state import FleetState
from pointsman.router.decide.pipeline import Pipeline
from pointsman.router.edges.documents import SharedDocument
from pointsman.router.edges.peers import HEARTBEAT_S
from pointsman.router.edges.protocol import EdgeProtocol
from pointsman.router.edges.records import EdgeInfo
from pointsman.router.edges.rounds import ROUND_S
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.replicas import Health, ReplicaRegistry
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.kv.state import KVState
from pointsman.router.metrics.requests import DecisionMetrics


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
        self.load = LoadTable()
        self.sessions = SessionTable()
        self.kv = KVState()
        self.protocol: EdgeProtocol | None = None
        self.replicas = ReplicaRegistry(
            initial_health=Health.UP,
            on_added=self._added,
            on_removed=self._removed,
            on_changed=lambda: self.protocol and self.protocol.registry_changed(),
        )
        self.pipeline = Pipeline(
            build_policy(policy or {"policy": "kv_cost"}),
            FleetState(
                replicas=self.replicas,
                load=self.load,
                sessions=self.sessions,
                kv=self.kv,
            ),
            metrics=DecisionMetrics(),
            rng=random.Random(f"{seed} {name}"),
        )
        self.document: dict[str, Any] | None = None
        self.protocol = EdgeProtocol(
            name, replicas=self.replicas, load=self.load, sessions=self.sessions, kv=self.kv,
            documents={"policy": SharedDocument(lambda: self.document, self._write)},
        )  # fmt: skip
        self.engine_seqs: dict[str, int] = {}

    def _write(self, body: dict[str, Any]) -> None:
        if body.get("policy") == "unknown":
            raise ValueError("unknown policy")
        self.document = body

    def put_document(self, body: dict[str, Any]) -> None:
        self.document = body
        self.protocol.document_changed()

    def _added(self, slot: int) -> None:
        self.load.add_slot(slot)
        self.kv.add_slot(slot, self.replicas.ids[slot])
        if self.protocol is not None:
            self.protocol.slot_added(slot)

    def _removed(self, slot: int) -> None:
        if self.protocol is not None:
            self.protocol.slot_removed(slot)
        self.load.clear_slot(slot)
        self.kv.clear_slot(slot)

    # What happens at it

    def register(self, *ids: str, now_s: float = 0.0, ttl_s: float | None = None, url: str = "http://h:1") -> None:
        for replica_id in ids:
            self.replicas.put(replica_id, Registration(url=url, ttl_s=ttl_s), ("127.0.0.1", 1), now_s)

    def ask(self, request_id: str, now_s: float = 0.0, **features: Any) -> Decision:
        return self.pipeline.decide(RequestFeatures(request_id=request_id, **features), now_s)

    def end(self, request_id: str, now_s: float = 0.0, *, served: bool = True) -> None:
        self.load.release(request_id)
        self.kv.ended(request_id, now_s, served=served)

    def report(self, replica_id: str, *, epoch: str = "e", now_s: float = 0.0, **events: Any) -> bool:
        """An engine's next message to this edge."""
        seq = self.engine_seqs[replica_id] = self.engine_seqs.get(replica_id, 0) + 1
        slot = self.replicas.get(replica_id).slot
        return self.kv.apply(slot, EngineEvents(epoch=epoch, seq=seq, **events), now_s)

    # Moving bytes

    def publish(self, store: StreamStore, now_s: float) -> None:
        outgoing = self.protocol.next_batch(now_s)
        if outgoing is not None:
            store.append(self.name, outgoing.seq, outgoing.payload)

    def follow(self, store: StreamStore, now_s: float) -> None:
        self.protocol.meet(store.roster(), now_s)
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
            "waiting": {r.id: float(self.kv.signals.waiting[r.slot]) for r in self.replicas},
            "footprint": {r.id: float(self.kv.signals.footprint[r.slot]) for r in self.replicas},
            "sessions": {session: replica for session, replica, _ in self.sessions},
            "conversations": {c.name: (ids[c.slot], c.turn, c.tokens) for c in self.kv.conversations},
            "resident": {key: sorted(ids[slot] for slot in slots) for key, slots in self.kv.index.snapshot()},
            "document": self.document,
        }

    def validate(self) -> None:
        self.replicas.validate()
        self.load.validate()
        self.kv.validate()
        self.protocol.validate()


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
            edge.protocol.sweep(now_s)
            edge.validate()
    return now_s


def repeat(store: StreamStore, edges: Iterable[SharingEdge], now_s: float) -> float:
    """The same for two rounds of all states: by then whatever was lost is made up for."""
    return settle(store, edges, now_s, rounds=int(2 * ROUND_S / HEARTBEAT_S) + 2, step_s=HEARTBEAT_S)
