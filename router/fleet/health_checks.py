"""The last health check of each replica, as HAProxy describes it.

`HealthChecks` owns one entry a slot: what a look at HAProxy found, unread, and when that was. Health itself is the
registry's (`pointsman.router.fleet.replicas`); this is for people who ask why.
"""

from __future__ import annotations

from typing import NamedTuple

from pointsman.haproxy.last_check import CheckRow, LastCheck


class SeenCheck(NamedTuple):
    """A health check, and when it was seen."""

    check: LastCheck
    seen_s: float
    """Time of the look at HAProxy that found it: the check itself ended at most one look earlier."""


class HealthChecks:
    """Last health checks by slot."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[CheckRow, float]] = {}

    def __repr__(self) -> str:
        return f"HealthChecks({len(self._rows)} replicas)"

    def saw(self, slot: int, row: CheckRow | None, now_s: float) -> None:
        """Notes what a look at HAProxy found of a replica; None where it found no check."""
        if row is None:
            self._rows.pop(slot, None)
        else:
            self._rows[slot] = row, now_s

    def clear_slot(self, slot: int) -> None:
        """Forgets the check of a replica that left."""
        self._rows.pop(slot, None)

    def of(self, slot: int) -> SeenCheck | None:
        """Return the last check of a replica; None where none ended, or nobody looked."""
        seen = self._rows.get(slot)
        check = seen[0].read() if seen is not None else None
        return SeenCheck(check, seen[1]) if seen is not None and check is not None else None
