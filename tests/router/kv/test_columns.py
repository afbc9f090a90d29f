"""The columns of KV signals: derived ones follow, and tables stay equally long."""

from __future__ import annotations

import pytest
from kv_columns import make_columns

from pointsman.router.fleet.load import LoadTable
from pointsman.router.kv.columns import KVColumns


class TestColumns:
    """Derived columns follow in place, and tables stay equally long."""

    def test_usage_counts_replicas_of_known_size(self) -> None:
        """60 of 200 tokens, the unknown one left out; a slot that is taken over starts anew."""
        columns = make_columns()
        columns.set_capacity(0, 150)
        columns.set_capacity(1, 50)
        columns.add_footprint(0, 60)
        columns.add_footprint(2, 1000)
        assert columns.signals.usage == pytest.approx(0.3)
        assert columns.signals.fill[:3].tolist() == [0.4, 0.0, 0.0]
        columns.clear_slot(0)
        assert columns.signals.usage == 0.0

    def test_tables_grow_alike(self) -> None:
        """Policies add the load table's columns to these."""
        columns, load = KVColumns(), LoadTable()
        for slot in (0, 63, 64, 500, 127, 1001):
            columns.add_slot(slot)
            load.add_slot(slot)
            assert len(columns.signals.waiting) == len(columns.signals.fill) == len(load.in_flight)

    def test_growing_keeps_what_is_known(self) -> None:
        """Capacity, times and backlog survive."""
        columns = make_columns(1)
        columns.set_capacity(0, 100)
        columns.set_times(0, 1.0, 2.0, 3.0)
        columns.add_waiting(0, 10)
        columns.add_slot(900)
        assert (columns.signals.capacity[0], columns.signals.prefill_ms[0]) == (100, 1 + 20 + 300)
