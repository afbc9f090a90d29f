"""Sessions' pins, kept for a router that is started again on the same host.

`PinKeeper` owns the schedule: what changed is appended to the journal once in `SAVE_S`, and all of it is written anew
when the journal has grown to several times the table. Encoding and writing happen in a thread, never while a lookup
waits; on the loop only the names of what changed are collected. A router that is killed loses the pins of the last
second or so, and a pin in use is renewed on disk after a quarter of its time to live. A disk that does not take them is
logged, and tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from pointsman.router.core import Core
from pointsman.router.fleet.pin_journal import PinJournal, SavedPin
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.process.clock import Clock
from pointsman.router.process.saving import to_its_end

SAVE_S = 1.0
"""Between two looks at what changed: a killed router loses the pins of that time."""

MIN_REWRITE_PINS = 10_000
GROWTH = 2
"""The journal is written anew once so many pins, and so many times the table, were appended to it."""

RETRY_S = 5.0
"""After the disk did not take what changed."""

log = structlog.get_logger(__name__)

Row = tuple[str, str, int, float]
"""Session, replica id, moves and last-seen second, as `SessionTable` has them."""


class PinKeeper:
    """Pins, in a journal."""

    def __init__(self, journal: PinJournal, *, sessions: SessionTable, clock: Clock, wall: Clock) -> None:
        """`clock` is that of the table, `wall` the one that other processes have too."""
        self._journal = journal
        self._sessions = sessions
        self._clock = clock
        self._wall = wall
        self._appended = 0
        self._whole = True
        """The journal is to be written anew: nobody knows what is in it."""

    def load(self) -> int:
        """Takes over what was saved, and begins to note what changes; how many pins. What cannot be read is logged."""
        now_s, wall_s = self._clock(), self._wall()
        try:
            pins, is_complete = self._journal.load()
        except OSError as error:
            log.error("pins not restored", file=repr(self._journal), error=str(error))
            pins, is_complete = [], True
        if not is_complete:
            log.warning("pins restored in part, the file is damaged", file=repr(self._journal), pins=len(pins))
        # By session, since of two pins the later one counts, also where an expired one had moved more often.
        latest = {pin.session: pin for pin in pins}
        for pin in sorted(latest.values(), key=lambda pin: pin.seen_ms):
            seen_s = now_s - max(0.0, wall_s - pin.seen_ms / 1000)
            self._sessions.learn(pin.session, pin.replica, pin.moves, seen_s, now_s)
        self._sessions.unsaved = {}
        self._whole = not is_complete or len(pins) > GROWTH * len(self._sessions)
        self._appended = len(pins)
        return len(self._sessions)

    async def run(self) -> None:
        """Saves what changes until cancelled; nothing is being written any more then."""
        while True:
            await asyncio.sleep(SAVE_S)
            rows, whole = self._take()
            if not rows and not whole:
                continue
            saved = await to_its_end(self._write, rows, whole)
            if not saved:
                await asyncio.sleep(RETRY_S)

    def save(self) -> None:
        """Writes all of the table, at once; nothing where no session was ever pinned."""
        if len(self._sessions) or self._appended:
            self._write(self._sessions.export(), True)

    def _take(self) -> tuple[Iterable[Row], bool]:
        """Return the pins to write, and whether they are all. Takes the loop a few milliseconds at most."""
        sessions = self._sessions
        changed, sessions.unsaved = sessions.unsaved or {}, {}
        overrun, sessions.unsaved_overrun = sessions.unsaved_overrun, False
        if self._whole or overrun or self._appended + len(changed) > max(MIN_REWRITE_PINS, GROWTH * len(sessions)):
            return sessions.export_copy(), True
        states = ((session, sessions.state(session)) for session in changed)
        return [(session, *pin) for session, pin in states if pin is not None], False

    def _write(self, rows: Iterable[Row], whole: bool) -> bool:
        """Whether the disk took them. Runs in a thread."""
        offset_s = self._wall() - self._clock()
        pins = [
            SavedPin(session, replica, moves, int((seen_s + offset_s) * 1000))
            for session, replica, moves, seen_s in rows
        ]
        try:
            if whole:
                self._journal.rewrite(pins)
                self._appended = 0
            else:
                self._journal.append(pins)
        except OSError as error:
            self._sessions.save_errors += 1
            self._whole = True  # what was taken is saved with all the rest
            log.error("pins not saved", file=repr(self._journal), error=str(error))
            return False
        self._whole = False
        self._appended += len(pins)
        return True


def build_pin_keepers(state_file: str, core: Core, *, clock: Clock, wall: Clock) -> dict[str, PinKeeper]:
    """The keepers beside a state file, of pins and of versions that sessions of aliases began with, by the end of their
    files' names; none where nothing is kept on disk."""
    if not state_file:
        return {}
    return {
        kind: PinKeeper(PinJournal(Path(f"{state_file}.{kind}")), sessions=table, clock=clock, wall=wall)
        for kind, table in (("pins", core.sessions), ("versions", core.aliases.sessions))
    }
