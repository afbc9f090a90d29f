"""Reports of usage that routers have not kept yet, in one engine.

`UsageReports` owns the reports of one incarnation, numbered from 0, and knows how far each router has read. A report is
dropped once all routers have kept it, or when there are too many: then the oldest go, and are lost to the routers that
were away for so long.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from pointsman.contract.events import RequestUsage

MAX_REPORTS = 32_768
"""Reports that wait for a router: minutes of a busy engine, and 8 MB. When met, the oldest goes."""

MAX_SENT = 4096
"""Reports in one message, whose limit of 8 MiB they share with prefix keys."""


class UsageReader:
    """The position of one router in the reports."""

    def __init__(self, reports: UsageReports) -> None:
        self._reports = reports
        self.reads = False
        """Whether the router reads reports: one of an earlier version would refuse a message that has some."""
        self.kept_to = reports.begin
        """Number of the first report that the router has not kept."""
        self._sent_to = reports.begin

    @property
    def waits(self) -> bool:
        """Whether reports wait to be sent."""
        return self.reads and self._sent_to < self._reports.end

    def take(self) -> tuple[int, list[RequestUsage]]:
        """The reports to send next, and the number of the first."""
        if not self.waits:
            return 0, []
        begin = max(self._sent_to, self._reports.begin)
        usage = self._reports.some(begin)
        self._sent_to = begin + len(usage)
        return begin, usage

    def again(self) -> None:
        """Send again what the router has not kept: nobody knows what of it arrived."""
        self._sent_to = self.kept_to

    def kept(self, number: int) -> None:
        """The router answered that it has kept all reports before this number; -1: it reads none."""
        self.reads = number >= 0
        if not self.reads:
            self._sent_to = self.kept_to = self._reports.end
        else:  # a router that was restored from a copy may have kept less than it once said
            self.kept_to = min(number, self._sent_to)
        self._reports.trim()


class UsageReports:
    """The reports that wait, and their readers."""

    def __init__(self) -> None:
        self._waiting: deque[RequestUsage] = deque()
        self._readers: list[UsageReader] = []
        self.begin = 0
        """Number of the oldest report that is there."""
        self.lost = 0
        """Reports dropped before all routers had kept them."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def end(self) -> int:
        """Number of the next report."""
        return self.begin + len(self._waiting)

    def read(self) -> UsageReader:
        """A reader that begins with the oldest report."""
        reader = UsageReader(self)
        self._readers.append(reader)
        return reader

    def leave(self, reader: UsageReader) -> None:
        """Wait for a router no longer."""
        self._readers.remove(reader)
        self.trim()

    def add(self, usage: RequestUsage) -> None:
        """Take in one report; the oldest goes where there are too many."""
        self._waiting.append(usage)
        if len(self._waiting) > MAX_REPORTS:
            self._waiting.popleft()
            self.begin += 1
            self.lost += 1

    def some(self, number: int) -> list[RequestUsage]:
        """At most `MAX_SENT` reports from a number on."""
        begin = number - self.begin
        return list(islice(self._waiting, begin, begin + MAX_SENT))

    def trim(self) -> None:
        """Drop what all routers have kept."""
        if not self._readers:
            return
        kept_to = min(reader.kept_to for reader in self._readers)
        while self.begin < kept_to and self._waiting:
            self._waiting.popleft()
            self.begin += 1
