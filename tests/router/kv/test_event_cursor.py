"""How far an engine's words are followed where another edge's snapshot tells of it."""

from __future__ import annotations

import pytest

from pointsman.contract.events import EngineEvents
from pointsman.router.kv.event_cursor import Feed
from pointsman.router.kv.prefix_index import PrefixIndex

SLOT = 0


def said(at: int, **given: object) -> EngineEvents:
    return EngineEvents(epoch="e", seq=0, at=at, **given)  # type: ignore[arg-type]


@pytest.fixture
def index() -> PrefixIndex:
    index = PrefixIndex()
    index.add_slot(SLOT)
    return index


@pytest.mark.parametrize("arrived", ["all", "half"])
def test_changes_go_on_from_a_whole_snapshot_only(index: PrefixIndex, arrived: str) -> None:
    """After half of one nobody knows what is resident, and the next change asks for another."""
    feed = Feed()
    feed.begin(said(at=4), past=())
    assert feed.hear_of(index, SLOT, said(at=5, since=4, stored=[1])), "it is read again after the snapshot"
    if arrived == "all":
        feed.took()
    else:
        feed.gave_up()
    assert feed.complete is (arrived == "all")
    assert feed.hear_of(index, SLOT, said(at=5, since=4, stored=[1])) is (arrived == "all")
    assert index.holds(SLOT, 1) is (arrived == "all")
