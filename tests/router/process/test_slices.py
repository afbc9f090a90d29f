"""Slices of the fleet."""

from __future__ import annotations

import pytest

from pointsman.router.process.slices import SLICE_REPLICAS, in_slices


@pytest.mark.parametrize("count", [0, 1, SLICE_REPLICAS, SLICE_REPLICAS + 1, 5 * SLICE_REPLICAS])
def test_slices_hold_every_item_once_and_no_slice_is_longer_than_allowed(count: int) -> None:
    slices = list(in_slices(range(count)))
    assert [item for some in slices for item in some] == list(range(count))
    assert all(0 < len(some) <= SLICE_REPLICAS for some in slices)


def test_items_that_leave_meanwhile_are_still_in_their_slice() -> None:
    items = dict.fromkeys(range(2 * SLICE_REPLICAS))
    slices = in_slices(items)
    next(slices)
    items.clear()
    assert len(next(slices)) == SLICE_REPLICAS
