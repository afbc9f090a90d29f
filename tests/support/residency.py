"""Readings of a prefix index that only tests need."""

from __future__ import annotations

from pointsman.router.kv.prefix_index import PrefixIndex


def holds(index: PrefixIndex, slot: int, key: int) -> bool:
    """Whether a slot has confirmed a key, or is expected to."""
    return any(slot in slots for _, slots in index.match([key]))


def residents(index: PrefixIndex) -> dict[int, list[int]]:
    """The slots that have confirmed a key, by key."""
    (groups,) = index.export(max(1, len(index))) if len(index) else ([],)
    return {key: list(map(int, slots)) for slots, keys in groups for key in keys}
