"""From a replica's URL to the IP address and port HAProxy connects to."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from router.errors import RegistrationError


def parse_endpoint(url: str) -> tuple[str, int]:
    """Host and port of `http://HOST:PORT[/]`. Raises RegistrationError for any other form."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RegistrationError(f"url: {url!r}: http://HOST:PORT is expected") from None
    if parts.scheme != "http" or not parts.hostname or not port or parts.path not in ("", "/") or parts.query:
        raise RegistrationError(f"url: {url!r}: http://HOST:PORT is expected")
    return parts.hostname, port


async def resolve_endpoint(url: str) -> tuple[str, int]:
    """IP address and port behind a URL: HAProxy does not resolve names of servers added at run time.

    Raises RegistrationError when the name is not known.
    """
    host, port = parse_endpoint(url)
    try:
        return str(ip_address(host)), port
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RegistrationError(f"url: {url!r}: {host} has no address: {error.strerror}") from error
    # IPv4 first: engines listen on 0.0.0.0 far more often than on ::.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0]), port
