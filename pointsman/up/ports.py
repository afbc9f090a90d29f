"""Addresses: parsed from flags, checked before anything starts, picked where nobody cares.

A picked port is free when it is picked and bound a second or more later, by a process that has to start first. Ports
are therefore picked below those the kernel gives to outgoing connections: one of theirs may be gone by then. A
`PortHolder` keeps what it picked from others who pick meanwhile, another `up` on the same machine for one.
"""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

from pointsman.contract.errors import ConfigurationError
from pointsman.errors import StartError
from pointsman.router.process.listen import Listen

LOWEST_PICKED = 10240
"""Below are the ports that services are known by."""

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
EPHEMERAL_FROM = 32768
"""Linux's own default, where it cannot be read."""

ROUNDS = 200
"""Ports tried for one that is free."""


def parse_listen(value: str, flag: str) -> Listen:
    """`HOST:PORT`, `[V6]:PORT` or `PORT` (then on 127.0.0.1). Raises ConfigurationError."""
    host, _, port = value.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(flag, value, "HOST:PORT, with a port up to 65535")
    return Listen(host, int(port))


def require_free(listen: Listen, flag: str) -> None:
    """Checks that an address with a port can be listened on. Raises StartError."""
    with socket.socket(_family(listen, flag), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartError(f"{flag}: {listen} is taken by another process: choose another with {flag}") from None
            raise StartError(f"{flag}: {listen}: cannot listen: {error.strerror}") from None


def _family(listen: Listen, flag: str) -> socket.AddressFamily:
    try:
        return socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror as error:
        raise StartError(f"{flag}: {listen.host!r}: not a known host or address: {error.strerror}") from None


class PortHolder:
    """Ports that are picked once and stay with this process until `close`, whoever of its children listens on them.

    Each is held by a socket that is bound and does not listen. Linux gives such a port to further sockets that set
    SO_REUSEADDR, as servers do, and to no socket without it, as `_bind_any` uses.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def pick(self, host: str = "127.0.0.1", flag: str = "") -> int:
        """A free port. Raises StartError naming `flag` for a host that is not this machine's."""
        probe = socket.socket(_family(Listen(host, 0), flag), socket.SOCK_STREAM)
        self._held.append(probe)
        try:
            port = _bind_any(probe, host)
        except OSError as error:
            raise StartError(f"{flag}: {Listen(host, 0)}: cannot listen: {error.strerror}") from None
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # those who serve there set it too
        return port

    def settle(self, listen: Listen, flag: str) -> Listen:
        """The address as given, checked, or with a picked port for port 0. Raises StartError."""
        if not listen.port:
            return Listen(listen.host, self.pick(listen.host, flag))
        require_free(listen, flag)
        return listen

    def close(self) -> None:
        """Lets go of all of them."""
        for probe in self._held:
            probe.close()
        self._held.clear()


def pick_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Distinct free ports: all are held open until the last is picked. Raises OSError when none is found."""
    probes = [socket.socket() for _ in range(count)]
    try:
        return [_bind_any(probe, host) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _bind_any(probe: socket.socket, host: str) -> int:
    """Binds to some free port that no outgoing connection gets; the kernel's choice where there is no such port."""
    dice, above = random.SystemRandom(), _ephemeral_from()
    for _ in range(ROUNDS if above > LOWEST_PICKED else 0):
        port = dice.randrange(LOWEST_PICKED, above)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return port
    probe.bind((host, 0))
    return int(probe.getsockname()[1])


def _ephemeral_from() -> int:
    try:
        return int(EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return EPHEMERAL_FROM
