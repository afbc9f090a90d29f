"""Requests of each version of an alias: how many ended, how many of them in an error, how long first tokens took.

`VersionMeter` owns a `VersionRecord` for each version of each alias that is here, in all and over the window of the
alias's bounds, and stops a version that is worse than these allow. It looks requests up in the `RequestTable`: what
another edge placed is that one's to count. What always holds: without aliases it is told of nothing.
"""

from __future__ import annotations

from collections import deque

from pointsman.contract.events import EngineEvents
from pointsman.policies.candidates import NO_SLOT
from pointsman.router.decide.arms import Arm, is_error
from pointsman.router.documents.book import Book
from pointsman.router.fleet.alias_table import KIND, AliasTable
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.kv.state import KVState
from pointsman.router.requests.end_line import Line
from pointsman.router.requests.end_of_request import EndOfRequest
from pointsman.router.requests.table import RequestTable
from pointsman.router.tenancy.aliases import Alias, StopBounds

MAX_KEPT = 10_000
"""Latest requests of a version that a window holds at most: at higher rates it is shorter than asked for."""

LOOK_S = 1.0
"""Time between two looks at the bounds."""

P99 = 0.99

Key = tuple[str, str]
"""Alias and model."""


class VersionRecord:
    """Requests of one version: in all, and the latest ones."""

    def __init__(self) -> None:
        self.arm = Arm()
        """All of them, since the alias has the version."""
        self._ended: deque[tuple[float, bool]] = deque(maxlen=MAX_KEPT)
        self._times: deque[tuple[float, float]] = deque(maxlen=MAX_KEPT)

    def __repr__(self) -> str:
        return f"VersionRecord({self.arm!r})"

    def ended(self, status: int, termination: str, now_s: float) -> None:
        """Count the end of a request. `termination` is HAProxy's termination state."""
        self.arm.ended(status, termination)
        self._ended.append((now_s, is_error(status, termination)))

    def first_token(self, took_ms: float, now_s: float) -> None:
        """Count a time to first token, more than 0."""
        self.arm.first_token(took_ms)
        self._times.append((now_s, took_ms))

    def forget(self, before_s: float) -> None:
        """Let go of requests that ended before a time."""
        for kept in (self._ended, self._times):
            while kept and kept[0][0] < before_s:
                kept.popleft()

    @property
    def requests(self) -> int:
        """Requests in the window."""
        return len(self._ended)

    @property
    def measured(self) -> int:
        """Times to first token in the window."""
        return len(self._times)

    @property
    def error_share(self) -> float:
        """Share of errors in the window; 0 without requests."""
        return sum(bad for _, bad in self._ended) / len(self._ended) if self._ended else 0.0

    def percentile_ms(self, share: float) -> float | None:
        """A percentile of the times in the window, by nearest rank; None without any."""
        ordered = sorted(took_ms for _, took_ms in self._times)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


class VersionMeter:
    """The requests of all versions of all aliases of one edge."""

    def __init__(
        self,
        book: Book,
        aliases: AliasTable,
        requests: RequestTable,
        kv: KVState,
        replicas: ReplicaRegistry,
        ends: EndOfRequest,
    ) -> None:
        """book: where a version that is stopped is written. ends: tells what became of requests."""
        self._book = book
        self._aliases = aliases
        self._requests = requests
        self._kv = kv
        self._slot_of = replicas.slot_of
        self._ends = ends
        self.records: dict[Key, VersionRecord] = {}
        """By alias and model, for others to read."""
        self._looked_s = 0.0
        self._now_s = 0.0
        aliases.on_changed.append(self._changed)

    def __repr__(self) -> str:
        return f"VersionMeter({self.records!r})"

    def _changed(self) -> None:
        """Have a record for each version there is, and be told of ends while there are any."""
        keys = [(alias.name, version.model) for alias in self._aliases for version in alias.versions]
        self.records = {key: self.records.get(key) or VersionRecord() for key in keys}
        self._ends.versions = self if keys else None

    # What became of requests

    def report(self, slot: int, events: EngineEvents) -> None:
        """Take over first tokens that the engine on a slot reported."""
        if not self.records:
            return
        for first in events.first:
            request = self._requests.get(first.id)
            if request is not None and first.ttft_ms > 0:
                features = request.features
                if features is not None and features.alias:
                    record = self.records.get((features.alias, features.model))
                    if record is not None:
                        record.first_token(1000 * request.held_s + first.ttft_ms, self._now_s)

    def ended(self, line: Line, now_s: float) -> None:
        """Count the end of a request as HAProxy saw it, before the request's record goes."""
        request = self._requests.get(line.id)
        features = None if request is None else request.features
        if features is None or not features.alias:
            return
        record = self.records.get((features.alias, features.model))
        if record is None:
            return
        record.ended(line.st, line.ts, now_s)
        slot = self._slot_of(line.srv)
        if line.ttft.isdecimal() and int(line.ttft) > 0 and (slot == NO_SLOT or not self._kv.reports(slot)):
            record.first_token(float(line.ttft), now_s)

    # Bounds

    def step(self, now_s: float) -> None:
        """Stop versions that are worse than their bounds allow; called a few times a second."""
        self._now_s = now_s
        if not self.records or now_s < self._looked_s + LOOK_S:
            return
        self._looked_s = now_s
        for alias in self._aliases:
            if alias.stop is not None:
                for version in alias.versions:
                    self.records[alias.name, version.model].forget(now_s - alias.stop.window_s)
                self._look(alias, alias.stop)

    def _look(self, alias: Alias, bounds: StopBounds) -> None:
        """Stop the first version found to be beyond the bounds, if there is one."""
        stable = self.records[alias.name, alias.stable]
        for version in alias.canaries:
            if version.withdrawn or not version.weight or (alias.paused and not bounds.roll_back):
                continue  # it gets no new sessions already
            why = exceeded(bounds, self.records[alias.name, version.model], stable)
            if why:
                after = alias.rolled_back(version.model) if bounds.roll_back else alias.held()
                step = "rolled back" if bounds.roll_back else "paused"
                about = {"author": "", "why": f"{version.model} is {step}: {why}"}
                self._book.write(f"{KIND}/{alias.name}", after.body(), about)
                return


def exceeded(bounds: StopBounds, candidate: VersionRecord, stable: VersionRecord) -> str:
    """Why a version is worse than its bounds allow, as the end of a sentence; empty where it is not."""
    if bounds.error_share is not None and min(candidate.requests, stable.requests) >= bounds.min_requests:
        own, its = candidate.error_share, stable.error_share
        if own - its > bounds.error_share:
            return f"{own:.1%} of its requests failed, against {its:.1%} of those of the stable version"
    if bounds.ttft_p99_ratio is not None and min(candidate.measured, stable.measured) >= bounds.min_requests:
        own_ms, its_ms = candidate.percentile_ms(P99) or 0.0, stable.percentile_ms(P99) or 0.0
        if own_ms > bounds.ttft_p99_ratio * its_ms:
            return (
                f"the 99th percentile of its time to first token is {own_ms:.0f} ms, against {its_ms:.0f} ms of the "
                "stable version"
            )
    return ""
