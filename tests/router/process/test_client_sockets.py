"""The kernel's word on whether a client is still there."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from pointsman.router.process.client_sockets import ClientSockets, Connection, read_connection

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sock_diag is Linux's")


class Pair:
    """A client's connection to a server of this process."""

    def __init__(self, host: str, family: socket.AddressFamily, to: str) -> None:
        with socket.socket(family) as listener:
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind((host, 0))
            listener.listen()
            self.client = socket.create_connection((to, listener.getsockname()[1]))
            self.edge, _ = listener.accept()
        own, peer = self.edge.getsockname(), self.edge.getpeername()
        self.connection = Connection(peer[0], peer[1], own[0], own[1])

    def close(self) -> None:
        self.client.close()
        self.edge.close()


PAIRS = pytest.mark.parametrize(
    ("host", "family", "to"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("::1", socket.AF_INET6, "::1"),
        ("::", socket.AF_INET6, "127.0.0.1"),
    ],
    ids=["IPv4", "IPv6", "IPv4 on IPv6"],
)


@pytest.fixture
def sockets() -> Iterator[ClientSockets]:
    found = ClientSockets()
    yield found
    found.close()


@PAIRS
@pytest.mark.parametrize("leaves", ["closes", "shuts down", "resets"])
def test_a_client_that_leaves_is_there_no_longer(
    sockets: ClientSockets, host: str, family: socket.AddressFamily, to: str, leaves: str
) -> None:
    try:
        pair = Pair(host, family, to)
    except OSError:
        pytest.skip("no IPv6 here")
    assert sockets.is_there(pair.connection) is True
    if leaves == "shuts down":
        pair.client.shutdown(socket.SHUT_WR)
    elif leaves == "resets":
        pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if leaves != "shuts down":
        pair.client.close()
    assert not sockets.is_there(pair.connection)
    pair.close()


def test_of_what_it_does_not_know_it_says_nothing(sockets: ClientSockets) -> None:
    """A connection of another machine, addresses of two kinds, and none."""
    for connection in (
        Connection("192.0.2.1", 1, "192.0.2.2", 2),
        Connection("192.0.2.1", 1, "::1", 2),
        Connection("unix", 1, "unix", 2),
    ):
        assert sockets.is_there(connection) is None
    sockets.close()
    sockets.close()
    assert sockets.is_there(Connection("127.0.0.1", 1, "127.0.0.1", 2)) is None


def test_an_answer_to_an_earlier_question_is_passed_over(sockets: ClientSockets) -> None:
    pair = Pair("127.0.0.1", socket.AF_INET, "127.0.0.1")
    asking = sockets._socket
    assert asking is not None
    assert sockets.is_there(pair.connection)
    sockets._sequence -= 1
    assert sockets.is_there(pair.connection)
    pair.close()


@pytest.mark.parametrize(
    ("client", "edge", "expected"),
    [
        (b"10.0.0.1 5000", b"10.0.0.2 80", Connection("10.0.0.1", 5000, "10.0.0.2", 80)),
        (b"::1 5000", b"::1 80", Connection("::1", 5000, "::1", 80)),
        (b"10.0.0.1", b"10.0.0.2 80", None),
        (b"10.0.0.1 0", b"10.0.0.2 80", None),
        (b"10.0.0.1 70000", b"10.0.0.2 80", None),
        (b"nil nil", b"nil nil", None),
        (b"\xff 1", b"10.0.0.2 80", None),
        (None, b"10.0.0.2 80", None),
    ],
)
def test_addresses_are_read_or_are_none(client: object, edge: object, expected: Connection | None) -> None:
    assert read_connection(client, edge) == expected
