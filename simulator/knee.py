"""Where a fleet's KV fills up: the rate at which load 1.0 is defined.

Live KV is what sessions hold or will ask for again: it counts while a turn runs and while its session pauses. Per
replica and at `r` sessions a second, Little's law gives

    live(r) = r * mean over sessions of  sum over turns of  footprint * (prefill + output * itl(r) + pause after)
    itl(r)  = decode(u) / (1 - r * prefill time a session),   u = share of KV held by running turns

with every turn finding its session's history cached. The knee is the `r` at which live(r) is the capacity. Prefill
that saturates the replica drives itl to infinity, so workloads bound by compute have their knee short of that. A
scheduler that places badly breaks down earlier, so this is a scale and no promise.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pointsman.engine.sim.timing import Timing
from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.settings import FleetSettings
from pointsman.simulator.trace import Session, Trace

HALVINGS = 40
"""Bisection steps: a rate to twelve digits."""


@dataclass(frozen=True, slots=True)
class _Demand:
    """Means over sessions; tokens and seconds. `kv_` sums are weighted with the footprint of each turn."""

    prefill_s: float
    kv_prefill_s: float
    kv_pause_s: float
    kv_output: float

    def live(self, per_s: float, capacity: float, timing: Timing) -> float:
        """Live tokens of KV a replica at this rate; inf beyond what it can prefill."""
        spare = 1 - per_s * self.prefill_s
        if spare <= 0:
            return float("inf")
        used = 1.0
        for _ in range(HALVINGS):
            running = self.kv_prefill_s + self.kv_output * timing.decode_s(used) / spare
            used = (used + min(1.0, per_s * running / capacity)) / 2
        return per_s * (running + self.kv_pause_s)


def knee_sessions_per_s(trace: Trace, settings: FleetSettings) -> float:
    """Sessions a second at which this fleet's KV is full of live sessions.

    Raises ExperimentError for a timing that prefills in no time: nothing ever fills up.
    """
    timing = settings.timing_of(0)
    uses = Counter(name for session in trace.sessions for name in set(_all_blocks(session)))
    shared = {name for name, sessions in uses.items() if sessions > 1}
    sessions = [_demand(session, trace, shared, timing, settings.max_num_batched_tokens) for session in trace.sessions]
    demand = _Demand(*np.mean(sessions, axis=0).tolist())
    if demand.prefill_s <= 0:
        raise ExperimentError("load", None, "a rate instead", f"timing {settings.timing!r} has no knee")
    # What sessions share is resident once on every replica.
    capacity = max(settings.kv_tokens / 10, settings.kv_tokens - len(shared) * trace.block_size)
    low, high = 0.0, 1 / demand.prefill_s
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if demand.live(middle, capacity, timing) < capacity:
            low = middle
        else:
            high = middle
    speed = sum(settings.speed(index) for index in range(settings.replicas)) / settings.speed(0)
    return low * speed


def _all_blocks(session: Session) -> list[int]:
    """Blocks of all prompts of a session; turns that share a list are looked at once."""
    lists = {id(turn.blocks): turn.blocks for turn in session.turns}
    return [name for blocks in lists.values() for name in blocks]


def _demand(
    session: Session, trace: Trace, shared: set[int], timing: Timing, batch: int
) -> tuple[float, float, float, float]:
    block_size = trace.block_size
    head = 0
    for name in session.turns[0].blocks:
        if name not in shared:
            break
        head += block_size
    prefill_s = kv_prefill_s = kv_pause_s = kv_output = 0.0
    known = head
    pauses = [later.pause_s for _, later in pairwise(session.turns)] + [0.0]
    for turn, pause_s in zip(session.turns, pauses, strict=True):
        full, rest = divmod(max(1, turn.prompt_tokens - known), batch)
        own_s = full * timing.prefill_s(batch) + timing.prefill_s(rest)
        footprint = max(1, turn.prompt_tokens + turn.output_tokens - head)
        prefill_s += own_s
        kv_prefill_s += footprint * own_s
        kv_pause_s += footprint * pause_s
        kv_output += footprint * turn.output_tokens
        known = turn.prompt_tokens + (turn.output_tokens if trace.reuse_generated else 0)
    return prefill_s, kv_prefill_s, kv_pause_s, kv_output
