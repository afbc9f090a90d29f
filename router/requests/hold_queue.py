"""Requests held at the edge until there is room for them.

`HoldQueue` owns which requests wait, since when and until when, and their order. Among requests that the very same
replicas may serve: the higher priority class first; in a class, the tenant that was served the least of its share
(`pointsman.router.requests.fair_share`); of a tenant, sessions under way before sessions that begin, then the earlier
deadline, then the earlier arrival. Where there are no classes, tenants and deadlines, that is first come first served.

The queue is bounded in requests and in bytes of bodies. When it is full, a request of a higher class takes the place of
one of the lowest class that waits; within a class, of one of the tenant that has the most places for its weight. Every
wait ends in one of the ways of `Outcome`, each counted by class. Nothing here keeps time.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from operator import attrgetter
from typing import Any

import msgspec

from pointsman.policies.decision import Decision
from pointsman.policies.request import Priority, RequestFeatures
from pointsman.router.counts.histogram import Histogram
from pointsman.router.fleet.memberships import Membership
from pointsman.router.requests.fair_share import FairShare, FairShares, Owner

MAX_HELD = 1024
"""Each held request keeps two connections open: a client's and one to the router. At the limit requests are refused."""

MAX_HELD_BYTES = 256 << 20
"""Bodies that HAProxy may keep of held requests."""

BUFFER_BYTES = 128 << 10
"""HAProxy keeps at most one buffer of a body that waits."""

Asked = tuple[str, str]
"""Model, and the alias by which it was asked for, or an empty name."""

HELD_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class Outcome(StrEnum):
    """Outcome of a request that a policy wanted to hold."""

    # Counted with every one of them; Enum's own hash is a Python call.
    __hash__ = str.__hash__

    ADMITTED = "admitted"
    TIMED_OUT = "timed-out"
    """Refused after its whole wait."""
    REFUSED = "refused"
    """Refused while it waited, for another reason."""
    GONE = "gone"
    """The client left."""
    DROPPED = "dropped"
    """The router stops, or failed: HAProxy chooses for it."""
    OVERFLOW = "overflow"
    """Refused at once, because too many wait."""
    SHED = "shed"
    """Refused while it waited, because the queue was full and a request came that goes first."""


class Held(msgspec.Struct, eq=False, gc=False):
    """One request that waits for room."""

    features: RequestFeatures
    since_s: float
    until_s: float
    refusal: Decision
    """The answer when the wait is over."""
    under_way: bool
    """Whether the request goes on with a session that has been served before."""
    key: tuple[bool, float, int]
    """Order among the requests of one owner: sessions that begin last, then by deadline, then by arrival."""
    bytes: int
    """Bytes that HAProxy keeps of its body, at most."""

    @property
    def asked(self) -> Asked:
        return self.features.model, self.features.alias

    @property
    def owner(self) -> Owner:
        return self.features.priority, self.features.tenant


_key = attrgetter("key")


class Line(msgspec.Struct, eq=False, gc=False):
    """Requests that the very same replicas may serve: only the first of them may go."""

    queues: list[tuple[Asked, Owner]]
    """Model, alias and owner of requests that wait."""
    share: FairShare


MembersOf = Callable[[RequestFeatures], Membership]
"""The replicas that may serve a request; the same for all requests of one tenant for one model by one alias."""


