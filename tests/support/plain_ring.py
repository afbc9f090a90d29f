"""Ray's hash ring, written a second time to hold the first against."""

from __future__ import annotations

import bisect

import mmh3


class PlainRing:
    """Ray's ring as plainly as it can be written: lists, bisect, one step at a time."""

    def __init__(self, replicas: list[str], virtual_nodes: int) -> None:
        points = sorted(
            (mmh3.hash64(f"{replica}:{i}".encode(), seed=0xF9B4CA77, signed=False)[0], replica)
            for replica in replicas
            for i in range(virtual_nodes)
        )
        self.hashes = [point for point, _ in points]
        self.owners = [replica for _, replica in points]

    def successors(self, key: str, full: frozenset[str] = frozenset()) -> list[str]:
        """All replicas clockwise of the key, those that are full after those that are not."""
        start = bisect.bisect_right(self.hashes, mmh3.hash64(key.encode(), seed=0xF9B4CA77, signed=False)[0])
        turn = self.owners[start:] + self.owners[:start]
        return list(dict.fromkeys([owner for owner in turn if owner not in full] + turn))
