"""The log ring front: octet-counted JSON lines that end reservations."""

import asyncio
import random
import socket
from collections.abc import Callable
from pathlib import Path

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


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until it is so."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


class Ring:
    """The front on its own state."""

    def __init__(self) -> None:
        self.core = Core({"policy": "least_load"}, rng=random.Random(1))
        self.metrics = self.core.request_metrics
        self.transport = FakeTransport()
        self.protocol = RingProtocol(self.core.end_of_request, self.metrics, set(), lambda: 0.0)
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


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["TCP", "Unix"])
async def test_a_router_that_leaves_reads_all_that_came_and_resets_its_connections(
    family: socket.AddressFamily, tmp_path: Path
) -> None:
    """HAProxy notices a reset at once, and keeps the lines that follow."""
    loop, core, connections = asyncio.get_running_loop(), Ring().core, set[RingProtocol]()
    with socket.socket(family) as listener, socket.socket(family) as haproxy:
        listener.bind(("127.0.0.1", 0) if family is socket.AF_INET else str(tmp_path / "ring"))
        listener.listen()
        haproxy.connect(listener.getsockname())
        taken, _ = listener.accept()
        await loop.connect_accepted_socket(
            lambda: RingProtocol(core.end_of_request, core.request_metrics, connections, lambda: 0.0), taken
        )
        sent = framed(line(id="r1"), line(id="r2"), line(id="r3"))
        haproxy.sendall(sent[:-300])
        await until(lambda: core.request_metrics.lines > 0)
        (connection,) = connections
        connection.pause()
        haproxy.sendall(sent[-300:])
        await asyncio.sleep(0.01)
        assert core.request_metrics.lines < 3

        connection.leave()
        assert core.request_metrics.lines == 3
        await until(lambda: not connections)
        with pytest.raises(ConnectionResetError):
            haproxy.recv(1)


async def test_a_connection_over_tcp_is_reset_also_where_nothing_is_left_to_read() -> None:
    """So that a router that is killed loses few lines."""
    loop, core = asyncio.get_running_loop(), Ring().core
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as haproxy,
    ):
        taken, _ = listener.accept()
        transport, _ = await loop.connect_accepted_socket(
            lambda: RingProtocol(core.end_of_request, core.request_metrics, set(), lambda: 0.0), taken
        )
        transport.close()
        await asyncio.sleep(0.01)
        with pytest.raises(ConnectionResetError):
            haproxy.recv(1)
