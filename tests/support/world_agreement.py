"""What edges of a simulated world must agree on, with each other and with what is so, once it is quiet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from world_edges import Site, WorldEdge
from world_engines import WorldEngine

Placed = Mapping[tuple[str, str], tuple[int, str]]
"""By session and engine: the engine's life that a last request came to, and the edge that placed it if it heard that
life; else nothing."""


def disagreements(sites: Sequence[Site], engines: Sequence[WorldEngine], placed: Placed) -> list[str]:
    """What is not as it must be once quiet."""
    edges = [site.edge for site in sites if site.edge is not None]
    known = {edge.name: edge.knows() for edge in edges}
    found = []
    first = edges[0].name
    for edge in edges[1:]:
        for kind, here in known[first].items():
            there = known[edge.name][kind]
            if here != there:
                found.append(f"{kind}: {first} and {edge.name} differ: {difference(here, there)}")
    for edge in edges:
        found += _wrong(edge, known[edge.name], sites, engines)
        found += _haunted(edge, engines, placed)
    return found


def _wrong(edge: WorldEdge, knows: dict[str, Any], sites: Sequence[Site], engines: Sequence[WorldEngine]) -> list[str]:
    """What one edge has otherwise than the world is."""
    name, wrong = edge.name, []
    for kind in ("in flight", "tokens in flight", "waiting"):
        wrong += [f"{name}: {kind} on {replica}: {n}" for replica, n in knows[kind].items() if n]
    wrong += [f"{name}: {request} is still reserved" for request in sorted(edge.reserved())]
    for engine in engines:
        if engine.leased and engine.alive and engine.id not in knows["replicas"]:
            wrong.append(f"{name}: {engine.id} lives and is not registered")
        if engine.leased and not engine.alive and engine.id in knows["replicas"]:
            wrong.append(f"{name}: {engine.id} is dead and registered")
        resident = knows["resident"].get(engine.id)
        if engine.alive and engine.reports and resident is not None and resident != sorted(engine.cache):
            feed = edge.kv.feed(edge.replicas.slot_of(engine.id))
            wrong.append(f"{name}: keys of {engine!r}: {difference(sorted(engine.cache), resident)}; {feed!r}")
    living = {site.edge.name for site in sites if site.edge is not None} - {name}
    for peer in edge.member.peers:
        if peer.info.edge in living and not (peer.alive and peer.based):
            wrong.append(f"{name}: {peer!r} lives")
        if peer.info.edge not in living and (peer.alive or peer.loads):
            wrong.append(f"{name}: {peer!r} is dead and counts {peer.loads}")
    missing = living - {peer.info.edge for peer in edge.member.peers}
    wrong += [f"{name}: does not know {other}" for other in sorted(missing)]
    wrong += [f"{name}: {why}" for why in edge.readiness.impaired()]
    return wrong


def _haunted(edge: WorldEdge, engines: Sequence[WorldEngine], placed: Placed) -> list[str]:
    """Conversations that are at home with an engine whose life began after their last request there, though the edge
    that placed it heard the life before. Where nobody knew that life they may stay until they are forgotten."""
    by_id = {engine.id: engine for engine in engines}
    found = []
    for known in edge.kv.conversations:
        engine = by_id.get(edge.replicas.ids[known.slot])
        if engine is not None and engine.alive and engine.reports:
            life, heard_by = placed.get((str(known.name), engine.id), (engine.life, ""))
            if life < engine.life and heard_by == edge.name:
                found.append(f"{edge.name}: conversations: {known.name} is at home with a life of {engine.id} before")
    return found


def difference(here: Any, there: Any) -> str:
    """Of two alike things, what differs."""
    if isinstance(here, dict) and isinstance(there, dict):
        keys = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
        return ", ".join(f"{key}: {difference(here.get(key), there.get(key))}" for key in keys[:4])
    if isinstance(here, list) and isinstance(there, list):
        return f"{len(set(here) - set(there))} only in the first, {len(set(there) - set(here))} only in the second"
    return f"{here!r} and {there!r}"
