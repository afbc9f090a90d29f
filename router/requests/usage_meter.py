"""Usage of requests, each counted once: from engines' reports and HAProxy's lines to the rows of the ledger.

`UsageMeter` owns how far it has read the reports of each incarnation of an engine, and the requests whose record is
gone from the `RequestTable` while a line or a report may still come. Tokens are counted when an engine reports them,
whatever number of engines worked on a request; a request is counted with HAProxy's line. A request whose engine reports
nothing is counted by an estimate: at once where the engine never reports, else `WAIT_S` after its record is gone.

HAProxy's line also names tenant and key. So a request that this router never placed, because it was away or has
restarted meanwhile, is counted too. Reports of requests that other edges placed find no line here and are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pointsman.contract.events import EngineEvents, RequestUsage
from pointsman.contract.registration import LEG_SUFFIX
from pointsman.policies.candidates import NO_SLOT
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.kv.state import KVState
from pointsman.router.requests.answer_bytes import AnswerBytes
from pointsman.router.requests.end_line import UNSET, Line
from pointsman.router.requests.request import Request
from pointsman.router.requests.table import RequestTable
from pointsman.router.requests.unsettled import OpenRequest, UnsettledRequest
from pointsman.router.requests.usage_rows import UsageRowFinder
from pointsman.router.tenancy.limits import Limits
from pointsman.router.tenancy.usage import HOUR_S, UsageLedger, UsageRow

WAIT_S = 10.0
"""Seconds for which a line and an engine's report wait for each other: an engine sends within a second."""

LONG_WAIT_S = 86_400.0
"""Seconds for which the end of a request is waited for that outlived its record."""

MAX_OPEN = 131_072
"""Requests without a record that wait for a line or a report; beyond, the oldest is counted as it is."""

LEARNED_OF = 8
"""One answer of so many teaches how many bytes a token has."""

MAX_SOURCES = 16_384
"""Incarnations of engines whose position is remembered; beyond, the oldest is forgotten."""

Source = tuple[str, str]
"""Replica id and epoch of one incarnation of an engine."""


