"""What an edge counts of its part among others."""

from __future__ import annotations


class Counters:
    """What metrics read."""

    def __init__(self) -> None:
        self.gaps = 0
        """Batches of others that were missed."""
        self.overruns = 0
        """Times more happened than is kept for others while the store was away."""
        self.malformed = 0
        self.refused = 0
        """Batches of a later schema."""
        self.batches = 0
        """Of others, applied."""
        self.asked = 0
        """Snapshots asked for."""
        self.served = 0
        """Snapshots made for others."""
        self.taken = 0
        """Snapshots applied."""
