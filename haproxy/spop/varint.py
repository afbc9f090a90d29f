"""Variable-length integers in the peers encoding (SPOE.txt 3.1).

Below 240 a value is its own byte. Above, the first byte holds four bits and says "more"; each further byte holds
seven, and a byte below 128 ends it. Values are unsigned and at most 64 bits wide, hence at most 10 bytes long.
"""

from __future__ import annotations

from pointsman.haproxy.spop.errors import ProtocolError, Status, UsageError

ONE_BYTE_LIMIT = 240
"""The first value that needs a second byte. Decoders on the hot path test it themselves and save a call."""
MAX_VALUE = 2**64 - 1

_LAST_SHIFT = 60
"""Shift of the tenth byte: 4 bits of the first, then eight times 7. An eleventh would be beyond 64 bits."""


def encode_varint(value: int) -> bytes:
    """The shortest encoding of `value`. UsageError outside 0..2**64-1."""
    if value < 0 or value > MAX_VALUE:
        raise UsageError(f"a varint holds 0..2**64-1, not {value}")
    if value < ONE_BYTE_LIMIT:
        return bytes((value,))
    encoded = bytearray((value & 0x0F | 0xF0,))
    value = (value - ONE_BYTE_LIMIT) >> 4
    while value >= 128:
        encoded.append(value & 0x7F | 0x80)
        value = (value - 128) >> 7
    encoded.append(value)
    return bytes(encoded)


def decode_varint(data: bytes, pos: int) -> tuple[int, int]:
    """The value at `data[pos:]` and the position behind it. ProtocolError when cut short or wider than 64 bits."""
    try:
        first = data[pos]
    except IndexError:
        raise ProtocolError(Status.INVALID, "varint is cut short") from None
    if first < ONE_BYTE_LIMIT:
        return first, pos + 1
    return decode_varint_rest(data, pos + 1, first)


def decode_varint_rest(data: bytes, pos: int, first: int) -> tuple[int, int]:
    """Like `decode_varint` once its first byte, 240 or more, has been read; `pos` is that of the second."""
    value = first
    shift = 4
    try:
        while True:
            byte = data[pos]
            pos += 1
            value += byte << shift
            if byte < 128:
                break
            if shift == _LAST_SHIFT:
                raise ProtocolError(Status.INVALID, "varint is longer than 10 bytes")
            shift += 7
    except IndexError:
        raise ProtocolError(Status.INVALID, "varint is cut short") from None
    if value > MAX_VALUE:
        raise ProtocolError(Status.INVALID, "varint is wider than 64 bits")
    return value, pos
