"""Where each session lives.

`SessionTable` owns pins: session key -> replica id, with the time it was last seen. A pin not seen for the reader's
`ttl_s` is as good as none; the table holds at most `max_sessions`, the least recently seen goes first. Pins name the
replica, not its slot, so a pin never leads to another replica that took the slot over.

Between edges the pin that moved more often is right, and of two that moved as often the one to the greater replica id:
so edges that heard the same pins, in any order, have the same table. `changed` collects what other edges do not know.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_SESSIONS = 200_000
"""About 60 MB. Agents hold a session for minutes to hours; one edge with more live ones than this is rare."""

MAX_CHANGED = 65_536
"""Sessions waiting to be told: about 6 MB. Beyond, they are dropped and the other edges ask for a snapshot."""

DEFAULT_TTL_S = 3600.0

RETELL_SHARE = 0.25
"""A pin in use is told again after this share of its TTL, so that it does not end elsewhere."""


class SessionTable:
    """Bounded pins with least-recently-seen eviction. Reads change nothing; `pin` is the one writer."""

    def __init__(self, *, max_sessions: int = MAX_SESSIONS) -> None:
        self._max = max_sessions
        # Replica, last seen, moves, last told; insertion order is last-seen order.
        self._pins: dict[str, tuple[str, float, int, float]] = {}
        self._retell_s = RETELL_SHARE * DEFAULT_TTL_S
        self.changed: dict[str, None] | None = None
        """Sessions to tell other edges of, at most `MAX_CHANGED`; None where there are none."""
        self.overrun = False
        """More changed than that: what is told next has a gap before it."""
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
        for session, (replica, seen_s, _, _) in self._pins.copy().items():
            yield session, replica, seen_s

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
        moves, told_s = 1, now_s
        if before is None:
            self._make_room()
        elif before[0] == replica:
            moves = before[2]
            if now_s - before[3] < self._retell_s:
                told_s = before[3]
        else:
            moves = before[2] + 1
        self._pins[session] = (replica, now_s, moves, told_s)
        if told_s == now_s:
            if self.changed is not None:
                self.changed[session] = None
                if len(self.changed) > MAX_CHANGED:
                    self.changed.clear()
                    self.overrun = True
            if self.unsaved is not None:
                self.unsaved[session] = None
                if len(self.unsaved) > MAX_CHANGED:
                    self.unsaved.clear()
                    self.unsaved_overrun = True

    def told(self, session: str) -> tuple[str, int, float] | None:
        """Return the pin of a session to publish: replica id, moves, last seen; None when it is not pinned."""
        pin = self._pins.get(session)
        return None if pin is None else (pin[0], pin[2], pin[1])

    def learn(self, session: str, replica: str, moves: int, seen_s: float, now_s: float) -> bool:
        """Takes over what another edge said of a session; True if it knew better."""
        before = self._pins.get(session)
        if before is not None:
            if (before[2], before[0]) > (moves, replica):
                return False
            seen_s = max(seen_s, before[1])
            del self._pins[session]
        else:
            self._make_room()
        self._pins[session] = (replica, seen_s, moves, now_s)
        return True

    def _make_room(self) -> None:
        if len(self._pins) >= self._max:
            del self._pins[next(iter(self._pins))]
            self.evicted += 1

    def forget(self, session: str) -> bool:
        return self._pins.pop(session, None) is not None

    def expire(self, now_s: float, ttl_s: float) -> int:
        """Drops pins not seen for `ttl_s`; how many."""
        self._retell_s = RETELL_SHARE * ttl_s
        stale = []
        for session, (_, seen_s, _, _) in self._pins.items():
            if now_s - seen_s <= ttl_s:
                break
            stale.append(session)
        for session in stale:
            del self._pins[session]
        return len(stale)
