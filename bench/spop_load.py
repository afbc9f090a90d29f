"""HAProxy's part of the lookup, played against a router: NOTIFY frames in, ACKs out, and the ring's lines.

The frames are those of the shipped spoe.cfg (`route`, or `route-body` with the digest of a body) on two connections,
one for each of two threads of HAProxy, with as many lookups in flight on each as are due: HAProxy 2.8 pipelines so.
Behind each lookup comes its end-of-request line, as it would when a short answer has ended, so that reservations are
closed and the router does all its work for a request.
"""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Mapping, Sequence

from bench.pace import LoadError, connect
from pointsman.haproxy.spop.frames import FIN, HEAD, LENGTH_BYTES
from pointsman.haproxy.spop.state import FrameType
from pointsman.haproxy.spop.typed_data import DataType, VariableValue, encode_typed
from pointsman.haproxy.spop.varint import decode_varint, encode_varint

CONNECTIONS = 2
MAX_FRAME_BYTES = 16_380
HELLO_S = 5.0
BODY_BYTES = 65_536
SHARED_KEYS = 8
"""A system prompt of 4 KB, in keys of 512 bytes."""
RING_BEHIND = 100
"""The end-of-request line of a lookup follows so many lookups later: 50 ms at 2,000 a second."""


def message(name: str, values: Mapping[str, bytes]) -> bytes:
    """A NOTIFY's message with these arguments, encoded each."""
    return encode_varint(len(name)) + name.encode() + bytes([len(values)]) + items(values)


def items(values: Mapping[str, bytes]) -> bytes:
    """A KV-LIST, which is what frames other than NOTIFY hold."""
    return b"".join(encode_varint(len(name)) + name.encode() + value for name, value in values.items())


def frame(kind: FrameType, stream_id: int, frame_id: int, payload: bytes) -> bytes:
    """A whole frame."""
    body = encode_varint(stream_id) + encode_varint(frame_id) + payload
    return HEAD.pack(HEAD.size - LENGTH_BYTES + len(body), kind, FIN) + body


def hello(max_frame_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """HAPROXY-HELLO of HAProxy 2.8."""
    values = {
        "supported-versions": encode_typed("2.0"),
        "max-frame-size": bytes([DataType.UINT32]) + encode_varint(max_frame_bytes),
        "capabilities": encode_typed("pipelining,async"),
        "engine-id": encode_typed("2f0e4cb6-3b0d-4b3c-9a52-3d2f1d4be1a7"),
    }
    return frame(FrameType.HAPROXY_HELLO, 0, 0, items(values))


def request_id(number: int) -> str:
    """A unique id of the length HAProxy's `%[uuid]` has."""
    return f"00000000-0000-4000-8000-{number:012d}"


def digest(prefix_keys: Sequence[int], seen_bytes: int) -> bytes:
    """The digest `lua.pm_body` makes of a body that names neither model nor session (haproxy/lua/pointsman.lua)."""
    return struct.pack(f"<HHIIQ{len(prefix_keys)}Q", 0, 0, 0, seen_bytes, 0, *prefix_keys)


def prefix_keys(session: int, count: int) -> list[int]:
    """Keys of one conversation's prompt: the first `SHARED_KEYS` are those of every conversation."""
    rng = random.Random(session)
    return [n + 1 for n in range(min(count, SHARED_KEYS))] + [rng.getrandbits(64) for _ in range(SHARED_KEYS, count)]


def notify(number: int, session: str, body: bytes = b"", **more: VariableValue) -> bytes:
    """The lookup of one request: `route`, or with a digest `route-body`, with the arguments of the shipped spoe.cfg.

    more: values of arguments, and further arguments.
    """
    values: dict[str, VariableValue] = {
        "id": request_id(number),
        "path": "/v1/chat/completions",
        "session": session,
        "tenant": None,
        "size": BODY_BYTES,
        **more,
    }
    encoded = {name: encode_typed(value) for name, value in values.items()}
    if body:
        encoded["body"] = bytes([DataType.STRING]) + encode_varint(len(body)) + body
    return frame(FrameType.NOTIFY, number, 1, message("route-body" if body else "route", encoded))


def end_line(number: int, replica: str, **more: str) -> bytes:
    """The ring's line of one finished request, framed by octet count.

    more: further fields.
    """
    line = {
        "ev": "end", "id": request_id(number), "pid": 1, "srv": replica, "first": replica, "reason": "hash",
        "st": 200, "tw": 0, "tc": 0, "tr": 1, "ta": 2, "ttft": "-", "bytes": 400, "ts": "--", "rc": "0", "routed": "1",
        **more,
    }  # fmt: skip
    text = json.dumps(line, separators=(",", ":")).encode()
    return b"%d %b" % (len(text), text)


class SPOPTarget:
    """A `Target`: the n-th request is the n-th lookup. Frames and lines are built before anything is timed."""

    def __init__(self, spop_port: int, ring_port: int, *, sessions: int, keys: int, count: int) -> None:
        bodies = [digest(prefix_keys(n, keys), BODY_BYTES) if keys else b"" for n in range(sessions)]
        self._frames = [
            notify(number, f"session-{number % sessions:04d}", bodies[number % sessions]) for number in range(count)
        ]
        self._lines = [end_line(number, "replica-1") for number in range(count)]
        self._sockets = [connect(spop_port) for _ in range(CONNECTIONS)]
        self._held = dict.fromkeys(self._sockets, b"")
        self._ring = connect(ring_port)
        for sock in self._sockets:
            self._shake_hands(sock)

    def waiting(self) -> list[socket.socket]:
        return self._sockets

    def send(self, number: int) -> None:
        frame = self._frames[number]
        if self._sockets[number % CONNECTIONS].send(frame) != len(frame):
            raise LoadError("the router does not read its SPOP connection")
        if number >= RING_BEHIND:
            line = self._lines[number - RING_BEHIND]
            if self._ring.send(line) != len(line):
                raise LoadError("the router does not read its ring connection")

    def receive(self, sock: socket.socket) -> list[int]:
        answered, self._held[sock] = read_acks(self._held[sock] + self._read(sock))
        return answered

    def close(self) -> None:
        for sock in (*self._sockets, self._ring):
            sock.close()

    @staticmethod
    def _read(sock: socket.socket) -> bytes:
        data = sock.recv(65_536)
        if not data:
            raise LoadError("the router closed an SPOP connection")
        return data

    def _shake_hands(self, sock: socket.socket) -> None:
        sock.send(hello())
        sock.settimeout(HELLO_S)
        data = self._read(sock)
        while len(data) < LENGTH_BYTES or len(data) < LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big"):
            data += self._read(sock)
        if data[LENGTH_BYTES] != FrameType.AGENT_HELLO:
            raise LoadError(f"an AGENT-HELLO is expected, frame type {data[LENGTH_BYTES]} came")
        sock.setblocking(False)


def read_acks(data: bytes) -> tuple[list[int], bytes]:
    """Stream ids of the whole ACKs in `data`, and the rest. Raises LoadError on an empty ACK or another frame."""
    answered: list[int] = []
    at = 0
    while len(data) - at >= LENGTH_BYTES:
        end = at + LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES], "big")
        if end > len(data):
            break
        if data[at + LENGTH_BYTES] != FrameType.ACK:
            raise LoadError(f"an ACK is expected, frame type {data[at + LENGTH_BYTES]} came")
        stream_id, after = decode_varint(data, at + LENGTH_BYTES + 5)
        _, after = decode_varint(data, after)
        if b"first" not in data[after:end]:
            raise LoadError("an ACK without a replica")
        answered.append(stream_id)
        at = end
    return answered, data[at:]
