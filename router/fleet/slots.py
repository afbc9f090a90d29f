"""Growth of tables indexed by slot: one rule for all, so that their columns are equally long and may be added up."""

from __future__ import annotations

INITIAL_SLOTS = 16


def grown(size: int, slot: int) -> int:
    """Length of a table of `size` slots once it holds `slot`."""
    return max(slot + 1, 2 * size) if slot >= size else size
