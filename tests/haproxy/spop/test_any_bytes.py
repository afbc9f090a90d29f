"""Whatever the peer sends: events or ProtocolError, nothing else."""

import spop_peer
from hypothesis import given, settings
from hypothesis import strategies as st
from spop_peer import boolean, golden, integer, ip, message, null, string
from spop_property import check_any_bytes

from pointsman.haproxy.spop.typed_data import DataType

NAMES = st.text("abc", max_size=3)
VALUES = st.one_of(
    st.just(null()),
    st.booleans().map(boolean),
    st.tuples(
        st.integers(-(2**64), 2**64),
        st.sampled_from([DataType.INT32, DataType.UINT32, DataType.INT64, DataType.UINT64]),
    ).map(lambda pair: integer(*pair)),
    st.sampled_from(["192.0.2.1", "::1"]).map(ip),
    st.binary(max_size=310).map(string),
    st.binary(max_size=310).map(spop_peer.binary),
    st.binary(max_size=3),
)
MESSAGES = st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=6)).map(lambda pair: message(pair[0], **pair[1]))
NOTIFIES = st.tuples(st.integers(0, 300), st.integers(0, 2), st.lists(MESSAGES, max_size=4)).map(
    lambda parts: spop_peer.notify(parts[0], parts[1], *parts[2])
)
CAPTURED = st.sampled_from(
    [
        "healthcheck-hello",
        "hello",
        "notify",
        "notify-pipelined",
        "disconnect-idle",
        "disconnect-stop",
        "disconnect-version",
    ]
).map(lambda name: golden(f"haproxy-2.8.25-{name}"))
ANY_FRAMES = st.tuples(st.integers(0, 255), st.binary(max_size=20), st.integers(0, 3), st.integers(0, 3)).map(
    lambda parts: spop_peer.frame(parts[0], parts[1], stream_id=parts[2], flags=parts[3])
)
CONVERSATIONS = st.lists(st.one_of(NOTIFIES, NOTIFIES, CAPTURED, ANY_FRAMES), max_size=8).map(b"".join)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_noise(data: bytes, cut: int) -> None:
    """Bytes without any structure."""
    check_any_bytes(data, cut)


@settings(max_examples=200)
@given(CONVERSATIONS, st.integers(0, 2000))
def test_conversations(data: bytes, cut: int) -> None:
    """Well-formed frames in any order behind a handshake, good values and bad."""
    check_any_bytes(spop_peer.hello() + data, cut)


@settings(max_examples=200)
@given(
    CONVERSATIONS, st.integers(0, 2000), st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=2)), max_size=4)
)
def test_damaged_conversations(data: bytes, cut: int, damages: list[tuple[int, bytes]]) -> None:
    """The same with bytes replaced, removed or put in."""
    for at, replacement in damages:
        data = data[:at] + replacement + data[at + 1 :]
    check_any_bytes(spop_peer.hello() + data, cut)