class UsageMeter:
    """The writer of the ledger."""

    def __init__(
        self,
        ledger: UsageLedger,
        requests: RequestTable,
        kv: KVState,
        replicas: ReplicaRegistry,
        wall: Callable[[], float] = lambda: 0.0,
        limits: Limits | None = None,
    ) -> None:
        """wall: seconds since 1970. limits: told what engines spent, which counts there too."""
        self._limits = limits
        self.ledger = ledger
        self.bytes = AnswerBytes()
        self._requests = requests
        self._kv = kv
        self._replicas = replicas
        self._wall = wall
        self._now_s = 0.0
        self._open: dict[str, OpenRequest] = {}
        self._long: dict[str, OpenRequest] = {}
        self.cursors: dict[Source, int] = {}
        """Reports counted, by incarnation of an engine."""
        self.kept: dict[Source, int] | None = None
        """Reports that are kept beyond a crash of this process; None where nothing keeps them."""
        self._rows = UsageRowFinder(ledger, replicas)
        self.lost_reports = 0
        """Reports that engines dropped before they arrived here."""
        requests.on_forgotten = self.forgotten
        ledger.set_hour(int(wall()) // HOUR_S)

    def __len__(self) -> int:
        return len(self._open) + len(self._long)

    # Engines

    def report(self, slot: int, replica_id: str, events: EngineEvents, now_s: float) -> int:
        """The engine on a slot sent a message; how many of its reports need not be sent again.

        -1: it has to send again what was not kept, since reports are missing.
        """
        usage, source = events.usage, (replica_id, events.epoch)
        if usage:
            begin, counted = events.usage_from, self.cursors.get(source, 0)
            if begin > counted:
                if not events.snapshot:
                    return -1
                self.lost_reports += begin - counted if source in self.cursors else 0
                counted = begin
            self._now_s = now_s
            for spent in usage if begin == counted else usage[counted - begin :]:
                self._spent(spent, slot)
            if begin + len(usage) > counted:
                if source not in self.cursors and len(self.cursors) >= MAX_SOURCES:
                    del self.cursors[next(iter(self.cursors))]
                self.cursors[source] = begin + len(usage)
        elif events.finished:
            for finished in events.finished:  # of an engine that reports no usage, the best there is
                request = self._requests.get(finished.id)
                if request is not None:
                    request.output_tokens = finished.completion_tokens
        return (self.cursors if self.kept is None else self.kept).get(source, 0)

    def kept_of(self, replica_id: str, epoch: str) -> int:
        """Reports of one incarnation of an engine that need not be sent again."""
        return (self.cursors if self.kept is None else self.kept).get((replica_id, epoch), 0)

    def _spent(self, usage: RequestUsage, slot: int) -> None:
        request_id = usage.id
        request = self._requests.get(request_id)
        whole = True
        if request is None and request_id.endswith(LEG_SUFFIX):
            request_id, whole = request_id.removesuffix(LEG_SUFFIX), False
            request = self._requests.get(request_id)
        limits = self._limits
        if limits is not None and limits.active:
            limits.used(request_id, usage.prompt_tokens, usage.cached_tokens, usage.output_tokens)
        if request is None:
            self._spent_late(request_id, usage, slot, whole)
            return
        row = request.usage_row
        if row is None:
            row = request.usage_row = self._rows.row(request.features, slot)
        row.seconds += usage.ms / 1000
        self.ledger.count_tokens(row, usage.prompt_tokens, usage.cached_tokens, usage.output_tokens)
        if whole:
            request.used_slot = slot
            line = request.line
            if line is not None:
                request.counted = line.rc == "0" and request.prefill is None
                if not row.requests % LEARNED_OF:
                    self.bytes.observe(line, usage.output_tokens)

    def _count(self, row: UsageRow, usage: RequestUsage) -> None:
        row.seconds += usage.ms / 1000
        self.ledger.count_tokens(row, usage.prompt_tokens, usage.cached_tokens, usage.output_tokens)

    def _spent_late(self, request_id: str, usage: RequestUsage, slot: int, whole: bool) -> None:
        found = self._open.get(request_id) or self._long.get(request_id)
        if found is None:
            found = self._wait(request_id, OpenRequest(self._now_s + WAIT_S))
        if not found.placed and found.line is None:
            found.waiting.append((slot, usage, whole))
            return
        self._join(found, usage, slot, whole)
        if whole and request_id in self._long:  # its line follows, if it is not lost
            found.until_s = self._now_s + WAIT_S
            self._wait(request_id, self._long.pop(request_id))

    def _join(self, found: OpenRequest, usage: RequestUsage, slot: int, whole: bool) -> None:
        if found.row is None:
            if not found.placed:
                found.model, found.adapter = self._rows.model_of(slot), usage.adapter
            found.row = self.ledger.row(found.tenant, found.key, found.model, found.adapter)
        self._count(found.row, usage)
        found.used |= whole

    # HAProxy

    def ended(self, line: Line, slot: int, now_s: float) -> None:
        """HAProxy reported the end of a request that a replica served. Called before the table ends it.

        slot: the replica's; NO_SLOT for one that left.
        """
        request = self._requests.get(line.id)
        if request is None:
            self._now_s = now_s
            self._ended_late(line, slot)
            return
        if request.line is not None:
            return
        request.line = line
        row = request.usage_row
        if row is None:
            row = request.usage_row = self._rows.row(request.features, slot)
        row.requests += 1
        if not row.changed:
            self.ledger.touch(row)
        if line.rc != "0":
            if request.used_slot != slot:
                request.used_slot = NO_SLOT  # the report was of a replica that failed
        elif request.used_slot != NO_SLOT and request.prefill is None:
            request.counted = True

    def unserved(self, line: Line) -> None:
        """HAProxy reported the end of a request that no replica served."""
        request = self._requests.get(line.id)
        if request is not None and request.line is None:
            request.line = line
            request.counted = line.rc == "0" and request.prefill is None

    def _ended_late(self, line: Line, slot: int) -> None:
        found = self._open.get(line.id)
        if found is None:
            found = self._long.pop(line.id) if line.id in self._long else OpenRequest(0.0)
            found.until_s = self._now_s + WAIT_S
            self._wait(line.id, found)
        if found.line is not None:
            return
        found.line = line
        if not found.placed:
            found.tenant = "" if line.tenant == UNSET else line.tenant
            found.key = "" if line.key == UNSET else line.key
            found.model = self._rows.model_of(slot)
            for at, usage, whole in found.waiting:
                self._join(found, usage, at, whole)
            found.waiting.clear()

    # Requests whose record is gone

    def forgotten(self, request: Request) -> None:
        """The table has no record of a request any more that is not counted."""
        line, used = request.line, request.used_slot != NO_SLOT
        features, in_flight = request.features, line is None and request.slot != NO_SLOT
        if features is None and request.usage_row is None:
            return  # decided by hand, for nobody
        found = OpenRequest(
            self._now_s + (LONG_WAIT_S if in_flight else WAIT_S),
            row=request.usage_row or self._rows.row(features, request.slot),
            line=line,
            first=request.first_token,
            features=features,
            placed=True,
            used=used or (line is not None and line.unserved),
            counted=line is not None,
            output_tokens=request.output_tokens,
        )
        slot = NO_SLOT if line is None else self._replicas.slot_of(line.srv)
        if slot != NO_SLOT and not used and not self._kv.reports(slot):
            self._settle(found)
        else:
            self._wait(request.id, found, self._long if in_flight else self._open)

    def _wait(self, request_id: str, found: OpenRequest, where: dict[str, OpenRequest] | None = None) -> OpenRequest:
        where = self._open if where is None else where
        if len(where) >= MAX_OPEN:
            self._settle(where.pop(next(iter(where))))
        where[request_id] = found
        return found

    def step(self, now_s: float) -> None:
        """Count what waited for long enough. Called a few times a second."""
        self._now_s = now_s
        self.ledger.set_hour(int(self._wall()) // HOUR_S)
        for waiting in (self._open, self._long):
            while waiting:
                oldest = next(iter(waiting))
                if waiting[oldest].until_s > now_s:
                    break
                self._settle(waiting.pop(oldest))

    def settle(self) -> None:
        """Count all that ended, as it is known: the process stops, and nothing keeps what it knows."""
        for request in self._requests:
            if request.line is not None and request.used_slot == NO_SLOT:
                self.forgotten(request)
        while self._open:
            self._settle(self._open.pop(next(iter(self._open))))

    def unsettled(self) -> list[UnsettledRequest]:
        """Requests that are in flight or wait for a line or a report, for the life of this router that comes next."""
        found = []
        for request in self._requests:
            line, used = request.line, request.used_slot != NO_SLOT
            if (line is None or not used) and request.features is not None:
                row = request.usage_row or self._rows.row(request.features, request.slot)
                found.append(
                    UnsettledRequest(request.id, row.key.names, line, request.first_token, used, line is not None)
                )
        for request_id, one in (self._open | self._long).items():
            if one.placed or one.line is not None:
                names = one.row.key.names if one.row is not None else one.names
                found.append(UnsettledRequest(request_id, names, one.line, one.first, one.used, one.counted))
        return found

    def resume(self, requests: Iterable[UnsettledRequest], now_s: float) -> None:
        """Take over what the life before this one waited for."""
        self._now_s = now_s
        for one in requests:
            runs = one.line is None and not one.used
            found = OpenRequest(
                now_s + (LONG_WAIT_S if runs else WAIT_S),
                *one.names,
                line=one.line,
                first=one.first,
                placed=True,
                used=one.used,
                counted=one.counted,
            )
            self._wait(one.id, found, self._long if runs else self._open)

    def _settle(self, found: OpenRequest) -> None:
        """Count a request for which nothing is waited any more."""
        line = found.line
        if not found.placed and line is None:
            return  # another edge's
        row = found.row
        if row is None:
            row = self.ledger.row(found.tenant, found.key, found.model, found.adapter)
        if not found.counted:
            row.requests += 1
            self.ledger.touch(row)
        if not found.used:
            self._estimate(row, found)

    def _estimate(self, row: UsageRow, found: OpenRequest) -> None:
        """Count a request whose engine reported no usage, as far as can be told."""
        line, first, features = found.line, found.first, found.features
        prompt = cached = 0
        output = found.output_tokens
        answered = line is not None and 200 <= line.st < 300
        if not output and answered and line is not None and (features is None or features.generates):
            output = self.bytes.tokens(line)
            if features is not None and features.max_tokens:
                output = min(output, features.max_tokens)
        if first is not None:
            prompt, cached = first.prompt_tokens, first.cached_tokens
        elif answered and features is not None and (output or not features.generates):
            prompt = int(features.body_bytes / self._kv.ratio.bytes_per_token(features.model))
        if line is not None and line.ta > 0:
            row.seconds += line.ta / 1000
            self.ledger.touch(row)
        if not prompt and not output:
            return  # no token was computed, so there is nothing to estimate: its client left early, or it failed
        row.estimated_requests += 1
        row.estimated_prompt_tokens += prompt
        row.estimated_cached_tokens += cached
        row.estimated_output_tokens += output
        self.ledger.count_tokens(row, prompt, cached, output)
