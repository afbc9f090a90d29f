"""KV signals for tests of their writers: columns, and turns of conversations that write them."""

from pointsman.router.kv.columns import KVColumns
from pointsman.router.kv.conversation import Conversation
from pointsman.router.kv.conversations import Conversations


def make_columns(slots: int = 3) -> KVColumns:
    columns = KVColumns()
    for slot in range(slots):
        columns.add_slot(slot)
    return columns


def place(
    table: Conversations, session: str, slot: int, keys: tuple[int, ...] = (), *, tokens: int, resident: int = 0,
    now_s: float = 0.0,
) -> Conversation | None:  # fmt: skip
    """A turn of a session's conversation, found or begun, of 4 bytes a token."""
    known = table.find(session, keys, len(keys) - 1)
    return table.place(
        known, session, slot, keys, tokens=tokens, resident=resident, prompt_bytes=4 * tokens, now_s=now_s
    )
