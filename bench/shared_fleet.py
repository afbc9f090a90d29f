"""The simulator's fleet with the real protocol between its edges instead of words that arrive by themselves.

Each edge is a `Member`; a batch is made every `FLUSH_S` of virtual time and heard `TRAVEL_S` later. An engine tells one
edge alone; the others follow it there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pointsman.contract.events import EngineEvents
from pointsman.router.edges.build import join
from pointsman.router.edges.member import Member
from pointsman.router.edges.records import EdgeInfo
from pointsman.simulator.edge import Edge
from pointsman.simulator.fleet import Request, VirtualFleet
from pointsman.simulator.replica import VirtualReplica
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.trace import Trace

FLUSH_S = 0.005
TRAVEL_S = 0.005


class RecordedFleet(VirtualFleet):
    """One run that remembers where each turn of a session went."""

    def __init__(self, trace: Trace, policy: dict[str, Any], settings: FleetSettings, *, seed: int) -> None:
        super().__init__(trace, policy, settings, seed=seed)
        self.told_bytes = 0
        self._last: dict[str, int] = {}
        self._kept = self._moved = 0

    @property
    def stayed(self) -> float:
        """Share of later turns that went where the turn before went."""
        return self._kept / max(1, self._kept + self._moved)

    def _finish(self, request: Request, at_s: float) -> None:
        before = self._last.get(request.session.id)
        if before is not None:
            self._kept += before == request.replica
            self._moved += before != request.replica
        self._last[request.session.id] = request.replica
        super()._finish(request, at_s)


class SharedFleet(RecordedFleet):
    """One run, with several routers."""

    def __init__(self, trace: Trace, policy: dict[str, Any], settings: FleetSettings, *, seed: int) -> None:
        super().__init__(trace, policy, settings, seed=seed)
        self._turns = sum(len(session.turns) for session in trace.sessions)
        self._members = [self._join(number, edge) for number, edge in enumerate(self._edges)]
        for member in self._members:
            member.roster([EdgeInfo(edge=other.edge) for other in self._members], 0.0)
        self._at(0.0, self._tick)

    def _join(self, number: int, edge: Edge) -> Member:
        for replica in self._replicas:
            if self._ear_of(replica) is not edge:
                edge.kv.unheard(replica.index)
        member = join(edge.core, f"e{number}", documents={})
        member.registry_changed()
        return member

    def _ear_of(self, replica: VirtualReplica) -> Edge:
        return self._edges[replica.index % len(self._edges)]

    def _tick(self, now_s: float) -> None:
        for member in self._members:
            outgoing = member.next_batch(now_s)
            if outgoing is not None:
                self.told_bytes += len(outgoing.payload)
                self._at(now_s + TRAVEL_S, partial(self._hear, member.edge, outgoing.seq, outgoing.payload))
            member.sweep(now_s)
        if len(self._served) < self._turns:
            self._at(now_s + FLUSH_S, self._tick)

    def _hear(self, edge: str, seq: int, payload: bytes, now_s: float) -> None:
        for member in self._members:
            if member.edge != edge:
                member.hear(edge, seq, payload, now_s)

    def _tell(self, replica: VirtualReplica, message: EngineEvents, at_s: float) -> None:
        """A replica's messages reach one edge, which tells the others."""
        self._at(at_s + self._settings.event_lag_s, partial(self._arrive, replica, message))

    def _arrive(self, replica: VirtualReplica, message: EngineEvents, now_s: float) -> None:
        self._ear_of(replica).heard(replica.index, message, now_s)
