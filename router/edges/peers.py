"""The other edges: how far each one's stream was read, whether it is alive, and the work it has in flight.

`Peers` owns one entry an edge. An edge is alive while its batches come; after `LEASE_S` without one it is dead to this
edge: its work in flight vanishes from the columns and comes back with its next heartbeat, which is complete. Time is
the reader's own, so no two clocks are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from pointsman.router.edges.records import EdgeInfo, Load
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.kv.columns import KVColumns

HEARTBEAT_S = 0.5
"""An edge publishes all its work in flight this often, changed or not."""

LEASE_S = 3.0
"""An edge silent for longer is dead. Six heartbeats: a Redis failover or a long pause of the collector is shorter."""

MEET_S = 2 * HEARTBEAT_S
"""An edge in the roster that is not heard for so long is taken for one that died before."""

FORGET_S = 600.0
"""A dead edge is remembered for so long: it may have been stopped, and go on where it was."""

MAX_PEERS = 256
"""Edges of one fleet, the dead of the last minutes included."""

JOIN_BATCHES = 4096
"""An edge that starts reads so much of each stream's past: 20 s of a busy edge, in which it repeats all its states."""

Counts = tuple[int, int, int]
"""Requests, tokens, and prompt tokens without a first token."""


class Peer:
    """One other edge."""

    def __init__(self, info: EdgeInfo, now_s: float) -> None:
        self.info = info
        self.past_to = info.seq
        """Batches up to this one were published before this edge met the other: their states count, their work in
        flight and hints are over."""
        self.position = max(0, info.seq - JOIN_BATCHES)
        """Number of the last batch that was read."""
        self.started = False
        """A batch was read: the next one without a gap has the next number."""
        self.round_open = False
        """No batch is missing since the start of its latest round."""
        self.in_step = False
        """No state that the edge answers for is missing here: a whole round was read, and every batch since."""
        self.alive = False
        self.met = False
        """The edge was alive, or was not heard for `MEET_S`."""
        self.heard_s = now_s
        """Time when the edge was alive last; when it was met, where it never was."""
        self.read_s = now_s
        """Time when a batch of the edge was read last."""
        self.refused = ""
        """Reason why its batches are not understood; empty while they are."""
        self.loads: dict[str, Counts] = {}
        """Work in flight by replica id."""
        self.holds: frozenset[str] = frozenset()
        """Replicas whose heartbeats reach it."""

    def __repr__(self) -> str:
        state = "alive" if self.alive else "silent"
        return f"Peer({self.info.edge}, {state}, at {self.position}{'' if self.in_step else ', a gap'})"

    @property
    def state(self) -> str:
        """One word for people: refused, silent, behind or in-step."""
        if self.refused:
            return "refused"
        if not self.alive:
            return "silent"
        return "in-step" if self.in_step else "behind"

    def advance(self, seq: int) -> bool:
        """Note that batch `seq` is read; False when a batch before it is missing."""
        whole = not self.started or seq == self.position + 1
        self.position, self.started = seq, True
        if not whole:
            self.missed()
        return whole

    def missed(self) -> None:
        """Note that states of a batch are missing: the next whole round repeats them."""
        self.in_step = self.round_open = False

    def follow_round(self, *, starts: bool, ends: bool) -> None:
        """Note that a batch of the edge's round was read."""
        self.round_open = self.round_open or starts
        self.in_step = self.in_step or (ends and self.round_open)


