"""Times of the SPOP codec for one lookup: `python -m bench.codec [--json] [--rounds 101]`.

Times what the router's front does between a read and a write, without sockets and without deciding: decode each NOTIFY,
hand it out, encode its ACK, collect the bytes. Cases take turns round by round, so that a slow spell of the machine
falls on all. Reported: microseconds a NOTIFY and its ACK, the median over rounds and the best round, which a busy
machine disturbs least.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from bench.form import by_turns, median_and_best, read_options, row, show
from bench.spop_load import frame, hello, message
from pointsman.haproxy.spop import Notify, Scope, SPOPConnection, VariableValue, encode_set_vars
from pointsman.haproxy.spop.state import FrameType
from pointsman.haproxy.spop.typed_data import encode_typed

LOOKUPS = 1000
"""A round's lookups, in each case."""
PIPELINED = 20
"""NOTIFYs in one read: HAProxy's `max-waiting-frames`."""
PREFIX_KEYS = 256
"""As many as `pm_body` sends at most, 8 bytes each."""
READ_BYTES = 64 * 1024
FIRST_STREAM_ID = 100_000
"""Takes three bytes, as most stream ids of a HAProxy that has been running for a while."""
MAX_FRAME_SIZE = 262_140

ROUTE: dict[str, VariableValue] = {
    "id": "8f2c1c0e-7c0f-4a53-9b7e-2a0d2f6a0c11",
    "path": "/v1/chat/completions",
    "session": "session-12345",
    "tenant": None,
    "size": 2048,
    "policy": None,
}
ROUTE_BODY = ROUTE | {"body": "\x00" * (24 + 8 * PREFIX_KEYS)}
WHOLE_BODY = ROUTE | {"body": b"x" * 200_000}
ANSWER: dict[str, VariableValue] = {"first": "r1", "second": "r2", "reason": "hash"}


def notify(stream_id: int, args: dict[str, VariableValue]) -> bytes:
    encoded = {name: encode_typed(value) for name, value in args.items()}
    return frame(FrameType.NOTIFY, stream_id, 1, message("route", encoded))


def reads(args: dict[str, VariableValue], *, frames_a_read: int = 1, read_bytes: int = 0) -> list[bytes]:
    """Bytes by read of the socket: so many frames at once, or pieces of so many bytes."""
    frames = [notify(FIRST_STREAM_ID + number, args) for number in range(LOOKUPS)]
    if read_bytes:
        stream = b"".join(frames)
        return [stream[at : at + read_bytes] for at in range(0, len(stream), read_bytes)]
    return [b"".join(frames[at : at + frames_a_read]) for at in range(0, LOOKUPS, frames_a_read)]


def encoded_once() -> Callable[[], bytes]:
    payload = encode_set_vars(Scope.TXN, ANSWER)
    return lambda: payload


def encoded_each_time() -> bytes:
    return encode_set_vars(Scope.TXN, ANSWER)


def lookup_us(connection: SPOPConnection, pieces: list[bytes], answer: Callable[[], bytes]) -> float:
    """Mean microseconds a lookup over all the pieces."""
    answered = 0
    started_ns = time.perf_counter_ns()
    for piece in pieces:
        connection.receive_data(piece)
        for event in connection.events_received():
            if type(event) is Notify:
                connection.send_ack(event.stream_id, event.frame_id, answer())
                answered += 1
        connection.data_to_send()
    elapsed_ns = time.perf_counter_ns() - started_ns
    assert answered == LOOKUPS
    return elapsed_ns / LOOKUPS / 1000


def measure(rounds: int) -> dict[str, list[float]]:
    """Microseconds a lookup by case and round."""
    cases: dict[str, tuple[list[bytes], Callable[[], bytes]]] = {
        "6 arguments": (reads(ROUTE), encoded_once()),
        "6 arguments, answer encoded": (reads(ROUTE), encoded_each_time),
        f"6 arguments, {PIPELINED} a read": (reads(ROUTE, frames_a_read=PIPELINED), encoded_once()),
        f"with {PREFIX_KEYS} prefix keys": (reads(ROUTE_BODY), encoded_once()),
        "with 200 KB in 64 KiB pieces": (reads(WHOLE_BODY, read_bytes=READ_BYTES), encoded_once()),
    }
    timed = {}
    for case, (pieces, answer) in cases.items():
        connection = SPOPConnection()
        connection.receive_data(hello(MAX_FRAME_SIZE))
        connection.events_received()
        timed[case] = partial(lookup_us, connection, pieces, answer)
    return by_turns(rounds, timed)


def main(arguments: list[str] | None = None) -> None:
    options = read_options("codec", __doc__, arguments, rounds=51)
    timed = {case: median_and_best(times) for case, times in measure(options.rounds).items()}
    rows = [
        {"case": case, "median_us": median, "best_us": best, "lookups_per_s": round(1e6 / best)}
        for case, (median, best) in timed.items()
    ]
    lines = [row("NOTIFY decoded + ACK encoded", ("median us", "best us", "lookups/s"))]
    lines += [
        row(case, (f"{median:.1f}", f"{best:.1f}", f"{1e6 / best:,.0f}")) for case, (median, best) in timed.items()
    ]
    show(options.json, {"lookup_us": rows}, lines)


if __name__ == "__main__":
    main()
