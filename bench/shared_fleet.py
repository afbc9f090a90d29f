"""The simulator's fleet with the real protocol between its edges instead of states that arrive by themselves.

Each edge has an `EdgeProtocol`; a batch is made every `FLUSH_S` of virtual time and read `TRAVEL_S` later. Engines
report to every edge.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pointsman.router.edges.build import join
from pointsman.router.edges.protocol import EdgeProtocol
from pointsman.router.edges.records import EdgeInfo
from pointsman.simulator.edge import Edge
from pointsman.simulator.fleet import Request, VirtualFleet
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
        self._protocols = [self._join(number, edge) for number, edge in enumerate(self.edges)]
        for protocol in self._protocols:
            protocol.peers.meet([EdgeInfo(edge=other.edge) for other in self._protocols], 0.0)
        self._clock.at(0.0, self._tick)

    def _join(self, number: int, edge: Edge) -> EdgeProtocol:
        protocol = join(edge.core, f"e{number}", documents={})
        protocol.registry_changed()
        return protocol

    def _tick(self, now_s: float) -> None:
        for protocol in self._protocols:
            outgoing = protocol.next_batch(now_s)
            if outgoing is not None:
                self.told_bytes += len(outgoing.payload)
                self._clock.at(now_s + TRAVEL_S, partial(self._read, protocol.edge, outgoing.seq, outgoing.payload))
            protocol.peers.sweep(now_s)
        if len(self._served) < self._turns:
            self._clock.at(now_s + FLUSH_S, self._tick)

    def _read(self, edge: str, seq: int, payload: bytes, now_s: float) -> None:
        for protocol in self._protocols:
            if protocol.edge != edge:
                protocol.receive(edge, seq, payload, now_s)
