"""Effects of one line of HAProxy's log ring on the router's state: a request had its first token, or ended.

`EndOfRequest` owns nothing but the id of the last request that each HAProxy worker reported. A line releases the
reservation of its request and the prefill in front of others, feeds the counters of its replica and model, and proves
something about the replica that answered. Lines come from the ring, and after a reload of HAProxy from its old workers.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from pointsman.haproxy.config import RING_BACKEND
from pointsman.policies.candidates import NO_SLOT
from pointsman.policies.decision import Reason
from pointsman.router.counts.requests import RequestMetrics
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.kv.state import KVState
from pointsman.router.outliers.answers import Verdict, judge
from pointsman.router.outliers.pace import Unit
from pointsman.router.outliers.table import OutlierTable
from pointsman.router.requests.decision_log import DecisionLog
from pointsman.router.requests.end_line import NO_SERVER, UNDECIDED, UNSET, Line, decode_line
from pointsman.router.requests.model_meter import ModelMeter
from pointsman.router.requests.table import RequestTable
from pointsman.router.requests.usage_meter import UsageMeter
from pointsman.router.tenancy.limits import Limits

OTHER_LINES = (
    b"Lua function 'pm_hold'",
    b"Lua function 'pm_lookup': yield not allowed",
    f"Server {RING_BACKEND}/".encode(),
    b"Proxy ",
)
"""Begins of lines that are about no request. The first two come when a client leaves while its request is held or
before its lookup; the next one when a router begins; the last one when a worker stops, for each of its proxies that
log to the ring."""

FAILED_KEYS = ("no-key", "unknown-key")
"""Reasons why HAProxy lets nobody in: no API key, or one that is not in force."""

MAX_WORKERS = 64
"""HAProxy workers whose last line is remembered: the current one and those that earlier reloads left to finish their
streams. Beyond, the one known for the longest is forgotten."""


class EndWatcher(Protocol):
    """Observer of ends of requests."""

    def ended(self, line: Line, now_s: float) -> None:
        """Take the end of a request as HAProxy saw it."""


class Meters(NamedTuple):
    """The counters of what requests came to."""

    models: ModelMeter
    usage: UsageMeter


class EndOfRequest:
    """Applies lines to state."""

    def __init__(
        self,
        *,
        replicas: ReplicaRegistry,
        requests: RequestTable,
        kv: KVState,
        outliers: OutlierTable,
        metrics: RequestMetrics,
        meters: Meters,
        limits: Limits,
        decisions: DecisionLog | None = None,
    ) -> None:
        """decisions: where decisions are remembered; None where they are not."""
        self._decisions = decisions
        self._requests = requests
        self._slot_of = replicas.slot_of
        self._outliers = outliers
        self._kv = kv
        self._metrics = metrics
        self._meter, self._usage = meters
        self._limits = limits
        self.watcher: EndWatcher | None = None
        """Told of the end of each request; None where nobody is."""
        self.versions: EndWatcher | None = None
        """Told of the end of each request while its record is still there; None where nobody is."""
        self.last_ids: dict[int, str] = {}
        """Id of the request whose end each HAProxy worker reported last, by the worker's pid."""

    def apply(self, raw: bytes, now_s: float) -> None:
        """Applies one line that arrived at `now_s`; a malformed one is counted and changes nothing."""
        self._metrics.lines += 1
        try:
            line = decode_line(raw)
        except msgspec.MsgspecError:
            if not raw.startswith(OTHER_LINES):
                self._metrics.malformed_lines += 1
            return
        if line.ev == "end":
            self._count(line, now_s)
            if self.versions is not None:
                self.versions.ended(line, now_s)
            had_server = not line.srv.startswith(NO_SERVER)
            redispatched = had_server and line.srv != line.first
            self._requests.end(
                line.id,
                now_s,
                served_by=self._slot_of(line.srv) if redispatched else NO_SLOT,
                served=200 <= line.st < 300,
                took_ms=float(line.ttft) if line.ttft.isdecimal() else -1.0,
            )
            if self._limits.active:
                self._limits.ended(line.id, now_s, served=had_server)
            if self._decisions is not None:
                self._decisions.ended(line, now_s)
            if self.watcher is not None:
                self.watcher.ended(line, now_s)
            self.last_ids[line.pid] = line.id
            if len(self.last_ids) > MAX_WORKERS:
                del self.last_ids[next(iter(self.last_ids))]
            if had_server and line.routed != UNSET:
                self._prove(line, now_s)
        elif line.ev == "first":
            self._requests.first_token(line.id, now_s)

    def _prove(self, line: Line, now_s: float) -> None:
        """Hands on what the end of a request says about its replica, and about the one that had it before."""
        outliers = self._outliers
        if line.rc[:1] == "+":
            outliers.budget.count(retried=True)
            if line.first != line.srv:
                outliers.retried(line.id, line.first, now_s)
        else:
            outliers.budget.requests += 1.0
        verdict = judge(line.st, line.ts, answered=line.tr >= 0)
        outliers.ended(line.id, line.srv, verdict, now_s, lasted_s=max(0, line.ta) / 1000)
        if line.ttft.isdecimal() and verdict is Verdict.GOOD:
            slot, decoded_ms = self._slot_of(line.srv), line.ta - int(line.ttft)
            if slot != NO_SLOT and decoded_ms > 0 and not self._kv.reports(slot):
                outliers.pace.observe(slot, decoded_ms, line.bytes, Unit.BYTES)

    def _count(self, line: Line, now_s: float) -> None:
        metrics = self._metrics
        if line.routed != UNSET and line.reason in (UNSET, Reason.FAIL_OPEN):
            if line.placed_alone:
                metrics.fail_open += 1
            else:
                metrics.undecided[UNDECIDED.get(line.ts[:1], "other")] += 1
        if line.srv.startswith(NO_SERVER):
            metrics.refused[line.st] += 1
            self._usage.unserved(line)
            if line.reason in FAILED_KEYS:
                metrics.failed_keys[line.reason] += 1
            return
        if line.routed != UNSET:
            slot = self._slot_of(line.srv)
            self._meter.ended(line, slot)
            self._usage.ended(line, slot, now_s)
        served = metrics.served(line.srv)
        served.by_class[f"{line.st // 100}xx" if line.st > 0 else "none"] += 1
        if line.rc.startswith("+"):
            served.redispatched += 1
        if line.tr >= 0:
            served.first_response_s.observe(line.tr / 1000)
        if line.ttft.isdecimal():
            served.first_token_s.observe(int(line.ttft) / 1000)
        if line.ta >= 0:
            served.request_s.observe(line.ta / 1000)
