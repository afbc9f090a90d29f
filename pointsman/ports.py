"""Addresses: parsed from flags, checked before anything starts, picked where nobody cares.

A picked port is free when it is picked and bound a second or more later, by a process that has to start first. Ports
are therefore picked below those the kernel gives to outgoing connections: one of theirs may be gone by then.
"""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

from pointsman.errors import StartError
from router.settings import Listen

LOWEST_PICKED = 10240
"""Below are the ports that services are known by."""

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
EPHEMERAL_FROM = 32768
"""Linux's own default, where it cannot be read."""

ROUNDS = 200
"""Ports tried for one that is free."""


def parse_listen(value: str, flag: str) -> Listen:
    """`HOST:PORT`, `[V6]:PORT` or `PORT` (then on 127.0.0.1). Raises StartError naming the flag."""
    host, _, port = value.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdigit() or int(port) > 65535:
        raise StartError(f"{flag}: {value!r}: HOST:PORT is expected, with a port up to 65535")
    return Listen(host, int(port))


def require_free(listen: Listen, flag: str) -> Listen:
    """Checks that the address can be listened on; port 0 becomes a free one. Raises StartError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise StartError(f"{flag}: {listen.host!r}: not a known host or address: {error.strerror}") from None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if not listen.port:
                return Listen(listen.host, _bind_any(probe, listen.host))
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartError(f"{flag}: {listen} is taken by another process: choose another with {flag}") from None
            raise StartError(f"{flag}: {listen}: cannot listen: {error.strerror}") from None
        return listen


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
