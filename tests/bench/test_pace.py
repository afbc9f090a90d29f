"""The open loop of some thousand requests a second."""

from __future__ import annotations

import itertools
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.http import Request
from bench.pace import HTTPTarget, LoadError, call_when_due, drive, poisson

BODY = b"{}"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server in threads that gives every request the same answer; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        held = b""
        try:
            while data := connection.recv(65536):
                held += data
                while (end := held.find(b"\r\n\r\n")) >= 0 and len(held) >= end + 4 + len(BODY):
                    held = held[end + 4 + len(BODY) :]
                    connection.sendall(answer)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in accepted:
            connection.close()


def target(port: int, connections: int = 2) -> HTTPTarget:
    return HTTPTarget(port, itertools.cycle([Request.post("/x", BODY)]), 2, connections=connections)


def test_poisson_arrivals_have_their_rate() -> None:
    """2,000 a second over 10 s: 20,000 expected, standard deviation 141; in order, and all in time."""
    due_s = poisson(2000, 10, random.Random(1))
    assert abs(len(due_s) - 20_000) < 5 * 141
    assert due_s == sorted(due_s) and due_s[0] > 0 and due_s[-1] < 10


def test_every_request_is_answered_and_none_before_it_was_due() -> None:
    """A single connection makes requests wait; their latency counts from when they were due."""
    due_s = poisson(2000, 0.1, random.Random(2))
    with answering(OK) as port:
        asked = target(port, connections=1)
        latencies_s, late_s = drive(asked, due_s)
        asked.close()
    assert len(latencies_s) == len(late_s) == len(due_s)
    assert min(latencies_s) > 0 and min(late_s) >= 0


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(OK.replace(b"200", b"503"), id="status"),
        pytest.param(OK.replace(b": 2", b": 3").replace(b"ok", b"oki"), id="length"),
    ],
)
def test_a_wrong_answer_ends_the_bench(answer: bytes) -> None:
    """What is not the expected answer must not look fast."""
    with answering(answer) as port:
        asked = target(port)
        with pytest.raises(LoadError):
            drive(asked, [0.0])
        asked.close()


async def test_requests_of_an_event_loop_are_sent_when_they_are_due() -> None:
    """In order, none early, and those at once that are late."""
    sent: list[tuple[int, float]] = []
    start_s = time.perf_counter()
    await call_when_due([0.0, 0.0, 0.02, 0.03], lambda number: sent.append((number, time.perf_counter() - start_s)))
    assert [number for number, _ in sent] == [0, 1, 2, 3]
    assert sent[2][1] >= 0.02 and sent[3][1] >= 0.03
