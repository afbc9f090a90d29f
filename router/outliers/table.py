"""Which replicas do not get the usual share of requests, because of their answers.

`OutlierTable` owns the evidence on each replica and what follows from it. Three consequences, strongest first:

- *Ejection*. A replica whose answers fail gets no requests for a while that doubles from one ejection to the next. Then
  one request probes it: a good answer brings it back, a failure ejects it again
  (`pointsman.router.outliers.failure_accrual`).
- *Demotion* of a replica that is slow, that says that it is full (429, 503), or that fails while too many others do: it
  keeps a share of the requests it would have got. Sessions are drawn by their key, so one either stays or moves.
- *The retry budget*: when too many requests had to be sent again, decisions forbid it.

What always holds: of the healthy replicas of one model at most `max_share` are ejected, and never the last one; when
more than that fail, the fault is taken to lie elsewhere and none is ejected. A replica that restarts or moves begins
without a record. Evidence is this edge's own and is not shared.

The table is plain and synchronous. It tells the registry who is ejected, and changes nothing else.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable

import mmh3
import msgspec

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import Role
from pointsman.policies.candidates import names
from pointsman.router.fleet.memberships import Membership
from pointsman.router.fleet.replica import Health, Replica
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.outliers.answers import FAILURES, Verdict
from pointsman.router.outliers.failure_accrual import Ejection, OutlierConfig, Record
from pointsman.router.outliers.pace import Pace, Unit
from pointsman.router.outliers.retry_budget import RetryBudget
from pointsman.router.outliers.slow import SlowReplicas

_GOOD = Verdict.GOOD
"""An enumeration's member takes as long to look up as all else of a good answer."""

BACKPRESSURE = "backpressure"
SLOW = "slow"
"""Causes of a demotion, beside those of failures."""

MIN_SLOW_SHARE = 0.02
"""Least share of its requests that a slow replica keeps: without any, nobody would see that it is fast again."""


class Demotion(msgspec.Struct, frozen=True, gc=False):
    """Why a replica gets fewer requests, and what share of them it keeps."""

    cause: str
    """`backpressure`, `slow`, or the cause of failures that eject nobody."""
    share: float
    ratio: float = 1.0
    """Of a slow replica: how many times slower than the median it decodes or prefills."""


