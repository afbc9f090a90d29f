"""Where each session lives.

`SessionTable` owns pins: session key -> replica id, with the time it was last seen. A pin not seen for the reader's
`ttl_s` is as good as none; the table holds at most `max_sessions`, the least recently seen goes first. Pins name the
replica, not its slot, so a pin never leads to another replica that took the slot over.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_SESSIONS = 200_000
"""About 60 MB. Agents hold a session for minutes to hours; one edge with more live ones than this is rare."""

DEFAULT_TTL_S = 3600.0


class SessionTable:
    """Bounded pins with least-recently-seen eviction. Reads change nothing; `pin` is the one writer."""

    def __init__(self, *, max_sessions: int = MAX_SESSIONS) -> None:
        self._max = max_sessions
        self._pins: dict[str, tuple[str, float]] = {}  # insertion order is last-seen order
        self.evicted = 0
        """Pins dropped because the table was full."""

    def __len__(self) -> int:
        return len(self._pins)

    def __iter__(self) -> Iterator[tuple[str, str, float]]:
        """Session, replica id and last-seen second, least recently seen first."""
        for session, (replica, seen_s) in self._pins.items():
            yield session, replica, seen_s

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
        if self._pins.pop(session, None) is None and len(self._pins) >= self._max:
            del self._pins[next(iter(self._pins))]
            self.evicted += 1
        self._pins[session] = (replica, now_s)

    def forget(self, session: str) -> bool:
        return self._pins.pop(session, None) is not None

    def expire(self, now_s: float, ttl_s: float) -> int:
        """Drops pins not seen for `ttl_s`; how many."""
        stale = []
        for session, (_, seen_s) in self._pins.items():
            if now_s - seen_s <= ttl_s:
                break
            stale.append(session)
        for session in stale:
            del self._pins[session]
        return len(stale)