class HoldQueue:
    """The requests that wait for room, in their order."""

    def __init__(
        self,
        *,
        max_held: int = MAX_HELD,
        max_bytes: int = MAX_HELD_BYTES,
        weight_of: Callable[[str], float] = lambda tenant: 1.0,
    ) -> None:
        """max_bytes: of bodies. weight_of: weight of a tenant by its name."""
        self.held: dict[str, Held] = {}
        """By request id, first come first; to be read only."""
        self.models: Counter[str] = Counter()
        """Number of waiting requests by model; to be read only."""
        self.owners: Counter[Owner] = Counter()
        """Number of waiting requests by class and tenant; to be read only."""
        self.bytes = 0
        self.shares = FairShares(weight_of)
        self.by_class: Counter[tuple[Outcome, int]] = Counter()
        """Outcomes by priority class."""
        self.waited_by_class_s = {priority: Histogram(HELD_BOUNDS_S) for priority in Priority}
        """Seconds that requests of a class waited, whatever became of them."""
        self._max_held = max_held
        self._max_bytes = max_bytes
        self._weight_of = weight_of
        self._queues: dict[Asked, dict[Owner, list[Held]]] = {}
        """By what is asked for and owner, in the order of `Held.key`."""
        self._arrivals = itertools.count()
        self._due: list[tuple[float, int, Held]] = []
        """A heap by `until_s`, with some that have left."""

    def __len__(self) -> int:
        return len(self.held)

    def __iter__(self) -> Iterator[Held]:
        return iter(self.held.values())

    def __repr__(self) -> str:
        return f"HoldQueue({len(self)} of at most {self._max_held})"

    # Places

    @property
    def full(self) -> bool:
        return len(self.held) >= self._max_held or self.bytes >= self._max_bytes

    def has_place(self, features: RequestFeatures) -> bool:
        """Whether a request may join: there is room, or one that waits has to give up its place."""
        return not self.full or self._lowest_below(features) is not None

    def displaced_by(self, features: RequestFeatures) -> Held | None:
        """The waiting request whose place another one takes; None where there is room. Nothing changes."""
        return self._lowest_below(features) if self.full else None

    def _lowest_below(self, features: RequestFeatures) -> Held | None:
        """The request that is shed for another one; None where none that waits is lower."""
        priority = min(owner[0] for owner in self.owners)
        if features.priority < priority:
            return None
        places = {owner: n / self._weight_of(owner[1]) for owner, n in self.owners.items() if owner[0] == priority}
        largest = max(places, key=places.__getitem__)
        if features.priority == priority:
            own = (features.priority, features.tenant)
            after = places.get(own, 0.0) + 1.0 / self._weight_of(features.tenant)
            if own == largest or after >= places[largest]:
                return None
        queues = (owners[largest] for owners in self._queues.values() if largest in owners)
        lowest = max((queue[-1] for queue in queues), key=_key)
        return lowest if self.bytes - lowest.bytes < self._max_bytes else None

    def count_overflow(self, priority: int) -> None:
        """Counts a request that was refused because the queue is full."""
        self.by_class[Outcome.OVERFLOW, priority] += 1

    @property
    def outcomes(self) -> Counter[Outcome]:
        """Outcomes of all classes."""
        found: Counter[Outcome] = Counter()
        for (outcome, _), count in self.by_class.items():
            found[outcome] += count
        return found

    @property
    def waited_s(self) -> Histogram:
        """Seconds that requests waited, of all classes."""
        found = Histogram(HELD_BOUNDS_S)
        for waited_s in self.waited_by_class_s.values():
            found.add(waited_s)
        return found

    # Coming and going

    def join(
        self,
        features: RequestFeatures,
        now_s: float,
        wait_s: float,
        refusal: Decision,
        *,
        under_way: bool = False,
        share: FairShare | None = None,
    ) -> Held:
        """Gives a request its place. The queue is not full, and no request of that id waits.

        wait_s: seconds after which the request is answered with `refusal`; its deadline may come before.
        under_way: whether its session has been served before.
        share: that of the replicas it waits for; None where nobody counts.
        """
        assert not self.full and features.request_id not in self.held
        until_s, deadline_s = now_s + wait_s, math.inf
        if features.deadline_ms:
            deadline_s = now_s + features.deadline_ms / 1000
            until_s = min(until_s, deadline_s)
        key = (not under_way, deadline_s, next(self._arrivals))
        size = min(features.body_bytes, BUFFER_BYTES)
        held = self.held[features.request_id] = Held(features, now_s, until_s, refusal, under_way, key, size)
        owner, model = held.owner, features.model
        if share is not None and not self.owners[owner]:
            share.came(owner, (other for other in self.owners if other[0] == owner[0] and other != owner))
        queue = self._queues.setdefault(held.asked, {}).setdefault(owner, [])
        insort(queue, held, key=_key)
        self.models[model] += 1
        self.owners[owner] += 1
        self.bytes += size
        heapq.heappush(self._due, (until_s, key[2], held))
        return held

    def leave(self, request_id: str, now_s: float, outcome: Outcome) -> bool:
        """Takes a request out of the queue and counts its outcome; False if it did not wait."""
        held = self.held.pop(request_id, None)
        if held is None:
            return False
        owner, model = held.owner, held.features.model
        owners = self._queues[held.asked]
        queue = owners[owner]
        del queue[bisect_left(queue, held.key, key=_key)]
        if not queue:
            del owners[owner]
            if not owners:
                del self._queues[held.asked]
        _count_down(self.models, model)
        _count_down(self.owners, owner)
        self.bytes -= held.bytes
        if len(self._due) > 2 * len(self.held) + 64:
            self._due = [due for due in self._due if due[2].features.request_id in self.held]
            heapq.heapify(self._due)
        priority = Priority(owner[0])
        self.by_class[outcome, priority] += 1
        self.waited_by_class_s[priority].observe(now_s - held.since_s)
        return True

    def overdue(self, now_s: float) -> Iterator[Held]:
        """The requests whose wait is over; each has to leave before the next one is asked for."""
        while self._due and self._due[0][0] <= now_s:
            held = heapq.heappop(self._due)[2]
            if self.held.get(held.features.request_id) is held:
                yield held

    def waited_of(self, request_id: str, now_s: float) -> float:
        """Return the seconds for which a request has waited; 0 for one that does not wait."""
        held = self.held.get(request_id)
        return 0.0 if held is None else now_s - held.since_s

    # Order

    def lines(self, members_of: MembersOf) -> list[Line]:
        """The lines in which requests wait, in the order in which their models began to be waited for."""
        lines: dict[bytes, Line] = {}
        for asked, owners in self._queues.items():
            for owner, queue in owners.items():
                members = members_of(queue[0].features)
                line = lines.get(slots := members.slots.tobytes())
                if line is None:
                    line = lines[slots] = Line([], self.shares.of(asked[0], members))
                line.queues.append((asked, owner))
        return list(lines.values())

    def first(self, line: Line, *, under_way: bool = False) -> Held | None:
        """The request of a line whose turn it is; None where none waits.

        under_way: whether only sessions under way are asked for.
        """
        best: Held | None = None
        best_rank: tuple[int, float, tuple[bool, float, int]] | None = None
        counter, queues = line.share.counter, self._queues
        for asked, owner in line.queues:
            queue = queues[asked].get(owner) if asked in queues else None
            if queue is None or (best_rank is not None and -owner[0] > best_rank[0]):
                continue
            first = queue[0]
            if under_way and not first.under_way:
                continue
            rank = (-owner[0], counter(owner), first.key)
            if best_rank is None or rank < best_rank:
                best, best_rank = first, rank
        return best

    def has_waiting(
        self, members_of: MembersOf, members: Membership, features: RequestFeatures, *, under_way: bool = False
    ) -> bool:
        """Whether a request waits for the very same replicas before which another one would not go.

        members: the replicas that may serve the other one. features: of that one.
        under_way: whether its session has been served before.
        """
        slots = None
        for owners in self._queues.values():
            for owner, queue in owners.items():
                # Within a class, one of a session that begins waits behind all, one of a session under way only behind
                # others of the kind.
                if owner[0] < features.priority or (
                    owner[0] == features.priority and under_way and not queue[0].under_way
                ):
                    continue
                slots = members.slots.tobytes() if slots is None else slots
                if members_of(queue[0].features).slots.tobytes() == slots:
                    return True
        return False


def _count_down(counts: Counter[Any], of: object) -> None:
    """One less; nothing is kept of what there is none of, since names come from clients."""
    counts[of] -= 1
    if not counts[of]:
        del counts[of]
