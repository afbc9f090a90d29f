"""The log ring front: octet-counted JSON lines that end reservations."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_line import line

from pointsman.router.core import Core
from pointsman.router.fronts.ring import MAX_LINE_BYTES, RingProtocol


def framed(*lines: bytes) -> bytes:
    return b"".join(b"%d %s" % (len(raw), raw) for raw in lines)


class FakeTransport(asyncio.Transport):
    """Remembers only that it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


class Ring:
    """The front on its own state."""

    def __init__(self) -> None:
        self.core = Core({"policy": "least_load"}, rng=random.Random(1))
        self.metrics = self.core.request_metrics
        self.transport = FakeTransport()
        self.protocol = RingProtocol(self.core.end_of_request, self.metrics, lambda: 0.0)
        self.protocol.connection_made(self.transport)


def test_lines_survive_every_split() -> None:
    """TCP may cut anywhere, inside the length too."""
    stream = framed(line(id="r1"), line(id="r2"), line(id="r3"))
    for cut in range(len(stream) + 1):
        ring = Ring()
        ring.protocol.data_received(stream[:cut])
        ring.protocol.data_received(stream[cut:])
        assert ring.metrics.lines == 3, cut
    ring = Ring()
    for at in range(len(stream)):
        ring.protocol.data_received(stream[at : at + 1])
    assert ring.metrics.lines == 3 and not ring.transport.closed


@pytest.mark.parametrize(
    "stream",
    [b"x 1", b"123456789", b"%d {}" % (MAX_LINE_BYTES + 1), b" {}", b"-1 {}"],
    ids=["no digits", "endless length", "too long", "no length", "negative"],
)
def test_broken_framing_disconnects(stream: bytes) -> None:
    """Where lines begin is lost; HAProxy reconnects and goes on with whole ones."""
    ring = Ring()
    ring.protocol.data_received(stream)
    assert ring.transport.closed and ring.metrics.malformed_lines == 1


def test_a_line_that_is_not_ours_is_counted_and_skipped() -> None:
    """The next line is read as usual."""
    ring = Ring()
    ring.protocol.data_received(framed(b"<7>hello", line()))
    assert (ring.metrics.malformed_lines, ring.metrics.lines) == (1, 2)
    assert not ring.transport.closed


@given(st.binary(max_size=400))
def test_any_bytes_are_survived(stream: bytes) -> None:
    """Lines, or one disconnect; nothing else."""
    ring = Ring()
    ring.protocol.data_received(stream)
