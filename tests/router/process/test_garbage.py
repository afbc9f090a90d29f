"""Garbage collection of a process that answers lookups."""

from __future__ import annotations

import gc

from pointsman.router.process.garbage import spare_the_collector


def test_what_lives_as_long_as_the_router_is_not_looked_at_again() -> None:
    """Frozen, and collected less often than by default."""
    before = gc.get_threshold(), gc.get_freeze_count()
    try:
        spare_the_collector()
        assert gc.get_threshold()[0] > before[0][0] and gc.get_freeze_count() > before[1]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before[0])
