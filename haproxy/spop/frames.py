"""Whole frames: decode what HAProxy sends, encode what an agent sends (SPOE.txt 3.2).

    <length: 4 bytes> <type: 1 byte> <flags: 4 bytes> <stream-id: varint> <frame-id: varint> <payload>

Everything here is a function of its arguments and keeps nothing but a bounded cache of encoded variables. Decoders
read `data[pos:end]`, one frame inside a longer buffer, and raise `ProtocolError` only. A read that runs past `end`
yields garbage of the next frame, or nothing; it never gets out, since each decoder ends by comparing `pos` with `end`.
That is one check a frame instead of one a field.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

import msgspec

from pointsman.haproxy.spop.errors import ProtocolError, Status, UsageError
from pointsman.haproxy.spop.events import Message
from pointsman.haproxy.spop.state import FrameType
from pointsman.haproxy.spop.typed_data import DataType, Value, decode_typed, encode_typed
from pointsman.haproxy.spop.varint import ONE_BYTE_LIMIT, decode_varint, decode_varint_rest, encode_varint

HEAD = Struct(">IBI")
"""Length (not counting itself), type and flags, all in network byte order."""
LENGTH_BYTES = 4
MIN_FRAME_BYTES = 7
"""Type, flags and two ids of one byte: the shortest frame there is."""
MIN_MAX_FRAME_SIZE = 256
"""SPOE.txt 3.2: the maximum a peer supports must be at least this."""
MAX_DISCONNECT_MESSAGE_BYTES = 255
"""HAProxy 2.8 takes a DISCONNECT with a longer message for an invalid frame (`spoe_handle_agentdiscon_frame`)."""
MAX_NAMES = 1024
"""Entries of each table of a `Vocabulary`; enough for an argument of every type and name a large SPOE file has."""
VERSION = b"2.0"
MAJOR_VERSION = b"2"
CAPABILITIES = b"pipelining"
"""All we announce. `async` and `fragmentation` are gone from HAProxy 3.1 on, and one connection orders its own ACKs."""

FIN = 0x1
"""Flag: the last, or only, fragment of a payload (SPOE.txt 3.2)."""

_TYPE_AND_FLAGS_BYTES = 1 + 4
_ACK = int(FrameType.ACK)
_STRING = int(DataType.STRING)
_BINARY = int(DataType.BINARY)
_INT64 = int(DataType.INT64)
_NULL = int(DataType.NULL)
_TWO_64 = 2**64
_INT64_END = 2**63
_NO_IDS = b"\x00\x00"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what one peer may make us hold. Beyond one of them is a `ProtocolError`.

    UsageError for `max_frame_size` below 256 (SPOE.txt 3.2) or `max_value_bytes` below 240: shorter values are not
    measured.
    """

    max_frame_size: int = 1024 * 1024 - LENGTH_BYTES
    """Bytes of a frame without its length. HAProxy offers `tune.bufsize` - 4; this is that for 1 MiB."""
    max_in_flight: int = 4096
    """NOTIFYs without ACK on a connection. HAProxy waits for 20 (`max-waiting-frames`), but sends further ones when
    their `timeout processing` is over, and one read of 256 KiB can bring some 2000."""
    max_messages: int = 64
    """Messages of a NOTIFY. HAProxy sends those of one event or group together; a configuration has a few."""
    max_args: int = 255
    """Arguments of a message; its count is one byte."""
    max_name_bytes: int = 255
    """Length of a message's or an argument's name."""
    max_value_bytes: int = 1024 * 1024
    """Length of one STRING or BINARY; of use below `max_frame_size`."""

    def __post_init__(self) -> None:
        if self.max_frame_size < MIN_MAX_FRAME_SIZE:
            raise UsageError(f"max_frame_size is {self.max_frame_size}, expected at least {MIN_MAX_FRAME_SIZE}")
        if self.max_value_bytes < ONE_BYTE_LIMIT:
            raise UsageError(f"max_value_bytes is {self.max_value_bytes}, expected at least {ONE_BYTE_LIMIT}")


