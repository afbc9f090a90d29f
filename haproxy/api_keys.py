"""Which tenant an API key belongs to, as HAProxy finds out: by the SHA-256 of the key, in the map of keys.

HAProxy reads the map when it starts; here the file is read when somebody asks, so a key that was added since is known
here first.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pointsman.haproxy.lookup_arguments import PlainRequest

MAX_KEYS_BYTES = 64 << 20
"""Bytes of the map that are looked through: some 800,000 keys."""


def key_hashes(request: PlainRequest) -> list[str]:
    """Return the hashes of the API keys that a request shows, in the order in which HAProxy looks them up."""
    words = (request.first("authorization") or "").split(" ")
    bearer = [word for word in words if word][1:2]
    own = request.first("x-api-key")
    keys = [*bearer, *([own] if own is not None else ())]
    return [hash_of(key) for key in keys]


def hash_of(key: str) -> str:
    """Return the SHA-256 of a key, as HAProxy computes it. A secret of 256 bits needs no salt."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def find_tenant(keys_map: Path, hashes: list[str]) -> str:
    """Return the tenant of the first hash that a map has; empty where it has none of them.

    Raises OSError where the map cannot be read. Blocks: for a thread of its own.
    """
    found: dict[str, str] = {}
    read = 0
    with keys_map.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            read += len(line)
            key, _, tenant = line.strip().partition(" ")
            if key in hashes:
                found.setdefault(key, tenant.strip())
            if read > MAX_KEYS_BYTES or len(found) == len(hashes):
                break
    return next((found[key] for key in hashes if key in found), "")
