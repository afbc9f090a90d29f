"""How long the SPOP codec takes for one lookup: `python -m bench.codec [--json] [--rounds 101]`.

Times what the router's front does between a read and a write, without sockets and without deciding: decode each NOTIFY,
hand it out, encode its ACK, collect the bytes. Cases take turns round by round, so that a slow spell of the machine
falls on all. Reported: microseconds a NOTIFY and its ACK, the median over rounds and the best round, which a busy
machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pointsman.haproxy.spop import Notify, Scope, SPOPConnection, VariableValue, encode_set_vars
from pointsman.haproxy.spop.frames import FIN, HEAD
from pointsman.haproxy.spop.state import FrameType
from pointsman.haproxy.spop.typed_data import encode_typed
from pointsman.haproxy.spop.varint import encode_varint

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


@dataclass(frozen=True)
class Timing:
    """Microseconds of one lookup, and how many a second the best round amounts to."""

    case: str
    median_us: float
    best_us: float
    lookups_per_s: int


def named(name: str, data: bytes) -> bytes:
    return encode_varint(len(name)) + name.encode() + data


def frame(kind: FrameType, ids: bytes, payload: bytes) -> bytes:
    body = ids + payload
    return HEAD.pack(5 + len(body), kind, FIN) + body


def hello() -> bytes:
    items: dict[str, VariableValue] = {
        "supported-versions": "2.0",
        "max-frame-size": MAX_FRAME_SIZE,
        "capabilities": "pipelining",
    }
    payload = b"".join(named(name, encode_typed(value)) for name, value in items.items())
    return frame(FrameType.HAPROXY_HELLO, b"\x00\x00", payload)


def notify(stream_id: int, args: dict[str, VariableValue]) -> bytes:
    items = b"".join(named(name, encode_typed(value)) for name, value in args.items())
    message = named("route", bytes([len(args)]) + items)
    return frame(FrameType.NOTIFY, encode_varint(stream_id) + b"\x01", message)


def reads(args: dict[str, VariableValue], *, frames_a_read: int = 1, read_bytes: int = 0) -> list[bytes]:
    """What the socket gives: so many frames at once, or pieces of so many bytes."""
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


def measure(rounds: int) -> list[Timing]:
    cases: dict[str, tuple[list[bytes], Callable[[], bytes]]] = {
        "6 arguments": (reads(ROUTE), encoded_once()),
        "6 arguments, answer encoded": (reads(ROUTE), encoded_each_time),
        f"6 arguments, {PIPELINED} a read": (reads(ROUTE, frames_a_read=PIPELINED), encoded_once()),
        f"with {PREFIX_KEYS} prefix keys": (reads(ROUTE_BODY), encoded_once()),
        "with 200 KB in 64 KiB pieces": (reads(WHOLE_BODY, read_bytes=READ_BYTES), encoded_once()),
    }
    connections = {case: SPOPConnection() for case in cases}
    for connection in connections.values():
        connection.receive_data(hello())
        connection.events_received()
    timings: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, (pieces, answer) in cases.items():
            timings[case].append(lookup_us(connections[case], pieces, answer))
    return [
        Timing(case, round(statistics.median(times), 2), round(min(times), 2), round(1e6 / min(times)))
        for case, times in timings.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.codec", description="Time the SPOP codec.")
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    timings = measure(options.rounds)
    machine = {"machine": f"{platform.machine()} {platform.system()}", "python": platform.python_version()}
    if options.json:
        json.dump({**machine, "lookup_us": [asdict(row) for row in timings]}, sys.stdout, indent=2)
        print()
        return
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'NOTIFY decoded + ACK encoded':<34}{'median us':>10}{'best us':>10}{'lookups/s':>12}")
    for row in timings:
        print(f"{row.case:<34}{row.median_us:>10.1f}{row.best_us:>10.1f}{row.lookups_per_s:>12,}")


if __name__ == "__main__":
    main()
