"""Two policies compared on the same requests: what one decided, what the other would have, and what that was worth.

One neutral judge predicts for both: the time to the first token, as the replica's prefill backlog and its time for what
it does not hold of the prompt (`T_w(A_w) + T_w(u_w)`, see `pointsman.policies.builtin.kv_cost`), and the prompt tokens
that it holds. The judge is no policy: it knows no harm to others, and it sees the fleet as the policy in force made it.

`Comparison` owns the counts. What always holds: its memory is bounded, whatever the replicas are called.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from pointsman.policies.candidates import Candidates
from pointsman.policies.decision import Refusal

MAX_PAIRS = 1024
"""Pairs of replicas between which requests move that are counted by themselves; a fleet of 32 has no more."""

REFUSED = "(refused)"
"""In place of a replica: the policy refuses the request."""

HELD = "(held)"
"""In place of a replica: the policy has the request wait for room."""


class Prediction(NamedTuple):
    """Prediction of a request on one replica."""

    ttft_ms: float
    cached_tokens: int


def predict(candidates: Candidates, slot: int) -> Prediction | None:
    """Predict the first token of a request on a candidate; None where prompts and KV were not looked at.

    Where a prefill replica would compute the prompt, the time is that of the pair.
    """
    kv = candidates.kv
    if kv is None:
        return None
    cached = candidates.resident.tokens(slot)
    uncached = max(1, candidates.prompt_tokens - cached)
    ttft_ms = kv.cells.prefill_ms[slot] + kv.time_ms(slot, uncached)
    remote = candidates.remote_prefill
    if remote is not None and remote.worthwhile(uncached, ttft_ms):
        ttft_ms = remote.queue_ms + remote.miss_ms
    return Prediction(ttft_ms, min(cached, candidates.prompt_tokens))


def without_replica(refusal: Refusal) -> str:
    """Return the words in place of a replica for a request that is not placed."""
    return HELD if refusal.wait_s > 0 else REFUSED


class Tally:
    """Sums over requests."""

    __slots__ = ("judged", "made_cached", "made_ms", "moved", "other_cached", "other_ms", "predicted", "tied")

    def __init__(self) -> None:
        self.judged = 0
        self.moved = 0
        """Of those, requests that the other policy sends elsewhere."""
        self.tied = 0
        """Of those, requests that the other policy might as well have left: it holds both replicas for equal."""
        self.predicted = 0
        """Requests of which both choices have a prediction; the sums are about those."""
        self.made_ms = 0.0
        self.other_ms = 0.0
        self.made_cached = 0
        self.other_cached = 0

    def add(self, *, moved: bool, tied: bool, made: Prediction | None, other: Prediction | None) -> None:
        """Count one request."""
        self.judged += 1
        self.moved += moved
        self.tied += tied
        if made is not None and other is not None:
            self.predicted += 1
            self.made_ms += made.ttft_ms
            self.other_ms += other.ttft_ms
            self.made_cached += made.cached_tokens
            self.other_cached += other.cached_tokens


class Comparison:
    """Counts of what two policies make of the same requests."""

    def __init__(self) -> None:
        self.total = Tally()
        self.by_reason: dict[str, Tally] = {}
        """By the reason of the decision that was made."""
        self.moves: Counter[tuple[str, str]] = Counter()
        """Requests that move, by the replica that they had and the one that they would have."""
        self.moves_uncounted = 0
        """Requests that move between pairs beyond `MAX_PAIRS`."""

    def __repr__(self) -> str:
        return f"Comparison({self.total.judged} judged, {self.total.moved} moved)"

    def add(
        self,
        reason: str,
        had: str,
        would_have: str,
        *,
        tied: bool = False,
        made: Prediction | None = None,
        other: Prediction | None = None,
    ) -> None:
        """Count one request.

        reason: of the decision that was made. had, would_have: the two choices, as replica ids.
        tied: whether the other policy holds both choices for equal.
        made, other: what is predicted of the two; None where nothing is.
        """
        moved = had != would_have
        tally = self.by_reason.get(reason)
        if tally is None:
            tally = self.by_reason[reason] = Tally()
        for one in (self.total, tally):
            one.add(moved=moved, tied=moved and tied, made=made, other=other)
        if moved:
            pair = (had, would_have)
            if pair in self.moves or len(self.moves) < MAX_PAIRS:
                self.moves[pair] += 1
            else:
                self.moves_uncounted += 1
