"""When requests wait at the edge instead of adding to the queues of engines: bounds that work with any policy.

`Admission` is the part of a policy document that says when the replicas of a model are saturated: a request for which
they are waits at the edge, and its replica is chosen when it goes. `BatchLane` says when they are idle enough for a
request of the batch class. Both are pure functions of the candidates; nothing here keeps who waits.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta

from pointsman.policies.candidates import Candidates, Column
from pointsman.policies.decision import Reason, Refusal
from pointsman.policies.request import BATCH

FEW_SLOTS = 8
"""Candidates up to which one after the other is quicker than columns."""

IDLE_RUNNING = 4
"""Requests in flight from which a replica is not idle, where `running` says nothing else."""

IDLE_RUNNING_BLIND = 1
"""Requests in flight from which a replica is not idle where the policy has no KV signals: nothing tells then how much
work they are."""

PositiveSeconds = Annotated[float, Meta(gt=0.0, le=600.0)]
Seconds = Annotated[
    PositiveSeconds,
    Meta(
        description="Prefill backlog of the least backlogged replica, in seconds, from which requests wait; null: no "
        "bound.",
    ),
]
Share = Annotated[
    float,
    Meta(
        gt=0.0,
        le=10.0,
        description="Share of the replicas' KV capacity used by live conversations from which requests wait; null: no "
        "bound.",
    ),
]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Running = Annotated[
    Count,
    Meta(
        description="Requests in flight on the replica that has the fewest, from which requests wait; null: no bound.",
    ),
]
DelayedShare = Annotated[
    float,
    Meta(
        gt=0.0,
        le=1.0,
        description="Share of the other requests that have to wait for a prompt while one of a batch is computed, from "
        "which batch requests wait; null: no bound.",
    ),
]


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds from which replicas are saturated: any one of them suffices, and one that is null bounds nothing."""

    prefill_s: Seconds | None = None
    kv_use: Share | None = None
    running: Running | None = None

    @property
    def by_kv(self) -> bool:
        """Whether the bounds need KV signals."""
        return self.prefill_s is not None or self.kv_use is not None

    @property
    def bounds_anything(self) -> bool:
        return self.by_kv or self.running is not None

    def reached(self, candidates: Candidates, batch: Column | None = None) -> bool:
        """Whether the candidates are saturated.

        batch: requests in flight, by slot, that do not count; None: all count.
        """
        if self.running is not None and _fewest(candidates, batch) >= self.running:
            return True
        if candidates.kv is None:
            return False
        if self.prefill_s is not None and self._backlog_reached(candidates, 1000.0 * self.prefill_s):
            return True
        return self.kv_use is not None and _kv_use(candidates) >= self.kv_use

    def _backlog_reached(self, candidates: Candidates, bound_ms: float) -> bool:
        return _least_backlog_ms(candidates) >= bound_ms


