"""A fleet in virtual time whose replicas fail, through the real pipeline and the real end-of-request front.

`FailingFleet` plays clients against one policy: closed loop or open loop, no sleep, no socket. Each end of a request is
the line HAProxy would have written. A request that a full replica answers with 503 goes to the second choice, as
`retry-on 503` has it, unless the decision forbids it.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec
from invariants import check

from pointsman.contract.registration import Registration
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import SWEEP_INTERVAL_S, Core, CoreConfig
from pointsman.router.outliers.failure_accrual import OutlierConfig

ANSWER_S = 0.4
PATIENCE_S = 4.0


class Mode(StrEnum):
    """How a replica answers."""

    WELL = "well"
    ERROR = "error"
    FULL = "full"
    CUT = "cut"
    DROP = "drop"
    HANG = "hang"


ENDS: dict[Mode, tuple[float, dict[str, Any]]] = {
    Mode.WELL: (ANSWER_S, {"st": 200, "ts": "--", "tr": 1}),
    Mode.ERROR: (0.001, {"st": 500, "ts": "--", "tr": 1}),
    Mode.FULL: (0.001, {"st": 503, "ts": "--", "tr": 1}),
    Mode.CUT: (0.02, {"st": 200, "ts": "SD", "tr": 1}),
    Mode.DROP: (0.001, {"st": 502, "ts": "SH", "tr": -1}),
    Mode.HANG: (PATIENCE_S, {"st": -1, "ts": "CH", "tr": -1}),
}
"""How long each takes to end a request, and what HAProxy's line says of it."""

RETRIED = frozenset({Mode.FULL, Mode.DROP})
"""What HAProxy answers by asking the second choice."""


@dataclass
class Seen:
    """What clients saw."""

    failed: int = 0
    served: Counter[str] = field(default_factory=Counter)
    retried: int = 0

    @property
    def requests(self) -> int:
        return self.failed + self.served.total()

    @property
    def failed_share(self) -> float:
        return self.failed / self.requests


class FailingFleet:
    """Replicas r1, r2, ... behind one policy."""

    def __init__(
        self,
        document: dict[str, Any],
        replicas: int = 4,
        *,
        config: OutlierConfig = OutlierConfig(),  # noqa: B008
    ) -> None:
        self.now_s = 1000.0
        self.modes: dict[str, Mode] = {}
        self.core = Core(document, rng=random.Random(3), config=CoreConfig(outliers=config))
        self.load, self.kv, self.sessions = self.core.load, self.core.kv, self.core.sessions
        self.replicas, self.outliers, self.pipeline = self.core.replicas, self.core.outliers, self.core.pipeline
        for number in range(1, replicas + 1):
            self.put(f"r{number}")
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.at(self.now_s, self._step)

    def put(self, name: str, *, born_ms: int = 0) -> None:
        """Registers a replica, or its next incarnation."""
        port = 8000 + int(name[1:])
        registration = Registration(url=f"http://127.0.0.1:{port}", born_ms=born_ms)
        self.replicas.put(name, registration, ("127.0.0.1", port), self.now_s)
        self.modes.setdefault(name, Mode.WELL)

    # Virtual time

    def at(self, when_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when_s, next(self._order), do))

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        end_s = self.now_s + seconds
        while self._events and self._events[0][0] <= end_s:
            self.now_s, _, do = heapq.heappop(self._events)
            do()
            check(self.outliers)
        self.now_s = end_s

    def _step(self) -> None:
        self.core.sweep(self.now_s)
        self.at(self.now_s + SWEEP_INTERVAL_S, self._step)

    # Clients

    def closed(self, seconds: float, clients: int = 32) -> Seen:
        """So many clients, each with one request under way at any time."""
        seen, until_s = Seen(), self.now_s + seconds

        def again() -> None:
            if self.now_s < until_s:
                self.ask(seen, then=again)

        for _ in range(clients):
            self.at(self.now_s, again)
        self.run(seconds + PATIENCE_S + 1)
        return seen

    def open(self, seconds: float, per_s: float = 60.0) -> Seen:
        """Requests at a fixed rate."""
        seen = Seen()
        for number in range(int(seconds * per_s)):
            self.at(self.now_s + number / per_s, lambda: self.ask(seen))
        self.run(seconds + PATIENCE_S + 1)
        return seen

    def ask(self, seen: Seen, then: Callable[[], None] = lambda: None) -> None:
        """One request, of a conversation of five turns."""
        number = next(self._order)
        request_id, began_s = f"q{number}", self.now_s
        features = RequestFeatures(request_id=request_id, session=f"s{number // 5}", body_bytes=2000, max_tokens=20)
        decision = self.pipeline.decide(features, self.now_s)
        server, retries = decision.first, "0"
        mode = self.modes[server]
        after_s, fields = ENDS[mode]
        if mode in RETRIED and decision.second and not decision.once:
            seen.retried += 1
            server, retries = decision.second, "+1"
            mode = self.modes[server]
            more_s, fields = ENDS[mode]
            after_s += more_s

        def end() -> None:
            said = {"ev": "end", "id": request_id, "srv": server, "first": decision.first, "rc": retries, "routed": "1"}
            said |= {"reason": str(decision.reason), "ta": round(1000 * (self.now_s - began_s)), **fields}
            self.core.end_of_request.apply(msgspec.json.encode(said), self.now_s)
            if mode is Mode.WELL:
                seen.served[server] += 1
            else:
                seen.failed += 1
            then()

        self.at(self.now_s + after_s, end)
