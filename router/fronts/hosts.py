"""Whether a `Host` header means this machine."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

from pointsman.router.process.listen import Listen

HOSTS_KEPT = 64
"""`Host` headers whose reading is remembered: heartbeats of a thousand replicas come with one or two."""


@lru_cache(maxsize=HOSTS_KEPT)
def host_of(header: str) -> str:
    """The name or address in a `Host` header, lower case, without port and brackets; empty where it is malformed."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""


@lru_cache(maxsize=HOSTS_KEPT)
def is_loopback(host: str) -> bool:
    """Whether a name or an address always means the machine it is used on."""
    return Listen(host).is_loopback
