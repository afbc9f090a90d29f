"""Garbage collection of a process that answers lookups."""

from __future__ import annotations

import gc


def spare_the_collector() -> None:
    """Keep objects that live as long as the router out of every garbage collection, and collect less often. A lookup
    makes no cycles; with the default threshold one lookup in a dozen would pay for a collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
