"""Which of an engine's messages are applied, and when it must send a snapshot."""

from __future__ import annotations

import pytest
from residency import holds

from pointsman.contract.events import EngineEvents
from pointsman.router.kv.event_cursor import EventCursor
from pointsman.router.kv.prefix_index import PrefixIndex

SLOT = 0


def message(at: int = 0, *, seq: int = 0, epoch: str = "e", **fields: object) -> EngineEvents:
    return EngineEvents(epoch=epoch, seq=seq, at=at, **fields)  # type: ignore[arg-type]


@pytest.fixture
def index() -> PrefixIndex:
    index = PrefixIndex()
    index.add_slot(SLOT)
    return index


def test_changes_are_applied_from_the_snapshot_on(index: PrefixIndex) -> None:
    """An old message changes nothing, one that overlaps what is known is applied, one after a gap is not."""
    cursor = EventCursor()
    assert not cursor.apply(index, SLOT, message(at=3, since=2, stored=[9])), "nothing is known yet"
    assert cursor.apply(index, SLOT, message(at=4, snapshot=True, stored=[1, 2]))
    assert cursor.apply(index, SLOT, message(at=3, since=2, evicted=[1])), "old"
    assert holds(index, SLOT, 1)
    assert cursor.apply(index, SLOT, message(at=6, since=3, evicted=[1], stored=[3]))
    assert not holds(index, SLOT, 1) and holds(index, SLOT, 3)
    assert not cursor.apply(index, SLOT, message(at=9, since=8, stored=[4]))
    assert not cursor.apply(index, SLOT, message(at=10, since=9, stored=[5])), "until a snapshot comes"
    assert not holds(index, SLOT, 5)
    assert cursor.apply(index, SLOT, message(at=10, snapshot=True, stored=[5]))
    assert holds(index, SLOT, 5) and not holds(index, SLOT, 2)


def test_a_snapshot_that_is_no_news_changes_nothing(index: PrefixIndex) -> None:
    """It was on its way while later changes came another way."""
    cursor = EventCursor()
    cursor.apply(index, SLOT, message(at=4, snapshot=True, stored=[1]))
    cursor.apply(index, SLOT, message(at=5, since=4, stored=[2]))
    assert cursor.apply(index, SLOT, message(at=4, snapshot=True, stored=[1]))
    assert holds(index, SLOT, 2)


def test_messages_without_numbers_are_taken_in_order(index: PrefixIndex) -> None:
    """Or not at all."""
    cursor = EventCursor()
    assert cursor.apply(index, SLOT, message(seq=3, snapshot=True, stored=[1]))
    assert cursor.apply(index, SLOT, message(seq=4, stored=[2]))
    assert not cursor.apply(index, SLOT, message(seq=6, stored=[3]))
    assert not cursor.apply(index, SLOT, message(seq=7, stored=[4]))
    assert not holds(index, SLOT, 3) and not holds(index, SLOT, 4)


def test_after_reports_ceased_the_same_incarnation_may_go_on(index: PrefixIndex) -> None:
    """With a snapshot; after a restart the incarnation before is known to be over."""
    cursor = EventCursor()
    cursor.apply(index, SLOT, message(at=4, snapshot=True, stored=[1]))
    cursor.lost()
    assert not cursor.apply(index, SLOT, message(at=5, since=4, stored=[2]))
    assert cursor.apply(index, SLOT, message(at=5, snapshot=True, stored=[1, 2]))
    assert "e" not in cursor.past
    cursor.restarted()
    assert "e" in cursor.past
