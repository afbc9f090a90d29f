"""pointsman.haproxy.spop.typed_data"""

from ipaddress import IPv4Address, IPv6Address

import pytest
import spop_peer
from hypothesis import given
from hypothesis import strategies as st

from pointsman.haproxy.spop.errors import ProtocolError, Status, UsageError
from pointsman.haproxy.spop.typed_data import DataType, Value, VariableValue, decode_typed, encode_typed

# What an agent encodes: bytes, and the value they stand for when read again.
BOTH_WAYS = [
    pytest.param(None, "00", None, id="null"),
    pytest.param(False, "01", False, id="false"),
    pytest.param(True, "11", True, id="true"),
    pytest.param(0, "0400", 0, id="zero"),
    pytest.param(-1, "04fff0fefefefefefefe0e", -1, id="minus-one"),
    pytest.param(2**63 - 1, "04fff0fefefefefefefe06", 2**63 - 1, id="greatest-int64"),
    pytest.param(-(2**63), "04f0f1fefefefefefefe06", -(2**63), id="least-int64"),
    pytest.param(IPv4Address("192.0.2.1"), "06c0000201", IPv4Address("192.0.2.1"), id="ipv4"),
    pytest.param(IPv6Address("::1"), "07" + "00" * 15 + "01", IPv6Address("::1"), id="ipv6"),
    pytest.param("", "0800", b"", id="empty-string"),
    pytest.param("é", "0802c3a9", "é".encode(), id="string"),
    pytest.param(b"\x00\xff", "090200ff", b"\x00\xff", id="binary"),
    pytest.param(b"b" * 240, "09f000" + "62" * 240, b"b" * 240, id="binary-with-length-of-two-bytes"),
]


@pytest.mark.parametrize(("value", "encoded", "again"), BOTH_WAYS)
def test_both_ways(value: VariableValue, encoded: str, again: Value) -> None:
    """Each type encodes to its bytes and decodes from them, also with other bytes behind."""
    data = bytes.fromhex(encoded)
    assert encode_typed(value) == data
    decoded, after = decode_typed(data + b"tail", 0, len(data) + 4)
    assert (decoded, after) == (again, len(data))
    assert type(decoded) is type(again)


@pytest.mark.parametrize(("value", "encoded", "again"), BOTH_WAYS)
def test_cut_short_anywhere(value: VariableValue, encoded: str, again: Value) -> None:
    """Without its last bytes no value decodes, whether they are missing or belong to what comes next."""
    data = bytes.fromhex(encoded)
    for end in range(len(data)):
        with pytest.raises(ProtocolError):
            decode_typed(data[:end], 0, end)
        with pytest.raises(ProtocolError):
            decode_typed(data, 0, end)


@pytest.mark.parametrize(
    ("kind", "least", "greatest"),
    [
        pytest.param(DataType.INT32, -(2**31), 2**31 - 1, id="int32"),
        pytest.param(DataType.UINT32, 0, 2**32 - 1, id="uint32"),
        pytest.param(DataType.INT64, -(2**63), 2**63 - 1, id="int64"),
        pytest.param(DataType.UINT64, 0, 2**64 - 1, id="uint64"),
    ],
)
def test_integers_fill_their_type(kind: DataType, least: int, greatest: int) -> None:
    """Both ends of an integer type's range decode."""
    for value in (least, 0, greatest):
        data = spop_peer.integer(value, kind)
        assert decode_typed(data, 0, len(data)) == (value, len(data))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        pytest.param(DataType.INT32, -(2**31) - 1, id="below-int32"),
        pytest.param(DataType.INT32, 2**31, id="above-int32"),
        pytest.param(DataType.UINT32, -1, id="below-uint32"),
        pytest.param(DataType.UINT32, 2**32, id="above-uint32"),
    ],
)
def test_integers_keep_to_their_type(kind: DataType, value: int) -> None:
    """A 32 bit integer with a wider value is invalid."""
    data = spop_peer.integer(value, kind)
    with pytest.raises(ProtocolError, match=kind.name):
        decode_typed(data, 0, len(data))


@pytest.mark.parametrize("kind", range(10, 16))
def test_reserved_types(kind: int) -> None:
    """Types 10 to 15 are reserved: their length is unknown, so nothing behind them could be read."""
    with pytest.raises(ProtocolError, match="reserved") as caught:
        decode_typed(bytes([kind, 0, 0]), 0, 3)
    assert caught.value.status is Status.INVALID


def test_flags_of_other_types_are_ignored() -> None:
    """Only BOOL has a flag; HAProxy masks the others away, and so do we."""
    assert decode_typed(b"\xf8\x01x", 0, 3) == (b"x", 3)
    assert decode_typed(b"\xf0", 0, 1) == (None, 1)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_refuses_integers_beyond_haproxys(value: int) -> None:
    """A variable in HAProxy is a signed 64 bit integer; a wider one is the caller's mistake."""
    with pytest.raises(UsageError, match=str(value)):
        encode_typed(value)


def test_refuses_types_spop_has_not() -> None:
    """A float has no SPOP type."""
    with pytest.raises(UsageError, match="float"):
        encode_typed(1.5)  # type: ignore[arg-type]


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_agree_with_the_peer(value: int) -> None:
    """Any integer a variable can hold is encoded as HAProxy encodes its own, and comes back."""
    data = spop_peer.integer(value)
    assert encode_typed(value) == data
    assert decode_typed(data, 0, len(data)) == (value, len(data))
