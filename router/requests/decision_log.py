"""The latest decisions, by request id, each joined with what came of it.

`DecisionLog` owns the records. What always holds: at most `max_records` of them and about `max_bytes` of memory, the
oldest gone first. The end of a request that has no record is passed over, unless HAProxy placed it alone: then a record
is made of HAProxy's words. Records of ended requests wait in `take_ended` for whoever follows them, and only while
somebody does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from pointsman.contract.events import EngineEvents
from pointsman.contract.registration import LEG_SUFFIX
from pointsman.policies.decision import Decision, Reason
from pointsman.policies.request import RequestFeatures
from pointsman.router.requests.decision_record import KEY_BYTES, DecisionRecord
from pointsman.router.requests.end_line import UNSET, Line

ENGINE_WORDS_S = 1.5
"""Seconds that an ended request waits for its engine's words: engines report once a second at least."""

MAX_ENDED = 65_536
"""Ended records that wait for followers; beyond, the oldest are not followed any more."""

MAX_FLEETS = 256
"""Fleets as decisions saw them (names and exclusions) that are remembered; records keep those they need."""


class Fleet:
    """Names of the candidates and causes of exclusions, for one membership."""

    __slots__ = ("eligible", "excluded", "ids")

    def __init__(self, eligible: int, ids: Sequence[str], excluded: Mapping[str, str]) -> None:
        """eligible: token of the replicas that may serve the model."""
        self.eligible = eligible
        self.ids = ids
        self.excluded = excluded


class DecisionLog:
    """A bounded number of the latest decisions."""

    def __init__(self, *, max_records: int, max_bytes: int) -> None:
        """Make an empty log.

        max_records: records kept, 1 or more.
        max_bytes: estimated memory of all records, in bytes.
        """
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records: dict[str, DecisionRecord] = {}
        self._order: deque[DecisionRecord] = deque()
        self._bytes = 0
        self._ended: deque[DecisionRecord] = deque()
        self._fleets: dict[int, Fleet] = {}
        self.is_followed = False
        """Whether somebody calls `take_ended`."""
        self.unfollowed = 0
        """Ended records dropped because followers were too slow."""

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[DecisionRecord]:
        """Iterates over the records, the newest first, as they are at the call."""
        return iter([*self._order][::-1])

    def newest(self, count: int) -> list[DecisionRecord]:
        """Up to `count` records, the newest first; costs nothing for those beyond."""
        return [*islice(reversed(self._order), count)]

    def __repr__(self) -> str:
        return f"DecisionLog({len(self)} of at most {self._max_records}, {self._bytes} bytes)"

    @property
    def bytes(self) -> int:
        """Estimated memory of all records, in bytes."""
        return self._bytes

    def get(self, request_id: str) -> DecisionRecord | None:
        """The record of a request; None for one that is unknown or too old."""
        return self._records.get(request_id)

    # A decision

    def fleet(self, token: int, eligible: int) -> Fleet | None:
        """Names and exclusions for a membership that was seen before; None for a new one.

        token: of the candidates.
        eligible: token of the replicas that may serve the model.
        """
        fleet = self._fleets.get(token)
        return fleet if fleet is not None and fleet.eligible == eligible else None

    def add_fleet(self, token: int, fleet: Fleet) -> Fleet:
        """Remember names and exclusions for a membership."""
        if len(self._fleets) >= MAX_FLEETS:
            self._fleets.clear()
        self._fleets[token] = fleet
        return fleet

    def add(self, record: DecisionRecord) -> None:
        """Remember a decision. A repeated id (HAProxy asked twice) replaces the decision before."""
        order, records, features, kept = self._order, self._records, record.features, record.kept
        if kept is not None:
            record.bytes += len(kept.table) + 2 * len(kept.in_flight) + KEY_BYTES * len(features.prefix_keys)
        order.append(record)
        records[features.request_id] = record
        self._bytes += record.bytes
        while len(order) > self._max_records or (self._bytes > self._max_bytes and len(order) > 1):
            oldest = order.popleft()
            self._bytes -= oldest.bytes
            request_id = oldest.features.request_id
            if records.get(request_id) is oldest:
                del records[request_id]

    # What came of it

    def report(self, slot: int, events: EngineEvents) -> None:
        """Join first tokens and ends that the engine on a slot reported."""
        records = self._records
        for first in events.first:
            record = records.get(first.id)
            if record is not None:
                record.first, record.reported_by = first, slot
            elif first.id.endswith(LEG_SUFFIX):
                record = records.get(first.id.removesuffix(LEG_SUFFIX))
                if record is not None:
                    record.prefill_first = first
        for finished in events.finished:
            record = records.get(finished.id)
            if record is not None:
                record.finished, record.reported_by = finished, slot

    def ended(self, line: Line, now_s: float) -> None:
        """Join the end of a request as HAProxy saw it."""
        record = self._records.get(line.id)
        if record is None:
            if line.routed == UNSET or line.reason not in (UNSET, Reason.FAIL_OPEN):
                return
            record = DecisionRecord(
                now_s - max(0, line.ta) / 1000, RequestFeatures(request_id=line.id), Decision(Reason.FAIL_OPEN), "", 0
            )
            self.add(record)
        record.line, record.ended_s = line, now_s
        if self.is_followed:
            if len(self._ended) >= MAX_ENDED:
                self._ended.popleft()
                self.unfollowed += 1
            self._ended.append(record)

    def take_ended(self, now_s: float, count: int, reports: Callable[[str], bool]) -> list[DecisionRecord]:
        """Take out up to `count` ended records in the order of their ends, each once nothing more is reported of it.

        reports: whether the engine of a replica, by its id, reports ends of requests.
        """
        ended, taken = self._ended, list[DecisionRecord]()
        while ended and len(taken) < count:
            record = ended[0]
            served_by = "" if record.line is None else record.line.srv
            if record.finished is None and record.ended_s > now_s - ENGINE_WORDS_S and reports(served_by):
                break
            taken.append(ended.popleft())
        return taken

    def follow(self, followed: bool) -> None:
        """Say whether somebody calls `take_ended` from here on."""
        self.is_followed = followed
        if not followed:
            self._ended.clear()


def build_log(max_records: int, max_bytes: int) -> DecisionLog | None:
    """The log of that size; None for 0 records: then nothing is remembered and nothing is paid."""
    return DecisionLog(max_records=max_records, max_bytes=max_bytes) if max_records else None