class OutlierTable:
    """Evidence, ejections and demotions of one edge's replicas."""

    def __init__(
        self, config: OutlierConfig, replicas: ReplicaRegistry, *, prefill_ms: Callable[[int], float] = lambda slot: 0.0
    ) -> None:
        """prefill_ms: what a prompt of usual length takes to prefill on a slot, in milliseconds; 0 where unknown."""
        self.config = config
        self._enabled = config.enabled
        self._replicas = replicas
        self._records: dict[int, Record] = {}
        self._ejections: dict[int, Ejection] = {}
        self._pressed: set[int] = set()
        self.pace = Pace(window_s=config.slow_window_s)
        self._slow = SlowReplicas(self.pace, prefill_ms, config.slow_ratio)
        self.budget = RetryBudget(share=config.retry_share, floor=config.retry_floor, window_s=config.window_s)
        self.demoted: dict[int, Demotion] = {}
        """Replicas that keep a part of their requests, by slot; empty while all is well."""
        self.probing: set[int] = set()
        """Slots whose next request is a probe; empty while all is well."""
        self.ejected: Counter[tuple[str, Verdict]] = Counter()
        """Ejections by replica and cause, of replicas that are registered."""
        self.failures: Counter[tuple[str, Verdict]] = Counter()
        """Failed answers by replica and cause."""
        self.backpressure: Counter[str] = Counter()
        """Answers 429 and 503, and requests that had to be sent again, by replica."""

    def __repr__(self) -> str:
        return f"OutlierTable({', '.join(f'{self._replicas.ids[s]}: {e.cause}' for s, e in self._ejections.items())})"

    def remove(self, slot: int, replica_id: str) -> None:
        """A replica left: its counters go with its record."""
        self.clear_slot(slot)
        self.backpressure.pop(replica_id, None)
        for cause in FAILURES:
            self.ejected.pop((replica_id, cause), None)
            self.failures.pop((replica_id, cause), None)

    def clear_slot(self, slot: int) -> None:
        """Forgets all evidence on a slot and what followed from it."""
        self._records.pop(slot, None)
        self._ejections.pop(slot, None)
        self._pressed.discard(slot)
        self._slow.clear_slot(slot)
        self.demoted.pop(slot, None)
        self.probing.discard(slot)

    # Evidence

    def ended(self, request_id: str, replica_id: str, verdict: Verdict, now_s: float, *, lasted_s: float) -> None:
        """Takes what the end of a request proves about the replica that had it.

        lasted_s: seconds from the request's first byte to its end. UNANSWERED counts as a failure only after
        `unanswered_s`, and of a replica that has answered nobody since the request began.
        """
        replica = self._replicas.get(replica_id) if self._enabled else None
        if replica is None:
            return
        slot = replica.slot
        if verdict is _GOOD and slot not in self._ejections:
            # Nearly every answer. Whether the record is of this incarnation matters to failures alone.
            (self._records.get(slot) or self._record(replica, now_s)).good(now_s, self.config)
            return
        record = self._record(replica, now_s)
        if verdict is Verdict.UNANSWERED and (lasted_s < self.config.unanswered_s or record.good_s > now_s - lasted_s):
            verdict = Verdict.NEUTRAL
        if verdict in FAILURES:
            self.failures[replica.id, verdict] += 1
        if slot in self._ejections:
            self._ended_while_failing(replica, record, request_id, verdict, now_s)
        elif verdict is Verdict.BACKPRESSURE:
            self._press(replica, record, now_s)
        elif verdict in FAILURES and record.failure(now_s, self.config):
            self._ejections[slot] = record.eject(verdict, now_s, self.config)
            self.ejected[replica.id, verdict] += 1
            self._settle(now_s, replica.model)

    def retried(self, request_id: str, replica_id: str, now_s: float) -> None:
        """A request went to another replica because this one refused or dropped it, or answered it with 503.

        HAProxy does not say which of the three it was, so it counts as backpressure: refused connections are for the
        health checks, and what drops requests that can be sent again costs no client anything.
        """
        replica = self._replicas.get(replica_id) if self.config.enabled else None
        if replica is None:
            return
        record = self._record(replica, now_s)
        ejection = self._ejections.get(replica.slot)
        if ejection is not None and ejection.probes.pop(request_id, None) is not None:
            self._failed_again(replica, ejection, ejection.cause, now_s)
        self._press(replica, record, now_s)

    def report(self, slot: int, events: EngineEvents, now_s: float) -> None:
        """Takes an engine's own report: first tokens are a sign of life, ends say how fast it decodes."""
        if not self.config.enabled or not (events.first or events.finished):
            return
        record = self._records.get(slot)
        if record is not None and any(first.prompt_tokens for first in events.first):
            record.good_s = now_s
        for finished in events.finished:
            if finished.decode_ms and finished.completion_tokens > 1:
                self.pace.observe(slot, finished.decode_ms, finished.completion_tokens - 1, Unit.TOKENS)
        ejection = self._ejections.get(slot)
        if ejection is not None and ejection.probes:
            for first in events.first:
                if first.id in ejection.probes:
                    ejection.probes[first.id] = True

    def _ended_while_failing(
        self, replica: Replica, record: Record, request_id: str, verdict: Verdict, now_s: float
    ) -> None:
        ejection = self._ejections[replica.slot]
        probed = ejection.probes.pop(request_id, None) is not None
        if not probed and replica.ejected:
            return  # It began before the ejection.
        if verdict is Verdict.GOOD:
            del self._ejections[replica.slot]
            record.brought_back(ejection, now_s)
            self._settle(now_s, replica.model)
        elif verdict is Verdict.BACKPRESSURE:
            self._press(replica, record, now_s)
        if probed and verdict is Verdict.NEUTRAL:
            ejection.is_open = ejection.is_open or not ejection.probes
            self._settle(now_s, replica.model)
        elif probed and verdict is not Verdict.GOOD:
            self._failed_again(replica, ejection, verdict if verdict in FAILURES else ejection.cause, now_s)

    def _failed_again(self, replica: Replica, ejection: Ejection, cause: Verdict, now_s: float) -> None:
        ejection.failed_again(cause, now_s, self.config)
        self.ejected[replica.id, cause] += 1
        self._settle(now_s, replica.model)

    def _press(self, replica: Replica, record: Record, now_s: float) -> None:
        self.backpressure[replica.id] += 1
        record.backpressure_until_s = now_s + self.config.backpressure_s
        if replica.slot not in self._pressed:
            self._pressed.add(replica.slot)
            self._settle(now_s, replica.model)

    def _record(self, replica: Replica, now_s: float) -> Record:
        """The record of the engine that is registered; of an earlier incarnation nothing is kept."""
        incarnation = (replica.address, replica.registration.born_ms)
        record = self._records.get(replica.slot)
        if record is None or record.incarnation != incarnation:
            if record is not None:
                self._forgive(replica, now_s)
            record = self._records[replica.slot] = Record(incarnation)
        return record

    def _forgive(self, replica: Replica, now_s: float) -> None:
        self.clear_slot(replica.slot)
        self._replicas.set_ejected(replica.id, False, now_s)

    def reset(self, replica: Replica, now_s: float) -> None:
        """Forgets all that a replica's answers proved, as somebody wishes who knows better: its ejection or demotion
        ends at once, and evidence is gathered anew."""
        self._forgive(replica, now_s)
        self._settle(now_s, replica.model)

    # Decisions

    def narrowed(self, members: Membership, session: str, rng: random.Random) -> Membership:
        """The members less those that are demoted and not drawn for this request; all where none would be left.

        session: key by which a session is drawn, the same way every time; empty for a request without one.
        """
        shares = {slot: demotion.share for slot, demotion in self.demoted.items() if names(members.slots, slot)}
        if not shares:
            return members
        # Where all are demoted, the best of them takes the place of those that are well.
        best = 1.0 if len(shares) < len(members.slots) else max(shares.values())
        ids = self._replicas.ids
        out = frozenset(slot for slot, share in shares.items() if best * _draw(session, ids[slot], rng) >= share)
        return self._replicas.memberships.without(members, out) if 0 < len(out) < len(members.slots) else members

    def probe(self, slot: int, request_id: str, now_s: float) -> None:
        """A request was decided for a replica that is due for a probe: no other goes there until more is known."""
        self._ejections[slot].probe(request_id, now_s, self.config)
        replica = self._replicas.get(self._replicas.ids[slot])
        assert replica is not None, "what was decided for is registered"
        self._settle(now_s, replica.model)

    # Time

    def step(self, now_s: float) -> None:
        """Ends ejections and demotions that are over, and compares speeds; called a few times a second."""
        if not self.config.enabled:
            return
        self.budget.step(now_s)
        for ejection in self._ejections.values():
            if not ejection.is_open and ejection.until_s <= now_s:
                ejection.reopen()
        self._pressed = {slot for slot in self._pressed if self._records[slot].backpressure_until_s > now_s}
        if self._slow.is_due(now_s):
            self._slow.compare(healthy_by_model(self._replicas).values(), now_s)
        if self._ejections or self._pressed or self._slow.ratios or self.demoted:
            for slot in list(self._ejections):
                replica = self._replicas.get(self._replicas.ids[slot])
                if replica is not None:
                    self._record(replica, now_s)
            self._settle(now_s)

    # What follows

    def ejection(self, slot: int) -> Ejection | None:
        """The ejection a replica is in, or is only spared because too many others fail; None for one that is well."""
        return self._ejections.get(slot)

    def _settle(self, now_s: float, model: str | None = None) -> None:
        """Applies what the evidence means, for one model or for all: who is ejected, who may be probed, who is demoted.

        A replica that is not healthy is none of its model's: its checks keep it out, and its demotion means nothing.
        """
        groups = healthy_by_model(self._replicas)
        for group in groups.values() if model is None else [groups.get(model, [])]:
            failing = [replica for replica in group if replica.slot in self._ejections]
            spared = len(failing) > self.config.max_share * len(group) or len(failing) == len(group)
            for replica in group:
                slot, ejection = replica.slot, self._ejections.get(replica.slot)
                out = ejection is not None and not spared
                may_probe = ejection is not None and out and ejection.is_open
                if may_probe:
                    self.probing.add(slot)
                else:
                    self.probing.discard(slot)
                self._replicas.set_ejected(replica.id, out, now_s, probing=may_probe)
                demotion = self._demotion(slot, None if out else ejection)
                if demotion is not None:
                    self.demoted[slot] = demotion
                else:
                    self.demoted.pop(slot, None)

    def _demotion(self, slot: int, spared: Ejection | None) -> Demotion | None:
        if spared is not None:
            return Demotion(spared.cause, self.config.demoted_share)
        if slot in self._pressed:
            return Demotion(BACKPRESSURE, self.config.demoted_share)
        if (ratio := self._slow.ratios.get(slot)) is not None:
            return Demotion(SLOW, max(MIN_SLOW_SHARE, 1.0 / ratio), ratio)
        return None


def healthy_by_model(replicas: Iterable[Replica]) -> dict[str, list[Replica]]:
    """The healthy replicas of each model that take requests."""
    groups: dict[str, list[Replica]] = {}
    for replica in replicas:
        if replica.health is Health.UP and not replica.draining and replica.role is not Role.PREFILL:
            groups.setdefault(replica.model, []).append(replica)
    return groups


def _draw(session: str, replica_id: str, rng: random.Random) -> float:
    """A number from 0 to 1: of a session always the same for a replica, else from the dice."""
    if not session:
        return rng.random()
    key = f"{session}\0{replica_id}".encode("utf-8", "surrogatepass")
    return float(mmh3.hash(key, signed=False)) / 2**32
