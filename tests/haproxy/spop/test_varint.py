"""pointsman.haproxy.spop.varint"""

import pytest
import spop_peer
from hypothesis import given
from hypothesis import strategies as st

from pointsman.haproxy.spop.errors import ProtocolError, Status, UsageError
from pointsman.haproxy.spop.varint import MAX_VALUE, decode_varint, encode_varint

# The edges of each line of the table in SPOE.txt 3.1, and of 64 bits.
EDGES = [
    pytest.param(0, "00", id="least-of-1-byte"),
    pytest.param(239, "ef", id="greatest-of-1-byte"),
    pytest.param(240, "f000", id="least-of-2-bytes"),
    pytest.param(2287, "ff7f", id="greatest-of-2-bytes"),
    pytest.param(2288, "f08000", id="least-of-3-bytes"),
    pytest.param(264431, "ffff7f", id="greatest-of-3-bytes"),
    pytest.param(264432, "f0808000", id="least-of-4-bytes"),
    pytest.param(33818863, "ffffff7f", id="greatest-of-4-bytes"),
    pytest.param(33818864, "f080808000", id="least-of-5-bytes"),
    pytest.param(4328786159, "ffffffff7f", id="greatest-of-5-bytes"),
    pytest.param(2**63, "f0f1fefefefefefefe06", id="least-int64"),
    pytest.param(MAX_VALUE, "fff0fefefefefefefe0e", id="greatest-of-64-bits"),
]


@pytest.mark.parametrize(("value", "encoded"), EDGES)
def test_edges_both_ways(value: int, encoded: str) -> None:
    """Each edge of the specification's table encodes to its bytes and decodes from them."""
    assert encode_varint(value).hex() == encoded
    assert decode_varint(bytes.fromhex(encoded), 0) == (value, len(encoded) // 2)


@given(st.integers(0, MAX_VALUE), st.binary(max_size=3), st.binary(max_size=3))
def test_round_trip_inside_other_bytes(value: int, before: bytes, after: bytes) -> None:
    """A value survives, wherever it stands, and agrees with the peer's plain encoder."""
    encoded = encode_varint(value)
    assert encoded == spop_peer.varint(value)
    assert decode_varint(before + encoded + after, len(before)) == (value, len(before) + len(encoded))


@pytest.mark.parametrize("encoded", ["", "f0", "f080", "fff0fefefefefefefe"])
def test_cut_short(encoded: str) -> None:
    """A varint that ends with its buffer is invalid."""
    with pytest.raises(ProtocolError, match="cut short") as caught:
        decode_varint(bytes.fromhex(encoded), 0)
    assert caught.value.status is Status.INVALID


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        pytest.param("fff0fefefefefefefe0f", "wider than 64 bits", id="65-bits"),
        pytest.param("ff" * 9 + "7f", "wider than 64 bits", id="10-bytes-of-ones"),
        pytest.param("ff" * 10 + "00", "longer than 10 bytes", id="11-bytes"),
        pytest.param("ff" * 4096, "longer than 10 bytes", id="endless"),
    ],
)
def test_too_wide(encoded: str, why: str) -> None:
    """What does not fit 64 bits is invalid; HAProxy never sends it, and C code would wrap."""
    with pytest.raises(ProtocolError, match=why):
        decode_varint(bytes.fromhex(encoded), 0)


@pytest.mark.parametrize("value", [-1, MAX_VALUE + 1])
def test_refuses_what_does_not_fit(value: int) -> None:
    """Encoding a value beyond 64 bits is the caller's mistake."""
    with pytest.raises(UsageError, match=str(value)):
        encode_varint(value)
