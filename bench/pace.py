"""Open-loop load at some thousand requests a second, each sent when it is due to the tenth of a millisecond.

Event loops count milliseconds; `drive` is one plain loop on `select`, whose timeouts are microseconds, with the timer
slack of the process taken away. Latency counts from when a request was *due*, so one that had to wait behind a slow
one is as late as a client would find it (no coordinated omission). How late the generator itself sent is kept too:
where that is not small, the machine was too busy to say anything.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from bench.http import AnswerReader, Request

GRACE_S = 15.0
"""Seconds of waiting for answers after the last request: a target that fell behind is late, not wrong."""
READ_BYTES = 262_144

_PR_SET_TIMERSLACK = 29
_libc = ctypes.CDLL(None)


class LoadError(Exception):
    """The measured thing closed a connection or answered wrongly."""


class Target(Protocol):
    """Asked by `drive`: `send` the n-th request, `receive` from a readable socket, say which requests got answers."""

    def send(self, number: int) -> None: ...

    def receive(self, sock: socket.socket) -> list[int]: ...

    def waiting(self) -> list[socket.socket]: ...


def poisson(per_s: float, seconds: float, rng: random.Random) -> list[float]:
    """When requests of many independent clients are due, in seconds from the start."""
    due: list[float] = []
    at = rng.expovariate(per_s)
    while at < seconds:
        due.append(at)
        at += rng.expovariate(per_s)
    return due


async def call_when_due(due_s: Iterable[float], call: Callable[[int], object]) -> None:
    """Call for each request when it is due, to the millisecond that event loops count.

    due_s: seconds from now, ascending. call: gets the request's number.
    """
    start_s = time.perf_counter()
    for number, at_s in enumerate(due_s):
        await asyncio.sleep(max(0.0, start_s + at_s - time.perf_counter()))
        call(number)


def drive(target: Target, due_s: list[float]) -> tuple[list[float], list[float]]:
    """Send each request when due; latencies of all, and how late each was sent, in seconds. Raises LoadError."""
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # of this thread
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _drive(target, due_s)
    finally:
        if collecting:
            gc.enable()


def _drive(target: Target, due_s: list[float]) -> tuple[list[float], list[float]]:
    latencies_s = [-1.0] * len(due_s)
    late_s = [0.0] * len(due_s)
    clock = time.perf_counter
    start_s = clock() + 0.05
    left = len(due_s)

    def receive(timeout_s: float) -> None:
        nonlocal left
        readable, _, _ = select.select(target.waiting(), (), (), timeout_s)
        for sock in readable:
            answered = target.receive(sock)
            now_s = clock() - start_s
            for number in answered:
                latencies_s[number] = now_s - due_s[number]
            left -= len(answered)

    for number, at_s in enumerate(due_s):
        while True:
            wait_s = at_s - (clock() - start_s)
            # A generator that is late still reads once a request, or answers would seem to come late.
            receive(max(0.0, wait_s))
            if clock() - start_s >= at_s:
                break
        late_s[number] = clock() - start_s - at_s
        target.send(number)
    deadline_s = clock() + GRACE_S
    while left and clock() < deadline_s:
        receive(0.1)
    if left:
        raise LoadError(f"{left} of {len(due_s)} requests got no answer within {GRACE_S:g} s")
    return latencies_s, late_s


class HTTPTarget:
    """Keep-alive connections to one port; a request waits for a free one when all are busy."""

    def __init__(self, port: int, requests: Iterator[Request], body_bytes: int, *, connections: int = 64) -> None:
        self._requests = requests
        self._body_bytes = body_bytes
        self._sockets = [connect(port) for _ in range(connections)]
        self._free = deque(self._sockets)
        self._busy: dict[socket.socket, int] = {}
        self._readers = {sock: AnswerReader() for sock in self._sockets}
        self._queued: deque[int] = deque()

    def waiting(self) -> list[socket.socket]:
        return list(self._busy)

    def send(self, number: int) -> None:
        if not self._free:
            self._queued.append(number)
            return
        sock = self._free.popleft()
        request = next(self._requests)
        data = request.head + request.body
        if sock.send(data) != len(data):
            raise LoadError("a request did not fit the socket's buffer: smaller bodies are expected")
        self._busy[sock] = number

    def receive(self, sock: socket.socket) -> list[int]:
        reader = self._readers[sock]
        data = sock.recv(READ_BYTES)
        if not data:
            raise LoadError("a connection was closed inside an exchange")
        if not reader.feed(data):
            return []
        if reader.status != 200 or reader.body_bytes != self._body_bytes:
            raise LoadError(
                f"status {reader.status} with {reader.body_bytes} bytes; 200 with {self._body_bytes} are expected"
            )
        reader.reset()
        number = self._busy.pop(sock)
        self._free.append(sock)
        if self._queued:
            self.send(self._queued.popleft())
        return [number]

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def connect(port: int) -> socket.socket:
    """A non-blocking connection to a port of this host, without Nagle's delay."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=5.0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock
