"""What is promised of the edges of a simulated world once nothing changes any more.

Registrations and the policy are the same. Every edge has the keys that each engine holds, and every session pin and
conversation that another edge answers for. Nothing is in flight. A conversation that its writer dropped may stay on
another edge until it is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from world_edges import Site, WorldEdge
from world_engines import WorldEngine


def disagreements(sites: Sequence[Site], engines: Sequence[WorldEngine]) -> list[str]:
    """Each promise that does not hold at this moment, as a sentence."""
    edges = [site.edge for site in sites if site.edge is not None]
    living = {edge.name for edge in edges}
    found: list[str] = []
    for edge in edges:
        found += _differences(edges[0], edge)
        found += _work(edge)
        found += _peers(edge, living)
        for engine in engines:
            found += _engine(edge, engine)
        for other in edges:
            found += _missing(edge, other, living)
    return found


def _differences(first: WorldEdge, edge: WorldEdge) -> Iterator[str]:
    for kind, here, there in (
        ("replicas", _registrations(first), _registrations(edge)),
        ("policy", first.pipeline.policy.describe(), edge.pipeline.policy.describe()),
    ):
        if here != there:
            yield f"{kind}: {first.name} and {edge.name} differ: {here} and {there}"


def _registrations(edge: WorldEdge) -> dict[str, Any]:
    return {saved.id: saved for saved in edge.replicas.saved()}


def _work(edge: WorldEdge) -> Iterator[str]:
    """Work in flight that is not there."""
    for kind, column in (
        ("in flight", edge.load.in_flight),
        ("tokens in flight", edge.load.in_flight_tokens),
        ("waiting", edge.kv.columns.signals.waiting),
    ):
        for replica in edge.replicas:
            if column[replica.slot]:
                yield f"{edge.name}: {kind} on {replica.id}: {column[replica.slot]}"
    for request in sorted(edge.reserved()):
        yield f"{edge.name}: {request} is still reserved"


def _peers(edge: WorldEdge, living: set[str]) -> Iterator[str]:
    peers = {peer.info.edge: peer for peer in edge.protocol.peers}
    for other in sorted(living - {edge.name}):
        if other not in peers:
            yield f"{edge.name}: does not know {other}"
        elif not (peers[other].alive and peers[other].in_step):
            yield f"{edge.name}: {peers[other]!r} lives"
    for name, peer in peers.items():
        if name not in living and (peer.alive or peer.loads):
            yield f"{edge.name}: {peer!r} is dead and counts {peer.loads}"
    for why in edge.readiness.impaired():
        yield f"{edge.name}: {why}"


def _engine(edge: WorldEdge, engine: WorldEngine) -> Iterator[str]:
    """How an engine is known at an edge."""
    replica = edge.replicas.get(engine.id)
    if engine.leased and engine.alive is (replica is None):
        yield f"{edge.name}: {engine.id} is {'alive' if engine.alive else 'dead'}, and registered if dead"
    if replica is None or not engine.alive or not engine.reports:
        return
    resident, cached = edge.resident(engine.id), sorted(engine.cache)
    if resident != cached:
        cursor = edge.kv.cursors[replica.slot]
        yield (
            f"{edge.name}: keys of {engine!r}: {len(set(cached) - set(resident))} missing, "
            f"{len(set(resident) - set(cached))} too many; {cursor!r}"
        )
    for known in edge.kv.conversations.by_name.values():
        if known.slot == replica.slot and 0 < known.born_ms < engine.born_ms:
            yield f"{edge.name}: {known.name} is at home with an earlier incarnation of {engine.id}"


def _missing(edge: WorldEdge, other: WorldEdge, living: set[str]) -> Iterator[str]:
    """States that one edge answers for and another one does not have."""
    for session, _, _ in edge.sessions:
        if edge.sessions.writer(session) not in living - {edge.name}:
            here, there = edge.sessions.state(session), other.sessions.state(session)
            assert here is not None
            if there is None or (there[1], there[0]) < (here[1], here[0]):
                yield f"{other.name}: lacks the pin of {session} that {edge.name} answers for: {here}, {there}"
    for known in edge.kv.conversations.by_name.values():
        if known.writer not in living - {edge.name}:
            copy = other.kv.conversations.by_name.get(known.name)
            if copy is None or known.rank[:-1] > copy.rank[:-1]:  # an edge may wait for the end of a request of its own
                yield f"{other.name}: lacks the conversation {known.name} that {edge.name} answers for: {known}, {copy}"
