"""Addresses: parsed from flags, checked before anything starts, picked where nobody cares."""

from __future__ import annotations

import errno
import socket

from pointsman.errors import StartError
from router.settings import Listen


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
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartError(f"{flag}: {listen} is taken by another process: choose another with {flag}") from None
            raise StartError(f"{flag}: {listen}: cannot listen: {error.strerror}") from None
        return Listen(listen.host, probe.getsockname()[1])


def pick_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Distinct free ports: all are held open until the last is picked."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
