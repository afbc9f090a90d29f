"""Messages of `pointsman up` while it runs: sentences for people, on standard error.

Standard output has the `ready:` lines and nothing else that appears before them. Writing never fails the writer: a
terminal that is gone must not end what supervises an edge.
"""

from __future__ import annotations

import signal
from contextlib import suppress

import msgspec
from rich.console import Console
from rich.status import Status


class Terminal:
    """Lines that stay, and one line of progress."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._status: Status | None = None
        self._progress = ""

    def say(self, line: str) -> None:
        """A line that stays."""
        with suppress(OSError):
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def progress(self, text: str) -> None:
        """Progress of the start: a spinner on a terminal, otherwise a line for each change."""
        if text == self._progress:
            return
        self._progress = text
        if not self._console.is_terminal:
            self.say(text)
            return
        with suppress(OSError):
            if self._status is None:
                self._status = self._console.status(text)
                self._status.start()
            else:
                self._status.update(text)

    def end_progress(self) -> None:
        """The start is over; the spinner goes."""
        if self._status is not None:
            with suppress(OSError):
                self._status.stop()
            self._status = None


def how_it_ended(code: int) -> str:
    """An exit code in words: a negative one is the number of a signal."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def as_people_read(line: str) -> str:
    """A line of a log: of a structured one what happened, and why; any other as it is."""
    if not line.startswith("{"):
        return line
    try:
        record = msgspec.json.decode(line, type=_Record)
    except msgspec.DecodeError:
        return line
    return f"{record.event}: {record.error}" if record.error else record.event


class _Record(msgspec.Struct):
    event: str
    error: str = ""
