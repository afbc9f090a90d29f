"""Typed data: the values of arguments, of HELLO and DISCONNECT items and of variables (SPOE.txt 3.1).

One byte holds the type (low four bits) and flags (high four), the data follows. In Python:

    NULL                          None
    BOOL                          bool
    INT32, UINT32, INT64, UINT64  int
    IPV4, IPV6                    ipaddress.IPv4Address, IPv6Address
    STRING, BINARY                bytes

STRING comes out as bytes because HAProxy gives that type to whatever a Lua fetch returns, NUL bytes included: only the
reader of a field knows whether it is text. Going in, `str` becomes STRING and `bytes` BINARY.
"""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from pointsman.haproxy.spop.errors import ProtocolError, Status, UsageError
from pointsman.haproxy.spop.varint import MAX_VALUE, decode_varint, encode_varint

Value = bytes | int | bool | IPv4Address | IPv6Address | None
"""Types of a decoded argument."""
VariableValue = str | Value
"""Types of a variable's value."""


class DataType(IntEnum):
    """Type numbers, the low four bits of the first byte (SPOE.txt 3.1); 10 to 15 are reserved."""

    NULL = 0
    BOOL = 1
    INT32 = 2
    UINT32 = 3
    INT64 = 4
    UINT64 = 5
    IPV4 = 6
    IPV6 = 7
    STRING = 8
    BINARY = 9


TYPE_MASK = 0x0F
TRUE_FLAG = 0x10
"""Set in the first byte of a BOOL that is true."""

_INT64_MIN = -(2**63)
_INT64_END = 2**63
_TWO_64 = 2**64
_RANGES = {
    DataType.INT32: (-(2**31), 2**31 - 1),
    DataType.UINT32: (0, 2**32 - 1),
    DataType.INT64: (_INT64_MIN, _INT64_END - 1),
    DataType.UINT64: (0, MAX_VALUE),
}


def encode_typed(value: VariableValue) -> bytes:
    """`value` as typed data; integers are INT64, as HAProxy's own. UsageError beyond 64 bits signed."""
    match value:
        case None:
            return bytes((DataType.NULL,))
        case bool():
            return bytes((DataType.BOOL | TRUE_FLAG if value else DataType.BOOL,))
        case int():
            if not _INT64_MIN <= value < _INT64_END:
                raise UsageError(f"a variable holds a signed 64 bit integer, not {value}")
            # HAProxy keeps integers as 64 bits two's complement and encodes them as if unsigned.
            return bytes((DataType.INT64,)) + encode_varint(value & MAX_VALUE)
        case str():
            text = value.encode()
            return bytes((DataType.STRING,)) + encode_varint(len(text)) + text
        case bytes():
            return bytes((DataType.BINARY,)) + encode_varint(len(value)) + value
        case IPv4Address():
            return bytes((DataType.IPV4,)) + value.packed
        case IPv6Address():
            return bytes((DataType.IPV6,)) + value.packed
    raise UsageError(f"SPOP has no type for {type(value).__name__}")


def decode_typed(data: bytes, pos: int, end: int) -> tuple[Value, int]:
    """The value at `data[pos:end]` and the position behind it. ProtocolError when malformed or cut short by `end`."""
    if pos >= end:
        raise ProtocolError(Status.INVALID, "a value is missing")
    head = data[pos]
    pos += 1
    value: Value
    match head & TYPE_MASK:
        case DataType.NULL:
            value = None
        case DataType.BOOL:
            value = bool(head & TRUE_FLAG)
        case DataType.INT32 | DataType.UINT32 | DataType.INT64 | DataType.UINT64 as kind:
            value, pos = _decode_integer(data, pos, DataType(kind))
        case DataType.IPV4:
            packed = data[pos : pos + 4]
            pos += 4
            if pos > end:
                raise ProtocolError(Status.INVALID, "a value is cut short")
            value = IPv4Address(packed)
        case DataType.IPV6:
            packed = data[pos : pos + 16]
            pos += 16
            if pos > end:
                raise ProtocolError(Status.INVALID, "a value is cut short")
            value = IPv6Address(packed)
        case DataType.STRING | DataType.BINARY:
            length, pos = decode_varint(data, pos)
            if length > end - pos:
                raise ProtocolError(Status.INVALID, "a value is cut short")
            value = data[pos : pos + length]
            pos += length
        case reserved:
            raise ProtocolError(Status.INVALID, f"data type {reserved} is reserved")
    if pos > end:
        raise ProtocolError(Status.INVALID, "a value is cut short")
    return value, pos


def _decode_integer(data: bytes, pos: int, kind: DataType) -> tuple[int, int]:
    value, pos = decode_varint(data, pos)
    low, high = _RANGES[kind]
    if low < 0 and value >= _INT64_END:
        value -= _TWO_64
    if not low <= value <= high:
        raise ProtocolError(Status.INVALID, f"{value} does not fit {kind.name}")
    return value, pos