class Peers:
    """All other edges, and the columns `elsewhere`."""

    def __init__(self, own: str, *, replicas: ReplicaRegistry, load: LoadTable, columns: KVColumns) -> None:
        self._own = own
        self._replicas = replicas
        self._load = load
        self._columns = columns
        self._by_id: dict[str, Peer] = {}
        self._forgotten: list[str] = []
        self.died = 0
        """Edges that fell silent."""
        self.on_gone: list[Callable[[str], None]] = []
        """Called with the id of an edge that fell silent, or stops."""

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, edge: str) -> Peer | None:
        return self._by_id.get(edge)

    def is_alive(self, edge: str) -> bool:
        """Whether that edge is known and alive."""
        peer = self._by_id.get(edge)
        return peer is not None and peer.alive

    @property
    def alive(self) -> list[Peer]:
        return [peer for peer in self if peer.alive]

    @property
    def behind(self) -> list[Peer]:
        """Edges some of whose states are missing here; of an edge just met that is not known yet."""
        return [peer for peer in self if (peer.alive or not peer.met) and not (peer.in_step or peer.refused)]

    def meet(self, infos: Iterable[EdgeInfo], now_s: float) -> None:
        """Take over the roster: the edges that have a stream in the store."""
        for info in infos:
            peer = self._by_id.get(info.edge)
            if peer is not None:
                peer.info = info
            elif info.edge != self._own and len(self._by_id) < MAX_PEERS:
                self._by_id[info.edge] = Peer(info, now_s)

    def sweep(self, now_s: float) -> list[str]:
        """End edges that are silent; return the ids of those that were alive."""
        died = []
        for peer in list(self):
            silent_s = now_s - peer.heard_s
            if peer.alive and silent_s > LEASE_S:
                self.end(peer)
                self.died += 1
                died.append(peer.info.edge)
            if now_s - peer.read_s > MEET_S:
                peer.met = True
            if not peer.alive and silent_s > FORGET_S:
                del self._by_id[peer.info.edge]
                self._forgotten.append(peer.info.edge)
        return died

    def end(self, peer: Peer) -> None:
        """End an edge that fell silent or stops. What it held is remembered; its work in flight is not."""
        peer.alive = False
        self._replace_loads(peer, {})
        for gone in self.on_gone:
            gone(peer.info.edge)

    def take_forgotten(self) -> list[str]:
        """Return the edges that were forgotten since the last call: the roster need not name them."""
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    # Work in flight

    def update_loads(self, peer: Peer, loads: Iterable[Load], names: Sequence[str], *, complete: bool) -> None:
        """Take over what an edge has in flight: all of it, or where it changed. Raises IndexError for a bad name."""
        counts = {names[load.at]: (load.requests, load.tokens, load.waiting) for load in loads}
        if complete:
            self._replace_loads(peer, counts)
        else:
            for replica_id, some in counts.items():
                self._set_load(peer, replica_id, some)

    def _replace_loads(self, peer: Peer, loads: dict[str, Counts]) -> None:
        for replica_id in peer.loads.keys() - loads.keys():
            self._set_load(peer, replica_id, (0, 0, 0))
        for replica_id, counts in loads.items():
            self._set_load(peer, replica_id, counts)

    def _set_load(self, peer: Peer, replica_id: str, counts: Counts) -> None:
        before = peer.loads.get(replica_id, (0, 0, 0))
        if counts == before:
            return
        if any(counts):
            peer.loads[replica_id] = counts
        else:
            del peer.loads[replica_id]
        replica = self._replicas.get(replica_id)
        if replica is not None:
            self._add(replica.slot, counts, before)

    def _add(self, slot: int, counts: Counts, before: Counts = (0, 0, 0)) -> None:
        self._load.add_elsewhere(slot, counts[0] - before[0], counts[1] - before[1])
        if counts[2] != before[2]:
            self._columns.add_waiting_elsewhere(slot, counts[2] - before[2])

    def slot_added(self, slot: int) -> None:
        """Count what other edges have in flight already on a replica that came."""
        replica_id = self._replicas.ids[slot]
        for peer in self:
            counts = peer.loads.get(replica_id)
            if counts is not None:
                self._add(slot, counts)

    def hold(self, replica_id: str) -> bool:
        """Whether a replica's heartbeats reach an edge that is alive."""
        return any(peer.alive and replica_id in peer.holds for peer in self)

    def held(self, replica_id: str) -> bool:
        """Whether a replica's heartbeats reached an edge that is dead: whether they go on is not known."""
        return any(replica_id in peer.holds for peer in self if not peer.alive)
