"""HAProxy's side of SPOP, for tests: writes what HAProxy writes, reads what an agent answers.

It shares nothing with `pointsman.haproxy.spop` but the enums of numbers: encoders and parsers are written again from
SPOE.txt, slowly and plainly, so that the two check each other. Bytes first, then `SPOPPeer`, the same over a socket:

    async with connect("127.0.0.1", port) as peer:
        await peer.handshake()
        ack = await peer.ask(message("route", id=string("r-1"), path=string("/v1/models")))
        assert ack.variables == {"txn.first": "r1"}
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from pathlib import Path

from pointsman.haproxy.spop.actions import ActionType, Scope
from pointsman.haproxy.spop.state import FrameType
from pointsman.haproxy.spop.typed_data import DataType

FIN = 0x1
ABORT = 0x2

GOLDEN = Path(__file__).parents[1] / "haproxy" / "golden"


def golden(name: str) -> bytes:
    """The bytes of `tests/haproxy/golden/<name>.hex`, as `capture_spop.py` took them from a real HAProxy."""
    lines = (GOLDEN / f"{name}.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


# --- numbers and typed data (SPOE.txt 3.1)


def varint(value: int) -> bytes:
    """`value` in the peers encoding, its table read line by line."""
    if value < 240:
        return bytes([value])
    out = [0xF0 | (value & 0x0F)]
    value = (value - 240) // 16
    while value >= 128:
        out.append(0x80 | (value & 0x7F))
        value = (value - 128) // 128
    return bytes([*out, value])


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def null() -> bytes:
    return bytes([DataType.NULL])


def boolean(value: bool) -> bytes:
    return bytes([DataType.BOOL | (0x10 if value else 0)])


def integer(value: int, kind: DataType = DataType.INT64) -> bytes:
    """An integer of the given type; HAProxy itself sends INT64, and UINT32 in HELLO and DISCONNECT."""
    return bytes([kind]) + varint(value % 2**64)


def ip(text: str) -> bytes:
    """An IPv4 or IPv6 address."""
    if ":" in text:
        return bytes([DataType.IPV6]) + IPv6Address(text).packed
    return bytes([DataType.IPV4]) + IPv4Address(text).packed


def string(value: str | bytes) -> bytes:
    return bytes([DataType.STRING]) + _sized(value.encode() if isinstance(value, str) else value)


def binary(value: bytes) -> bytes:
    return bytes([DataType.BINARY]) + _sized(value)


# --- frames HAProxy sends (SPOE.txt 3.2)


def frame(
    kind: int,
    payload: bytes = b"",
    *,
    stream_id: int = 0,
    frame_id: int = 0,
    flags: int = FIN,
) -> bytes:
    """Any frame, right or wrong."""
    body = bytes([kind]) + flags.to_bytes(4, "big") + varint(stream_id) + varint(frame_id) + payload
    return len(body).to_bytes(4, "big") + body


def items(values: Mapping[str, bytes | None]) -> bytes:
    """A KV-LIST of encoded values; those that are None are left out."""
    return b"".join(_sized(name.encode()) + value for name, value in values.items() if value is not None)


def hello(
    *,
    versions: str | None = "2.0",
    max_frame_size: int | None = 16380,
    capabilities: str | None = "pipelining,async",
    engine_id: str | None = "2f0e4cb6-3b0d-4b3c-9a52-3d2f1d4be1a7",
    healthcheck: bool | None = None,
    **frame_fields: int,
) -> bytes:
    """HAPROXY-HELLO with the values of HAProxy 2.8; None leaves an item out."""
    payload = items(
        {
            "supported-versions": None if versions is None else string(versions),
            "max-frame-size": None if max_frame_size is None else integer(max_frame_size, DataType.UINT32),
            "capabilities": None if capabilities is None else string(capabilities),
            "engine-id": None if engine_id is None else string(engine_id),
            "healthcheck": None if healthcheck is None else boolean(healthcheck),
        }
    )
    return frame(FrameType.HAPROXY_HELLO, payload, **frame_fields)


def healthcheck_hello() -> bytes:
    """What `option spop-check` sends."""
    return hello(capabilities="", engine_id=None, healthcheck=True)


def message(name: str, /, **args: bytes) -> bytes:
    """One message of a NOTIFY; each argument is an encoded value."""
    return _sized(name.encode()) + bytes([len(args)]) + items(args)


def notify(stream_id: int, frame_id: int, *messages: bytes, flags: int = FIN) -> bytes:
    """NOTIFY."""
    return frame(FrameType.NOTIFY, b"".join(messages), stream_id=stream_id, frame_id=frame_id, flags=flags)


def disconnect(status: int = 0, text: str = "normal") -> bytes:
    """HAPROXY-DISCONNECT."""
    return frame(
        FrameType.HAPROXY_DISCONNECT,
        items({"status-code": integer(status, DataType.UINT32), "message": string(text)}),
    )


# --- frames an agent sends


class BadAgentFrameError(Exception):
    """What the agent wrote is not what SPOE.txt allows."""


@dataclass(frozen=True)
class AgentHello:
    version: str
    max_frame_size: int
    capabilities: str


@dataclass(frozen=True)
class AgentDisconnect:
    status: int
    message: str


@dataclass(frozen=True)
class Ack:
    stream_id: int
    frame_id: int
    variables: dict[str, object] = field(default_factory=dict)
    """`scope.name` -> value; STRING as str, BINARY as bytes; an unset variable is `UNSET`."""


UNSET = object()

AgentFrame = AgentHello | AgentDisconnect | Ack


def parse(data: bytes) -> list[AgentFrame]:
    """The frames in what an agent wrote. BadAgentFrameError if it is not exactly a sequence of them."""
    frames = []
    while data:
        size = 4 + int.from_bytes(data[:4], "big")
        if len(data) < size:
            raise BadAgentFrameError(f"{size - len(data)} bytes are missing")
        frames.append(parse_frame(data[4:size]))
        data = data[size:]
    return frames


def parse_frame(body: bytes) -> AgentFrame:
    """One frame without its length."""
    cursor = _Cursor(body)
    kind = cursor.byte()
    if int.from_bytes(cursor.take(4), "big") != FIN:
        raise BadAgentFrameError("an agent's frame has FIN and no other flag")
    stream_id, frame_id = cursor.varint(), cursor.varint()
    if kind == FrameType.ACK:
        return Ack(stream_id, frame_id, _parse_actions(cursor))
    if stream_id or frame_id:
        raise BadAgentFrameError("HELLO and DISCONNECT have ids of 0")
    values: dict[str, object] = {}
    while not cursor.done:
        name = cursor.take(cursor.varint()).decode()
        values[name] = cursor.typed()
    if kind == FrameType.AGENT_HELLO and values.keys() == {"version", "max-frame-size", "capabilities"}:
        return AgentHello(values["version"], values["max-frame-size"], values["capabilities"])  # type: ignore[arg-type]
    if kind == FrameType.AGENT_DISCONNECT and values.keys() == {"status-code", "message"}:
        return AgentDisconnect(values["status-code"], values["message"])  # type: ignore[arg-type]
    raise BadAgentFrameError(f"frame type {kind} with items {sorted(values)}")


def _parse_actions(cursor: _Cursor) -> dict[str, object]:
    variables: dict[str, object] = {}
    while not cursor.done:
        action, args = cursor.byte(), cursor.byte()
        scope = Scope(cursor.byte()).name.lower()
        name = f"{scope}.{cursor.take(cursor.varint()).decode()}"
        if (action, args) == (ActionType.SET_VAR, 3):
            variables[name] = cursor.typed()
        elif (action, args) == (ActionType.UNSET_VAR, 2):
            variables[name] = UNSET
        else:
            raise BadAgentFrameError(f"action {action} with {args} arguments")
    return variables


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self._left = data

    @property
    def done(self) -> bool:
        return not self._left

    def take(self, size: int) -> bytes:
        if len(self._left) < size:
            raise BadAgentFrameError("a frame is cut short")
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = byte = self.byte()
        if value < 240:
            return value
        weight = 16
        while True:
            byte = self.byte()
            value += byte * weight
            weight *= 128
            if byte < 128:
                return value

    def typed(self) -> object:
        head = self.byte()
        kind = DataType(head & 0x0F)
        if kind is DataType.NULL:
            return None
        if kind is DataType.BOOL:
            return bool(head & 0x10)
        if kind is DataType.IPV4:
            return IPv4Address(self.take(4))
        if kind is DataType.IPV6:
            return IPv6Address(self.take(16))
        if kind is DataType.STRING:
            return self.take(self.varint()).decode()
        if kind is DataType.BINARY:
            return self.take(self.varint())
        value = self.varint()
        return value - 2**64 if kind in (DataType.INT32, DataType.INT64) and value >= 2**63 else value


# --- the same over a socket


class SPOPPeer:
    """One connection to an agent, as HAProxy would use it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._stream_ids = count(1)

    async def send(self, *frames: bytes) -> None:
        """Write frames, or any bytes, at once."""
        self._writer.write(b"".join(frames))
        await self._writer.drain()

    async def receive(self) -> AgentFrame | None:
        """The agent's next frame; None when it closed the connection."""
        try:
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            return parse_frame(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return None

    async def handshake(self, **hello_fields: object) -> AgentHello:
        """Send HELLO and expect an AGENT-HELLO."""
        await self.send(hello(**hello_fields))  # type: ignore[arg-type]
        answer = await self.receive()
        assert isinstance(answer, AgentHello), answer
        return answer

    async def ask(self, *messages: bytes) -> Ack:
        """Send a NOTIFY under the next stream-id and expect its ACK."""
        stream_id = next(self._stream_ids)
        await self.send(notify(stream_id, 1, *messages))
        answer = await self.receive()
        assert isinstance(answer, Ack), answer
        assert (answer.stream_id, answer.frame_id) == (stream_id, 1)
        return answer

    async def close(self) -> None:
        """Close without a DISCONNECT."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def connect(host: str, port: int) -> AsyncIterator[SPOPPeer]:
    """A connection to the agent at `host:port`; nothing has been sent on it."""
    peer = SPOPPeer(*await asyncio.open_connection(host, port))
    try:
        yield peer
    finally:
        await peer.close()
