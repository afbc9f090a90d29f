"""A running edge under load, and what its clients see: the ground of `bench.failover`.

A `Scene` keeps three loads going at once: streams in a closed loop; whole answers at a steady rate, so that some
requests stand unanswered at any moment; and streams of one token at a steady rate, whose first byte comes as soon as
edge and replica let it. `Scene.event` makes one event happen after quiet time and judges everything that ended since.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from bench.edge import FAIL_OPEN, PATH
from bench.ground import Ground
from bench.http import Request, chat_body
from bench.load import ClosedLoop, Exchange, Expected, OpenLoop, Outcome, quantile
from bench.peers import say

BODY_BYTES = 2048
TURNS_A_SESSION = 3
AROUND_S = 2.0
"""Seconds after an event in which a request counts as sent around it."""
FAIL_OPEN_COUNTER = "pointsman_fail_open_total"


@dataclass(frozen=True)
class FailoverOptions:
    """The load, and how long each event is watched."""

    streams: int = 200
    stream_tokens: int = 250
    token_interval_ms: float = 20.0
    steady_per_s: float = 100.0
    """Of whole answers, and as many streams of one token."""
    whole_tokens: int = 10
    replicas: int = 4
    quiet_s: float = 4.0
    watch_s: float = 6.0
    """At least so long after each event: streams cut by it have ended by then."""

    @classmethod
    def quick(cls) -> FailoverOptions:
        return cls(streams=60, stream_tokens=50, quiet_s=1.0, watch_s=2.0)


@dataclass
class EventResult:
    """Answers of clients around one event. Times in seconds from the event, latencies in milliseconds."""

    event: str
    requests: int = 0
    """Requests that ended in the window, good or not."""
    unanswered: int = 0
    """Requests that had been sent and not been answered at the moment of the event."""
    cut_with_their_replica: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    """Every other failure, by kind."""
    fail_open: int = 0
    """Answers HAProxy placed alone, by their `x-pointsman-reason`."""
    fail_open_counter: float = 0.0
    """Answers HAProxy placed alone, by the router's own counter."""
    first_byte_ms: dict[str, list[float]] = field(default_factory=dict)
    """[p50, p99] in quiet and around the event."""
    whole_after_s: dict[str, float] = field(default_factory=dict)


class Scene:
    """One edge under load, and everything its clients saw."""

    def __init__(self, here: Ground, options: FailoverOptions) -> None:
        self.here = here
        self.options = options
        self.seen: list[Exchange] = []
        """Exchanges that ended since the quiet time before the last event began, in that order."""
        self.one_token: list[Exchange] = []
        """The streams of one token among them."""
        stream = chat_body(BODY_BYTES, max_tokens=options.stream_tokens, stream=True, ignore_eos=True)
        whole = chat_body(BODY_BYTES, max_tokens=options.whole_tokens, ignore_eos=True)
        token = chat_body(BODY_BYTES, max_tokens=1, stream=True, ignore_eos=True)
        port, per_s = here.side.port, options.steady_per_s
        self.streams = ClosedLoop(
            port, _requests(stream, "s"), Expected(), self._record, connections=options.streams, read_names=True
        )
        self.steady = (
            OpenLoop(port, _requests(whole, "w"), Expected(), self._record, per_s=per_s, read_names=True),
            OpenLoop(port, _requests(token, "t"), Expected(), self._record_one_token, per_s=per_s, read_names=True),
        )

    def start(self) -> None:
        self.streams.start()
        for load in self.steady:
            load.start()

    async def stop(self) -> None:
        for load in self.steady:
            await load.stop()
        await self.streams.stop()

    def _record(self, exchange: Exchange) -> None:
        self.seen.append(exchange)

    def _record_one_token(self, exchange: Exchange) -> None:
        self.seen.append(exchange)
        self.one_token.append(exchange)

    async def event(self, name: str, act: Act, *, killed: str = "") -> EventResult:
        """Quiet time, then `act`; what was seen. `killed` names the replica that `act` kills, if it does."""
        say(f"failover: {name}")
        options = self.options
        self.seen.clear()
        self.one_token.clear()
        await asyncio.sleep(options.quiet_s)
        counted = await self.here.metric(FAIL_OPEN_COUNTER)
        at_s = time.perf_counter()
        whole_after_s = await act(self, at_s)
        await asyncio.sleep(max(0.0, at_s + options.watch_s - time.perf_counter()))
        result = judge(name, self.seen, at_s, killed)
        result.first_byte_ms = {
            "quiet": first_byte_ms(self.one_token, at_s - options.quiet_s, at_s),
            "around": first_byte_ms(self.one_token, at_s, at_s + AROUND_S),
        }
        counter = await self.here.metric(FAIL_OPEN_COUNTER)
        result.fail_open_counter = counter - counted if counter >= counted else counter  # a new router counts anew
        result.whole_after_s = whole_after_s
        return result

    async def whole(self) -> bool:
        """Whether the router is ready and all replicas of the edge are up."""
        if (await self.here.admin.get("/readyz")).status_code != 200:
            return False
        states = (await self.here.states()).values()
        return len(states) >= self.options.replicas and set(states) == {"up"}

    async def first_answer_by(self, replica: str, after_s: float) -> float:
        """When the first request sent after a moment was sent that this replica answered."""

        def sent_s() -> list[float]:
            good = (x for x in self.seen if x.replica == replica and x.outcome is Outcome.OK)
            return [x.sent_s for x in good if x.sent_s > after_s]

        async def served() -> bool:
            return bool(sent_s())

        await self.here.until(f"an answer by {replica}", served)
        return min(sent_s())


