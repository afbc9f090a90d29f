"""What is known of the other edges: how far each was followed, whether it lives, and the work it has in flight.

`Peers` owns one entry an edge. An edge lives while its batches come; one that is silent for `LEASE_S` is dead to us:
its counts vanish from our columns and come back with its next heartbeat, which tells all of them. Time is the reader's
own, so no two clocks are compared.

What a dead edge said is worth as much as what a living one says, and it cannot be asked for it. So all tell which of
its batches they know (`Peer.known`), and of edges that they never met they learn from each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pointsman.router.edges.records import EdgeInfo, Known, Load
from pointsman.router.edges.spans import Spans
from pointsman.router.fleet.load import LoadTable
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.kv.columns import KVColumns

HEARTBEAT_S = 0.5
"""An edge says all its counts this often, changed or not."""

LEASE_S = 3.0
"""An edge silent for longer is dead. Six heartbeats: a Redis failover or a long pause of the collector is shorter."""

FORGET_S = 600.0
"""A dead edge is remembered for so long: it may have been stopped, and go on where it was."""

REMEMBER_S = FORGET_S / 2
"""Of an edge that is dead for less others may learn from each other. Less than `FORGET_S` by more than a word takes."""

MAX_PEERS = 256
"""Edges of one fleet, the dead of the last minutes included."""

MAX_REMEMBERED = MAX_PEERS // 2
"""While more are known none is learned that is dead: who lives must find room."""

JOIN_FROM_START = 4096
"""The stream of an edge with at most so many batches is read from its beginning; a longer one is joined at its end, and
a snapshot says the rest better."""

Counts = tuple[int, int, int]


class Peer:
    """One other edge."""

    __slots__ = (
        "alive", "based", "gone", "heard_s", "holds", "info", "known", "loads", "newest", "position", "reached",
        "refused", "silent", "since", "warm",
    )  # fmt: skip

    def __init__(self, info: EdgeInfo, position: int | None, now_s: float) -> None:
        self.info = info
        self.position = position
        """The last batch that was applied; None: any may be the first."""
        self.based = False
        """Nothing it ever said is missing here."""
        self.alive = False
        self.warm = False
        self.heard_s = now_s
        self.newest = 0
        """The latest batch that was ever applied. Less than `position` never, more while a snapshot's rest is read."""
        self.since = self.reached = 0
        """Batches after the one and up to the other were all read, whatever is read again or missing before."""
        self.known = Spans()
        """Batches whose states are known here: read, or known to who made a snapshot that was taken. What an engine
        said in them may be missing, since that needs all before it."""
        self.refused = ""
        """Why its batches are not understood; empty while they are."""
        self.loads: dict[str, Counts] = {}
        """Replica id -> requests, tokens, prompt tokens waiting."""
        self.holds: frozenset[str] = frozenset()
        self.silent: dict[str, int] = {}
        """Of edges that say no more, the last batch that it has."""
        self.gone: list[Known] = []
        """The states that it knows of those."""

    @property
    def whole_to(self) -> int | None:
        """Its last batch here before which nothing is missing. Beyond `position` where that went back to a snapshot's,
        and perhaps to batches that the store does not have any more; None while something is missing."""
        if not self.based or self.position is None:
            return None
        return max(self.position, self.reached) if self.since <= self.position else self.position

    def read(self, seq: int) -> None:
        """That batch is read."""
        if not self.since <= seq - 1 <= self.reached:
            self.since = self.reached = seq - 1
        self.reached = max(self.reached, seq)
        self.known.add(seq - 1, seq)

    def unread(self, seq: int) -> None:
        """Of that batch something is not understood."""
        self.based = False
        self.since = self.reached = seq

    def told(self, now_s: float) -> Known:
        """What others are told of it."""
        return Known(self.info.edge, self.known.bounds, int((now_s - self.heard_s) * 1000))

    def __repr__(self) -> str:
        state = "alive" if self.alive else "silent"
        return f"Peer({self.info.edge}, {state}, at {self.position}{'' if self.based else ', a gap'})"


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

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, edge: str) -> Peer | None:
        return self._by_id.get(edge)

    @property
    def alive(self) -> list[Peer]:
        return [peer for peer in self if peer.alive]

    def roster(self, infos: Iterable[EdgeInfo], now_s: float) -> None:
        """Who has a stream in the store."""
        for info in infos:
            if info.edge == self._own:
                continue
            peer = self._by_id.get(info.edge)
            if peer is not None:
                peer.info = info
                if not peer.newest and peer.position is None and info.seq <= JOIN_FROM_START:
                    peer.position = 0  # others spoke of it before it was met
            elif len(self._by_id) < MAX_PEERS:
                position = 0 if info.seq <= JOIN_FROM_START else None
                self._by_id[info.edge] = Peer(info, position, now_s)

    def heard(self, peer: Peer, now_s: float) -> None:
        peer.heard_s = now_s
        peer.alive = True

    def sweep(self, now_s: float) -> list[str]:
        """Ends who is silent, and takes note of whom others know; the ids of those that ended."""
        died = []
        for peer in list(self):
            silent_s = now_s - peer.heard_s
            if peer.alive and silent_s > LEASE_S:
                peer.alive = peer.warm = False
                self._replace_loads(peer, {})
                self.died += 1
                died.append(peer.info.edge)
            if not peer.alive and silent_s > FORGET_S:
                del self._by_id[peer.info.edge]
                self._forgotten.append(peer.info.edge)
        for peer in self.alive:
            # What is read late says how long edges were silent then.
            if peer.position is not None and peer.position >= peer.info.seq:
                self.remember(peer.gone, peer.heard_s)
        return died

    def take_forgotten(self) -> list[str]:
        """Edges that were forgotten since the last call: nobody else needs to know them."""
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def known(self, now_s: float) -> list[Known]:
        """What is known here of all."""
        return [peer.told(now_s) for peer in self]

    def gone(self, now_s: float) -> list[Known]:
        """The same of edges that say no more."""
        return [peer.told(now_s) for peer in self if not peer.alive]

    def remember(self, known: Iterable[Known], now_s: float) -> None:
        """Edges that another spoke of at that time, and that came and went unheard here. They are forgotten when they
        are there: else each would learn them from the next for good."""
        for one in known:
            silent_s = one.age_ms / 1000
            if one.edge == self._own or one.edge in self._by_id or silent_s >= REMEMBER_S:
                continue
            if len(self._by_id) < MAX_REMEMBERED:
                self._by_id[one.edge] = Peer(EdgeInfo(edge=one.edge), None, now_s - silent_s)

    def silent(self) -> dict[str, int]:
        """Edges that say no more and of which nothing is missing, with their last batch here."""
        return {peer.info.edge: whole for peer in self if not peer.alive and (whole := peer.whole_to) is not None}

    def behind(self) -> list[Peer]:
        """Living edges that know what is missing here: of their own words, or of those of edges that say no more, whose
        last batches the store may have lost before this edge read them."""
        return [
            peer
            for peer in self
            if peer.alive
            and not peer.refused
            and (not peer.based or self._outlived(peer.silent) or self._heard_more(peer.gone))
        ]

    def _outlived(self, silent: Mapping[str, int]) -> bool:
        for edge, position in silent.items():
            peer = self._by_id.get(edge)
            if peer is not None and not peer.alive and (peer.whole_to or 0) < position:
                return True
        return False

    def _heard_more(self, gone: Iterable[Known]) -> bool:
        """Whether somebody knows batches that are missing here, and may never have been told to anybody else."""
        for one in gone:
            peer = self._by_id.get(one.edge)
            if peer is not None and not peer.alive and not peer.known.cover(one.spans):
                return True
        return False

    def leave(self, peer: Peer) -> None:
        """It said that it goes. What it held is remembered like that of one that fell silent."""
        peer.alive = peer.warm = False
        self._replace_loads(peer, {})

    # Work in flight

    def tell_loads(self, peer: Peer, loads: Iterable[Load], names: Sequence[str], *, complete: bool) -> None:
        """An edge said what it has in flight: all of it, or where it changed. Raises IndexError for a bad name."""
        said = {names[load.at]: (load.requests, load.tokens, load.waiting) for load in loads}
        if complete:
            self._replace_loads(peer, said)
        else:
            for replica_id, counts in said.items():
                self._set_load(peer, replica_id, counts)

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
        """A replica came of which other edges may have spoken already."""
        replica_id = self._replicas.ids[slot]
        for peer in self:
            counts = peer.loads.get(replica_id)
            if counts is not None:
                self._add(slot, counts)

    def holders(self, replica_id: str) -> list[Peer]:
        """Living edges that a replica's heartbeats come to."""
        return [peer for peer in self if peer.alive and replica_id in peer.holds]

    def orphaned(self, replica_id: str) -> bool:
        """Whether all edges a replica's heartbeats went to are silent: who listens there is not known."""
        return any(replica_id in peer.holds for peer in self if not peer.alive)

    def validate(self) -> None:
        """Raises AssertionError when the columns are not the sum of what edges said."""
        for replica in self._replicas:
            said = [peer.loads.get(replica.id, (0, 0, 0)) for peer in self]
            requests, tokens, waiting = (sum(part) for part in zip((0, 0, 0), *said, strict=True))
            slot = replica.slot
            assert self._load.elsewhere[slot] == requests, f"{replica.id}: requests elsewhere"
            assert self._load.elsewhere_tokens[slot] == tokens, f"{replica.id}: tokens elsewhere"
            assert self._columns.waiting_elsewhere[slot] == waiting, f"{replica.id}: waiting elsewhere"
