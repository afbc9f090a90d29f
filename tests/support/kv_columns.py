"""Columns of KV signals for tests of their writers."""

from pointsman.router.kv.columns import KVColumns


def make_columns(slots: int = 3) -> KVColumns:
    columns = KVColumns()
    for slot in range(slots):
        columns.add_slot(slot)
    return columns