class Vocabulary:
    """Names seen on a connection, decoded once: HAProxy's configuration has tens of them and repeats them for ever.

    An argument's *head* is its name and the type byte behind it, as they stand in the frame. Looking heads up whole
    saves a sixth of the time a NOTIFY takes. Each table has at most `MAX_NAMES` entries; what finds no room is
    decoded again next time.
    """

    __slots__ = ("_max_name_bytes", "heads", "messages", "names")

    def __init__(self, max_name_bytes: int) -> None:
        self._max_name_bytes = max_name_bytes
        self.names: dict[bytes, str] = {}
        """Name by its bytes."""
        self.heads: dict[bytes, tuple[str, int]] = {}
        """Argument's name and type byte by its head, for names whose length takes one byte."""
        self.messages: dict[bytes, str] = {}
        """Message's name by its length and bytes, for names whose length takes one byte."""

    def learn_name(self, raw: bytes) -> str:
        """Decode a name that is not in `names`. ProtocolError unless it is ASCII and short enough."""
        if len(raw) > self._max_name_bytes:
            raise ProtocolError(Status.INVALID, f"a name is longer than {self._max_name_bytes} bytes")
        try:
            name = raw.decode("ascii")
        except UnicodeDecodeError:
            raise ProtocolError(Status.INVALID, "a name is not ASCII") from None
        if len(self.names) < MAX_NAMES:
            self.names[raw] = name
        return name

    def learn_message(self, data: bytes, pos: int) -> tuple[str, int]:
        """Decode a message's name that is not in `messages`: the name and the position behind it."""
        length, after = decode_varint(data, pos)
        raw = data[after : after + length]
        name = self.names.get(raw) or self.learn_name(raw)
        after += length
        if length < ONE_BYTE_LIMIT and len(self.messages) < MAX_NAMES:
            self.messages[data[pos:after]] = name
        return name, after

    def learn_head(self, data: bytes, pos: int, end: int) -> tuple[str, int, int]:
        """Decode an argument's head that is not in `heads`: its name, its type byte and the position behind them."""
        length, after = decode_varint(data, pos)
        if length >= end - after:
            raise ProtocolError(Status.INVALID, "an argument is cut short")
        raw = data[after : after + length]
        name = self.names.get(raw) or self.learn_name(raw)
        after += length + 1
        kind = data[after - 1]
        if length < ONE_BYTE_LIMIT and len(self.heads) < MAX_NAMES:
            self.heads[data[pos:after]] = (name, kind)
        return name, kind, after


# --- what HAProxy sends


class Hello(NamedTuple):
    """HAPROXY-HELLO (SPOE.txt 3.2.4)."""

    max_frame_size: int
    capabilities: tuple[str, ...]
    engine_id: str
    healthcheck: bool


def decode_hello(data: bytes, pos: int, end: int, vocabulary: Vocabulary) -> Hello:
    """A HAPROXY-HELLO from behind its flags on. A missing item has the status code SPOE.txt 3.5 lists for it."""
    items = _decode_items(data, pos, end, vocabulary)
    versions = items.get("supported-versions")
    if not isinstance(versions, bytes):
        raise ProtocolError(Status.NO_VERSION, "supported-versions not found")
    max_frame_size = items.get("max-frame-size")
    if not isinstance(max_frame_size, int) or isinstance(max_frame_size, bool):
        raise ProtocolError(Status.NO_MAX_FRAME_SIZE, "max-frame-size not found")
    capabilities = items.get("capabilities")
    if not isinstance(capabilities, bytes):
        raise ProtocolError(Status.NO_CAPABILITIES, "capabilities not found")
    # SPOE.txt 3.2.4: a major version stands for all its minor ones, so any 2.x will do for our 2.0.
    if not any(version.partition(b".")[0] == MAJOR_VERSION for version in _split(versions)):
        raise ProtocolError(Status.UNSUPPORTED_VERSION, "this agent speaks SPOP 2.0")
    if max_frame_size < MIN_MAX_FRAME_SIZE:
        raise ProtocolError(Status.BAD_MAX_FRAME_SIZE, f"max-frame-size is below {MIN_MAX_FRAME_SIZE}")
    engine_id = items.get("engine-id")
    return Hello(
        max_frame_size,
        tuple(capability.decode("latin-1") for capability in _split(capabilities)),
        engine_id.decode("latin-1") if isinstance(engine_id, bytes) else "",
        items.get("healthcheck") is True,
    )


class Disconnect(NamedTuple):
    """A DISCONNECT frame of either side (SPOE.txt 3.2.8, 3.2.9)."""

    status: int
    message: str


def decode_disconnect(data: bytes, pos: int, end: int, vocabulary: Vocabulary) -> Disconnect:
    """A HAPROXY-DISCONNECT from behind its flags on. A missing item is forgiven: the peer is leaving either way."""
    items = _decode_items(data, pos, end, vocabulary)
    status = items.get("status-code")
    message = items.get("message")
    return Disconnect(
        status if type(status) is int else Status.UNKNOWN,
        message.decode("latin-1") if isinstance(message, bytes) else "",
    )


