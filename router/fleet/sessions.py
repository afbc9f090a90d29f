"""Where each session lives.

`SessionTable` owns pins: session key -> replica id, with the time it was last seen. A pin not seen for the reader's
`ttl_s` is as good as none; the table holds at most `max_sessions`, the least recently seen goes first. Pins name the
replica, not its slot, so a pin never leads to another replica that took the slot over.

Between edges the pin that moved more often is right, and of two that moved as often the one to the greater replica id,
in whatever order they arrive. `changed` collects pins that other edges have not been sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MAX_SESSIONS = 200_000
"""About 60 MB. Agents hold a session for minutes to hours; one edge with more live ones than this is rare."""

MAX_CHANGED = 65_536
"""Sessions waiting to be published, or saved: about 6 MB. Beyond, they are dropped, and repeated later."""

DEFAULT_TTL_S = 3600.0

REPUBLISH_SHARE = 0.25
"""A pin in use is published again after this share of its TTL, so that it does not end on other edges."""

REFRESH_S = 1.0
"""A pin that another edge saw in use later than this one did is renewed when it is by so much."""


class SessionTable:
    """Bounded pins with least-recently-seen eviction. Reads change nothing; `pin` is the one writer."""

    def __init__(self, *, max_sessions: int = MAX_SESSIONS) -> None:
        self._max = max_sessions
        # Replica, last seen, moves, last published, writer; insertion order is nearly last-seen order.
        self._pins: dict[str, tuple[str, float, int, float, str]] = {}
        self._republish_s = REPUBLISH_SHARE * DEFAULT_TTL_S
        self.ordered: dict[str, None] = {}
        """Pinned sessions that an operator moved, and none of whose requests followed yet."""
        self.changed: dict[str, None] | None = None
        """Sessions whose pins other edges have not been sent, at most `MAX_CHANGED`; None on an edge that is alone."""
        self.unsaved: dict[str, None] | None = None
        """Sessions whose pins are to be saved, at most `MAX_CHANGED`; None where nobody saves any."""
        self.unsaved_overrun = False
        """More changed than that: all pins are to be saved."""
        self.save_errors = 0
        """Times pins could not be written to disk."""
        self.evicted = 0
        """Pins dropped because the table was full."""

    def __len__(self) -> int:
        return len(self._pins)

    def __iter__(self) -> Iterator[tuple[str, str, float]]:
        """Session, replica id and last-seen second, least recently seen first; as they were when the walk began."""
        for session, (replica, seen_s, *_) in self._pins.copy().items():
            yield session, replica, seen_s

    def names(self) -> list[str]:
        """All pinned sessions at this moment."""
        return list(self._pins)

    def homes(self) -> Sequence[tuple[str, float, int, float, str]]:
        """All pins at this moment, without their sessions; the replica id comes first."""
        return list(self._pins.values())

    def writer(self, session: str) -> str | None:
        """Id of the other edge that published the pin of a session; empty for this edge, None without a pin."""
        pin = self._pins.get(session)
        return None if pin is None else pin[4]

    def export(self) -> list[tuple[str, str, int, float]]:
        """Session, replica id, moves and last-seen second of all pins, least recently seen first."""
        return [(session, pin[0], pin[2], pin[1]) for session, pin in self._pins.items()]

    def export_copy(self) -> Iterator[tuple[str, str, int, float]]:
        """Iterate over a copy of the pins, made one by one, for a thread that takes its time."""
        pins = self._pins.copy()
        return ((session, pin[0], pin[2], pin[1]) for session, pin in pins.items())

    def __repr__(self) -> str:
        return f"SessionTable({len(self._pins)} of {self._max})"

    def get(self, session: str, now_s: float, ttl_s: float) -> str | None:
        """The replica id a session is pinned to, if it was seen within `ttl_s`."""
        pin = self._pins.get(session)
        if pin is None or now_s - pin[1] > ttl_s:
            return None
        return pin[0]

    def pin(self, session: str, replica: str, now_s: float) -> None:
        """Pins or renews."""
        before = self._pins.pop(session, None)
        moves, published_s = 1, now_s
        if before is None:
            self._make_room()
        elif before[0] == replica:
            moves = before[2]
            if now_s - before[3] < self._republish_s:
                published_s = before[3]
        else:
            moves = before[2] + 1
        self._pins[session] = (replica, now_s, moves, published_s, "")
        if published_s == now_s:
            self._note_changed(session)

    def move(self, session: str, replica: str, now_s: float) -> None:
        """Pins a session as an operator orders: whatever policy decides, its next request goes there if it can."""
        self._repin(session, replica, now_s)
        self.ordered[session] = None

    def followed(self, session: str, replica: str, now_s: float) -> None:
        """Ends the order that moved a session, if there is one: a request of it went to a replica."""
        if session in self.ordered:
            del self.ordered[session]
            self._repin(session, replica, now_s)

    def _repin(self, session: str, replica: str, now_s: float) -> None:
        """Pins with one move more, also to the same replica: other edges take it for later than what they have."""
        before = self._pins.pop(session, None)
        if before is None:
            self._make_room()
        moves = 1 if before is None else before[2] + 1
        self._pins[session] = (replica, now_s, moves, now_s, "")
        self._note_changed(session)

    def _note_changed(self, session: str) -> None:
        """Notes that other edges, and the disk, lack the pin of a session."""
        if self.changed is not None:
            self.changed[session] = None
            if len(self.changed) > MAX_CHANGED:
                self.changed.clear()
        if self.unsaved is not None:
            self.unsaved[session] = None
            if len(self.unsaved) > MAX_CHANGED:
                self.unsaved.clear()
                self.unsaved_overrun = True

    def state(self, session: str) -> tuple[str, int, float] | None:
        """The pin of a session as edges publish it: replica id, moves, last seen; None when it is not pinned."""
        pin = self._pins.get(session)
        return None if pin is None else (pin[0], pin[2], pin[1])

    def learn(
        self,
        session: str,
        replica: str,
        moves: int,
        seen_s: float,
        now_s: float,
        *,
        writer: str = "",
        ordered: bool = False,
    ) -> bool:
        """Takes over a pin that another edge published, or that was saved; True if it changes this one.

        - `moves`, `replica`: of two pins the greater pair is right.
        - `seen_s`: when the session was seen there.
        - `writer`: id of the edge that answers for the pin; empty for this one.
        - `ordered`: an operator moved the session, and no request of it followed yet.
        """
        before = self._pins.get(session)
        if before is not None:
            known = (before[2], before[0])
            if known > (moves, replica) or (known == (moves, replica) and seen_s < before[1] + REFRESH_S):
                return False
            seen_s = max(seen_s, before[1])
            del self._pins[session]
        else:
            self._make_room()
        self._pins[session] = (replica, seen_s, moves, now_s, writer)
        if ordered:
            self.ordered[session] = None
        elif self.ordered:
            self.ordered.pop(session, None)
        return True

    def _make_room(self) -> None:
        if len(self._pins) >= self._max:
            oldest = next(iter(self._pins))
            del self._pins[oldest]
            self.ordered.pop(oldest, None)
            self.evicted += 1

    def forget(self, session: str) -> bool:
        """Drops the pin of a session; False where there is none."""
        self.ordered.pop(session, None)
        if self.unsaved is not None:
            self.unsaved_overrun = True  # a file that only grows cannot say that a pin is gone
        return self._pins.pop(session, None) is not None

    def expire(self, now_s: float, ttl_s: float) -> int:
        """Drops pins not seen for `ttl_s`; how many."""
        self._republish_s = REPUBLISH_SHARE * ttl_s
        stale = []
        for session, (_, seen_s, *_) in self._pins.items():
            if now_s - seen_s <= ttl_s:
                break
            stale.append(session)
        for session in stale:
            del self._pins[session]
            self.ordered.pop(session, None)
        return len(stale)
