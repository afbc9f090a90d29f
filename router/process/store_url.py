"""Addresses of stores and of other edges."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")

_PASSWORD = re.compile(r"(://[^/@]*:)[^/@]*@")


def check_url(url: str) -> None:
    """Raises ValueError saying what is expected instead. Whether anybody answers there is not asked."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES or not rest:
        raise ValueError(f"one of {', '.join(f'{known}://' for known in SCHEMES)} is expected")
    if scheme.endswith("+sentinel"):
        sentinels(url)
    elif scheme != "unix":
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:  # `port` raises ValueError for what is none
            raise ValueError("a host, and a port from 1 to 65535, are expected")


def sentinels(url: str) -> list[tuple[str, int]]:
    """Host and port of each sentinel named. Raises ValueError."""
    addresses = []
    for host in urlsplit(url).netloc.rpartition("@")[2].split(","):
        name, _, port = host.rpartition(":") if ":" in host else (host, "", "26379")
        if not name or not port.isdigit():
            raise ValueError(f"HOST:PORT of a sentinel is expected, found {host!r}")
        addresses.append((name, int(port)))
    return addresses


def without_password(url: str) -> str:
    """For people and logs."""
    return _PASSWORD.sub(r"\1***@", url)


def is_loopback(url: str) -> bool:
    """Whether a URL leads to the host that follows it. False for any name but `localhost`."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