class BatchLane(Bounds, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds under which requests of the batch class go, while no other request waits, and where they gather."""

    prefill_s: Annotated[
        PositiveSeconds | None,
        Meta(
            description="Mean prefill backlog of the replicas, in seconds, from which batch requests wait; null: no "
            "bound."
        ),
    ] = 0.005
    kv_use: Share | None = 0.7
    running: Annotated[
        Count | None,
        Meta(
            description="Requests in flight on the replica that has the fewest, from which batch requests wait; null: "
            "4, and 1 where the policy has no KV signals."
        ),
    ] = None
    delays: DelayedShare | None = 0.002
    gather: Annotated[
        Count | None,
        Meta(
            description="Requests in flight up to which a replica with batch requests gets further ones first, where "
            "there are four replicas or more; null: they go where the policy says."
        ),
    ] = 32
    wait_s: Annotated[
        float, Meta(ge=0.0, le=300.0, description="Longest wait of a batch request before the refusal, in seconds.")
    ] = 300.0

    def busy(self, candidates: Candidates, delayed: float = 0.0) -> bool:
        """Whether the candidates are not idle enough.

        delayed: share of other requests that batches delayed.
        """
        if self.delays is not None and delayed >= self.delays:
            return True
        if self.running is None:
            most = IDLE_RUNNING_BLIND if candidates.kv is None else IDLE_RUNNING
            if _fewest(candidates, None) >= most:
                return True
        return self.reached(candidates)

    def _backlog_reached(self, candidates: Candidates, bound_ms: float) -> bool:
        # The least backlog would let a prompt of a batch go to each replica, and none were left for the others.
        return _mean_backlog_ms(candidates) >= bound_ms


class Admission(Bounds, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When requests wait at the edge: from the first bound that is reached."""

    wait_s: Annotated[
        float, Meta(ge=0.0, le=300.0, description="Longest wait before the refusal, in seconds; 0: refused at once.")
    ] = 0.0
    retry_after_s: Annotated[
        int, Meta(ge=1, le=3600, description="Value of `Retry-After` in the refusal, in seconds.")
    ] = 2
    batch: Annotated[
        BatchLane,
        Meta(
            description="When and where requests of the batch class go: "
            "`{prefill_s, kv_use, running, delays, gather, wait_s}`."
        ),
    ] = BatchLane()

    def refusal(
        self,
        priority: int,
        candidates: Candidates,
        *,
        waiting: bool,
        batch: Column | None = None,
        delayed: float = 0.0,
    ) -> Refusal | None:
        """The refusal of a request that has to wait; None for one that may go.

        priority: class of the request. waiting: whether a request that goes first waits for the same replicas.
        batch: batch requests in flight, by slot: they make no other request wait.
        delayed: share of other requests that batches delayed.
        """
        if priority == BATCH:
            lane = self.batch
            if waiting or lane.busy(candidates, delayed) or self.reached(candidates):
                return Refusal(Reason.ADMISSION, 429, self.retry_after_s, lane.wait_s)
            return None
        if not self.bounds_anything:
            return None
        if (waiting and self.wait_s) or self.reached(candidates, batch):
            return Refusal(Reason.ADMISSION, 429, self.retry_after_s, self.wait_s)
        return None


DEFAULT_ADMISSION = Admission()
"""Admission of policies that have none: only batch requests wait."""


def _fewest(candidates: Candidates, batch: Column | None) -> int:
    slots, requests = candidates.slots, candidates.in_flight
    if len(slots) <= FEW_SLOTS:
        if batch is None:
            return min(requests.item(slot) for slot in slots.tolist())
        return min(requests.item(slot) - batch.item(slot) for slot in slots.tolist())
    column = requests[slots]
    if batch is not None:
        column -= batch[slots]
    return int(column.min())


def _least_backlog_ms(candidates: Candidates) -> float:
    kv, slots = candidates.kv, candidates.slots
    assert kv is not None
    least: float
    if len(slots) <= FEW_SLOTS:
        cells = kv.cells.prefill_ms
        least = min(cells[slot] for slot in slots.tolist())
    else:
        least = kv.prefill_ms[slots].min()
    remote = candidates.remote_prefill
    return least if remote is None else min(least, remote.queue_ms)


def _mean_backlog_ms(candidates: Candidates) -> float:
    kv, slots = candidates.kv, candidates.slots
    assert kv is not None
    if len(slots) <= FEW_SLOTS:
        cells = kv.cells.prefill_ms
        return math.fsum(cells[slot] for slot in slots.tolist()) / len(slots)
    mean: float = kv.prefill_ms[slots].mean()
    return mean


def _kv_use(candidates: Candidates) -> float:
    """Share of the candidates' KV that live conversations use; 0 where a capacity is unknown."""
    kv, slots = candidates.kv, candidates.slots
    assert kv is not None
    if len(slots) <= FEW_SLOTS:
        at = slots.tolist()
        used = math.fsum(kv.cells.footprint[slot] for slot in at)
        capacity = math.fsum(kv.cells.capacity[slot] for slot in at)
    else:
        used, capacity = float(kv.footprint[slots].sum()), float(kv.capacity[slots].sum())
    usage: float = kv.certainty * used / capacity if capacity else 0.0
    return usage
