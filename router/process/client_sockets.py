"""Whether the clients of an edge are still there, as the kernel of this machine knows.

HAProxy 2.8 does not look at the socket of an HTTP/1.1 client between the end of its request and the choice of a
server, so it learns only afterwards that a client left. The kernel knows at once: `ClientSockets.is_there` asks it for
the state of one connection, by its two addresses, over a netlink socket (sock_diag(7)), which takes some microseconds
and no privilege. That needs Linux, and HAProxy in the same network namespace; where either is missing, nothing is known
and nobody counts as gone.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import NamedTuple

SOCK_DIAG_BY_FAMILY = 20
NLMSG_ERROR = 2
NLM_F_REQUEST = 1
NETLINK_SOCK_DIAG = 4
ALL_STATES = 0xFFFFFFFF
NO_COOKIE = 0xFFFFFFFF

ESTABLISHED, SYN_RECV = 1, 3
"""States of a connection whose client has neither closed nor reset it."""

HEADER = struct.Struct("=IHHII")
REQUEST = struct.Struct("=BBBBI")
PORTS = struct.Struct(">HH")
REST = struct.Struct("=III")
STATE_AT = HEADER.size + 1

ANSWER_BYTES = 4096
MAX_STALE_ANSWERS = 64


class Connection(NamedTuple):
    """Addresses of a client's connection, as HAProxy has them."""

    client: str
    client_port: int
    edge: str
    edge_port: int


class ClientSockets:
    """Looks connections up in the kernel's table."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0
        family = getattr(socket, "AF_NETLINK", None)
        if family is not None:
            try:
                self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
                self._socket.setblocking(False)
            except OSError:  # a sandbox that has no netlink
                self._socket = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def is_there(self, connection: Connection) -> bool | None:
        """Whether a client keeps its side of a connection open; None where the kernel does not know the connection."""
        state = self._state(connection)
        return None if state is None else state in (ESTABLISHED, SYN_RECV)

    def _state(self, connection: Connection) -> int | None:
        """State of a TCP connection; None where the kernel knows none, or cannot be asked."""
        if self._socket is None:
            return None
        try:
            edge, client = ip_address(connection.edge), ip_address(connection.client)
        except ValueError:  # a Unix socket
            return None
        if edge.version != client.version:
            return None
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        family = socket.AF_INET if edge.version == 4 else socket.AF_INET6
        question = (
            REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, ALL_STATES)
            + PORTS.pack(connection.edge_port, connection.client_port)
            + edge.packed.ljust(16, b"\0")
            + client.packed.ljust(16, b"\0")
            + REST.pack(0, NO_COOKIE, NO_COOKIE)
        )
        head = HEADER.pack(HEADER.size + len(question), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, self._sequence, 0)
        try:
            self._socket.send(head + question)
            for _ in range(MAX_STALE_ANSWERS):
                answer = self._socket.recv(ANSWER_BYTES)  # the kernel answers within `send`
                _, kind, _, sequence, _ = HEADER.unpack_from(answer)
                if sequence == self._sequence:
                    return None if kind == NLMSG_ERROR else answer[STATE_AT]
        except (OSError, struct.error, IndexError):
            pass
        return None


def read_connection(client: object, edge: object) -> Connection | None:
    """Reads the addresses of a connection, each as `ADDRESS PORT`; None for anything else."""
    if not (isinstance(client, bytes) and isinstance(edge, bytes)):
        return None
    try:
        address, port = client.decode("ascii").split(" ")
        edge_address, edge_port = edge.decode("ascii").split(" ")
        numbers = int(port), int(edge_port)
    except ValueError:
        return None
    if not all(0 < number < 65536 for number in numbers):
        return None
    return Connection(address, numbers[0], edge_address, numbers[1])
