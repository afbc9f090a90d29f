"""The load generator: keep-alive connections that send prebuilt requests and judge every answer.

One `Exchange` per request says what became of it; `ClosedLoop` keeps a fixed number of requests under way, each next
one sent when an answer is complete. Everything runs on one event loop, in one process: its CPU time is nobody's figure,
it only has to be small and the same for every side of a comparison.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, cast

from bench.http import AnswerReader, BadAnswerError, Request

RECONNECT_S = 0.01
"""Pause of a client whose connection was refused, so that an edge that is away is not hammered."""


class Outcome(StrEnum):
    """Ends that a request can come to."""

    OK = "ok"
    """A complete answer, of the length that was expected, with status 200."""
    STATUS = "status"
    """A complete answer with another status."""
    WRONG = "wrong"
    """Not HTTP, or not the body that was expected."""
    UNANSWERED = "unanswered"
    """The connection was refused or ended before the first byte."""
    CUT = "cut"
    """The connection ended inside the answer."""


@dataclass(slots=True)
class Exchange:
    """One request and its answer. Times are of `time.perf_counter`, 0 where a phase was not reached."""

    sent_s: float
    first_byte_s: float = 0.0
    end_s: float = 0.0
    outcome: Outcome = Outcome.UNANSWERED
    status: int = 0
    replica: str = ""
    """`x-pointsman-replica` of the answer, where the client was asked to read it."""
    reason: str = ""
    events: int = 0

    @property
    def first_byte_after_s(self) -> float:
        return self.first_byte_s - self.sent_s

    @property
    def took_s(self) -> float:
        return self.end_s - self.sent_s


@dataclass(frozen=True)
class Expected:
    """Sizes of a right answer; None where any will do."""

    body_bytes: int | None = None
    events: int | None = None

    def met_by(self, reader: AnswerReader) -> bool:
        return (self.body_bytes is None or reader.body_bytes == self.body_bytes) and (
            self.events is None or reader.events == self.events
        )


class Connection(asyncio.Protocol):
    """One client connection with at most one request under way; `done` is called with each finished exchange."""

    def __init__(
        self,
        done: Callable[[Connection, Exchange], None],
        expected: Expected,
        *,
        read_names: bool = False,
        patience_s: float | None = None,
    ) -> None:
        """patience_s: seconds after which a client that has no whole answer closes its connection; None: never."""
        self._done = done
        self._expected = expected
        self._read_names = read_names
        self._patience_s = patience_s
        self._gives_up: asyncio.TimerHandle | None = None
        self._reader = AnswerReader()
        self._exchange: Exchange | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def usable(self) -> bool:
        """Whether the next request may go out here."""
        return self._transport is not None and not self._transport.is_closing() and self._exchange is None

    @property
    def events(self) -> int:
        """Server-sent events of the answer under way."""
        return self._reader.events if self._exchange is not None else 0

    def send(self, request: Request, sent_s: float = 0.0) -> None:
        """Send a request; `sent_s` is when it was due, where that is not this moment."""
        assert self._transport is not None and self._exchange is None
        self._exchange = Exchange(sent_s or time.perf_counter())
        self._transport.writelines((request.head, request.body))
        if self._patience_s is not None:
            self._gives_up = asyncio.get_running_loop().call_later(self._patience_s, self.close)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.close()  # a peer that speaks unasked; nothing is under way that could be lost
            return
        if not exchange.first_byte_s:
            exchange.first_byte_s = time.perf_counter()
        try:
            complete = self._reader.feed(data)
        except BadAnswerError:
            self.close()
            self._finish(Outcome.WRONG)
            return
        if not complete:
            return
        reader = self._reader
        if reader.status != 200:
            outcome = Outcome.STATUS
        else:
            outcome = Outcome.OK if self._expected.met_by(reader) else Outcome.WRONG
        if reader.closes:
            self.close()
        self._finish(outcome)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._exchange is not None:
            self._finish(Outcome.CUT if self._exchange.first_byte_s else Outcome.UNANSWERED)

    def _finish(self, outcome: Outcome) -> None:
        exchange, reader = self._exchange, self._reader
        assert exchange is not None
        if self._gives_up is not None:
            self._gives_up.cancel()
        self._exchange = None
        exchange.end_s = time.perf_counter()
        exchange.outcome = outcome
        exchange.status = reader.status
        exchange.events = reader.events
        if self._read_names:
            exchange.replica = reader.header(b"x-pointsman-replica").decode("latin-1")
            exchange.reason = reader.header(b"x-pointsman-reason").decode("latin-1")
        reader.reset()
        self._done(self, exchange)


class Load(ABC):
    """Clients of one port: what they send, what they expect, and who sees every finished exchange, failed ones too."""

    def __init__(
        self,
        port: int,
        requests: Iterator[Request],
        expected: Expected,
        record: Callable[[Exchange], None],
        *,
        read_names: bool = False,
        patience_s: float | None = None,
    ) -> None:
        self._port = port
        self._requests = requests
        self._record = record
        self._make = partial(Connection, self._done, expected, read_names=read_names, patience_s=patience_s)

    async def _connect(self, since_s: float) -> Connection | None:
        """A new connection; None, and a failed exchange, when it is refused."""
        try:
            _, connection = await asyncio.get_running_loop().create_connection(self._make, "127.0.0.1", self._port)
        except OSError:
            self._record(Exchange(since_s, end_s=time.perf_counter()))
            return None
        return connection

    @abstractmethod
    def _done(self, connection: Connection, exchange: Exchange) -> None:
        """Take a finished exchange, and decide what its connection does next."""


class ClosedLoop(Load):
    """`connections` requests under way at all times, from `start` until `stop`; ended connections are opened again."""

    def __init__(self, *args: Any, connections: int, **kwargs: Any) -> None:
        """`connections`, and the arguments of `Load`."""
        super().__init__(*args, **kwargs)
        self._count = connections
        self._running = False
        self._open: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()

    @property
    def events(self) -> int:
        """Server-sent events of the answers under way; those of finished ones are in their exchanges."""
        return sum(connection.events for connection in self._open)

    @property
    def answering(self) -> int:
        """Answers of which at least one event has come."""
        return sum(connection.events > 0 for connection in self._open)

    def start(self) -> None:
        self._running = True
        for _ in range(self._count):
            self._start_opening()

    async def stop(self, within_s: float = 30.0) -> None:
        """No further request; answers under way may finish within `within_s`, then they are cut, and recorded so."""
        self._running = False
        for connection in list(self._open):
            if connection.usable:
                self._drop(connection)
        try:
            async with asyncio.timeout(within_s):
                while self._open or self._opening:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            for task in self._opening:
                task.cancel()
            await asyncio.gather(*self._opening, return_exceptions=True)
            for connection in list(self._open):
                connection.close()
            await asyncio.sleep(0)

    def _start_opening(self) -> None:
        task = asyncio.get_running_loop().create_task(self._begin())
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self._idle.set()
        if not task.cancelled():
            task.result()

    async def _begin(self) -> None:
        while self._running:
            connection = await self._connect(time.perf_counter())
            if connection is None:
                await asyncio.sleep(RECONNECT_S)
                continue
            self._open.add(connection)
            if self._running:
                connection.send(next(self._requests))
            else:
                self._drop(connection)
            return

    def _done(self, connection: Connection, exchange: Exchange) -> None:
        self._record(exchange)
        if connection.usable and self._running:
            connection.send(next(self._requests))
            return
        self._drop(connection)
        if self._running:
            self._start_opening()

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._open.discard(connection)
        self._idle.set()


class OpenLoop(Load):
    """Requests at a fixed rate, whatever becomes of those before; times count from when each was due.

    A request goes out on an idle connection, or on one opened for it. Timers of the event loop count milliseconds, so
    rates up to some hundred a second are meant.
    """

    def __init__(self, *args: Any, per_s: float, **kwargs: Any) -> None:
        """`per_s` requests a second, and the arguments of `Load`."""
        super().__init__(*args, **kwargs)
        self._interval_s = 1 / per_s
        self._idle: list[Connection] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._clock: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._clock = asyncio.get_running_loop().create_task(self._tick())

    async def stop(self, within_s: float = 5.0) -> None:
        """No further request; those under way have `within_s`."""
        assert self._clock is not None
        self._clock.cancel()
        await asyncio.gather(self._clock, return_exceptions=True)
        if self._sending:
            await asyncio.wait(self._sending, timeout=within_s)
        for task in self._sending:
            task.cancel()
        for connection in self._idle:
            connection.close()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = time.perf_counter()
        while True:
            task = loop.create_task(self._send(next(self._requests), due_s))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            due_s += self._interval_s
            await asyncio.sleep(due_s - time.perf_counter())

    async def _send(self, request: Request, due_s: float) -> None:
        connection = self._take() or await self._connect(due_s)
        if connection is not None:
            connection.send(request, due_s)

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def _done(self, connection: Connection, exchange: Exchange) -> None:
        self._record(exchange)
        if connection.usable:
            self._idle.append(connection)


class Tally:
    """Counts of finished exchanges, and the latencies of the good ones."""

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.statuses: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.events = 0
        self.latencies_s: list[float] = []

    def __call__(self, exchange: Exchange) -> None:
        self.outcomes[exchange.outcome] += 1
        self.reasons[exchange.reason] += 1
        self.events += exchange.events
        if exchange.outcome is Outcome.OK:
            self.latencies_s.append(exchange.took_s)
        elif exchange.outcome is Outcome.STATUS:
            self.statuses[exchange.status] += 1

    @property
    def ok(self) -> int:
        return self.outcomes[Outcome.OK]

    @property
    def failed(self) -> dict[str, int]:
        """Counts of everything that is not OK, statuses by number."""
        failed = {
            str(kind): count
            for kind, count in self.outcomes.items()
            if count and kind not in (Outcome.OK, Outcome.STATUS)
        }
        return failed | {f"status {status}": count for status, count in self.statuses.items()}


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