Act = Callable[[Scene, float], Awaitable[dict[str, float]]]
"""Makes an event happen at a moment, waits until the edge is whole, and tells in seconds how long what took."""


def _requests(body: bytes, prefix: str) -> Iterator[Request]:
    """Conversations of a few turns each."""
    for number in itertools.count():
        yield Request.post(PATH, body, session=f"{prefix}-{number // TURNS_A_SESSION}")


def judge(event: str, seen: list[Exchange], at_s: float, killed: str) -> EventResult:
    """Count what ended since an event at `at_s`; `killed` is the replica it killed."""
    result = EventResult(event)
    failed: Counter[str] = Counter()
    for exchange in seen:
        if exchange.end_s < at_s:
            continue
        result.requests += 1
        if exchange.sent_s < at_s and not 0 < exchange.first_byte_s < at_s:
            result.unanswered += 1
        if exchange.reason == FAIL_OPEN and exchange.sent_s >= at_s:
            result.fail_open += 1
        if exchange.outcome is Outcome.OK:
            continue
        if exchange.outcome is Outcome.CUT and killed and exchange.replica == killed:
            result.cut_with_their_replica += 1
        elif exchange.outcome is Outcome.STATUS:
            failed[f"status {exchange.status}"] += 1
        else:
            failed[str(exchange.outcome)] += 1
    result.failed = dict(failed)
    return result


def first_byte_ms(seen: list[Exchange], begin_s: float, end_s: float) -> list[float]:
    """p50 and p99 of the time to first byte of what was sent in between, in milliseconds."""
    waits_ms = [x.first_byte_after_s * 1000 for x in seen if begin_s <= x.sent_s < end_s and x.first_byte_s]
    return [quantile(waits_ms, 0.5), quantile(waits_ms, 0.99)]


def routed_again_after_s(seen: list[Exchange], at_s: float) -> float:
    """Seconds from `at_s` until the first request the router placed after the last that HAProxy placed alone."""
    alone_s = max((x.sent_s for x in seen if x.sent_s >= at_s and x.reason == FAIL_OPEN), default=None)
    if alone_s is None:
        return 0.0
    placed = (x.sent_s for x in seen if x.sent_s > alone_s and x.outcome is Outcome.OK and x.reason != FAIL_OPEN)
    return min(placed, default=float("nan")) - at_s