def decode_messages(data: bytes, pos: int, end: int, limits: Limits, vocabulary: Vocabulary) -> list[Message]:
    """The payload of a NOTIFY, `data[pos:end]` (SPOE.txt 3.2.6).

    This runs once a request and is written for that: varints of one byte and the types HAProxy uses most are read in
    place, and bounds are checked at the end.
    """
    names, heads = vocabulary.messages, vocabulary.heads
    messages: list[Message] = []
    value: Value
    try:
        while pos < end:
            if len(messages) == limits.max_messages:
                raise ProtocolError(Status.INVALID, f"a frame has more than {limits.max_messages} messages")
            after = pos + data[pos] + 1
            name = names.get(data[pos:after])
            if name is None:
                name, after = vocabulary.learn_message(data, pos)
            count = data[after]
            pos = after + 1
            if count > limits.max_args:
                raise ProtocolError(Status.INVALID, f"a message has more than {limits.max_args} arguments")
            args: dict[str, Value] = {}
            for _ in range(count):
                after = pos + data[pos] + 2
                try:
                    key, kind = heads[data[pos:after]]
                except KeyError:
                    key, kind, after = vocabulary.learn_head(data, pos, end)
                pos = after
                if kind == _STRING or kind == _BINARY:  # noqa: SIM109 - a tuple to search costs twice as much
                    length = data[pos]
                    pos += 1
                    if length >= ONE_BYTE_LIMIT:
                        length, pos = decode_varint_rest(data, pos, length)
                        if length > limits.max_value_bytes:
                            raise ProtocolError(Status.INVALID, f"a value exceeds {limits.max_value_bytes} bytes")
                    after = pos + length
                    value = data[pos:after]
                    pos = after
                elif kind == _NULL:
                    value = None
                elif kind == _INT64:
                    value = data[pos]
                    pos += 1
                    if value >= ONE_BYTE_LIMIT:
                        value, pos = decode_varint_rest(data, pos, value)
                        if value >= _INT64_END:
                            value -= _TWO_64
                else:
                    value, pos = decode_typed(data, pos - 1, end)
                args[key] = value
            if len(args) != count:
                raise ProtocolError(Status.INVALID, "a message has two arguments of one name")
            messages.append(Message(name, args))
    except IndexError:
        raise ProtocolError(Status.INVALID, "a message is cut short") from None
    if pos != end:
        raise ProtocolError(Status.INVALID, "a message is cut short")
    return messages


def _decode_items(data: bytes, pos: int, end: int, vocabulary: Vocabulary) -> dict[str, Value]:
    """The ids, which must be 0, and the KV-LIST of a HELLO or DISCONNECT."""
    if data[pos : pos + 2] != _NO_IDS:
        raise ProtocolError(Status.INVALID, "stream-id and frame-id must be 0")
    pos += 2
    items: dict[str, Value] = {}
    while pos < end:
        length, pos = decode_varint(data, pos)
        if length > end - pos:
            raise ProtocolError(Status.INVALID, "an item is cut short")
        raw = data[pos : pos + length]
        name = vocabulary.names.get(raw) or vocabulary.learn_name(raw)
        items[name], pos = decode_typed(data, pos + length, end)
    return items


def _split(text: bytes) -> list[bytes]:
    """SPOE.txt 3.2.4: comma-separated, spaces must be ignored."""
    return [item for item in text.replace(b" ", b"").split(b",") if item]


# --- what an agent sends


def encode_agent_hello(max_frame_size: int) -> bytes:
    """AGENT-HELLO. `max_frame_size` must not exceed what HAProxy offered (SPOE.txt 3.2.5)."""
    return _encode_frame(
        FrameType.AGENT_HELLO,
        {
            b"version": encode_typed(VERSION.decode()),
            b"max-frame-size": bytes((DataType.UINT32,)) + encode_varint(max_frame_size),
            b"capabilities": encode_typed(CAPABILITIES.decode()),
        },
    )


def encode_agent_disconnect(status: int, message: str) -> bytes:
    """AGENT-DISCONNECT; what exceeds `MAX_DISCONNECT_MESSAGE_BYTES` of `message` is cut off."""
    text = message.encode()[:MAX_DISCONNECT_MESSAGE_BYTES].decode(errors="ignore")
    return _encode_frame(
        FrameType.AGENT_DISCONNECT,
        {
            b"status-code": bytes((DataType.UINT32,)) + encode_varint(status),
            b"message": encode_typed(text),
        },
    )


def encode_ack(ids: bytes, payload: bytes) -> bytes:
    """ACK. `ids` are both varints as the NOTIFY had them (SPOE.txt 3.2.7), `payload` its encoded actions."""
    return HEAD.pack(_TYPE_AND_FLAGS_BYTES + len(ids) + len(payload), _ACK, FIN) + ids + payload


def _encode_frame(kind: FrameType, items: Mapping[bytes, bytes]) -> bytes:
    payload = b"".join(encode_varint(len(name)) + name + value for name, value in items.items())
    return HEAD.pack(_TYPE_AND_FLAGS_BYTES + len(_NO_IDS) + len(payload), kind, FIN) + _NO_IDS + payload
