"""Decisions as they end: for whom they are rendered, and how many at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded_fleet import NOON_S, RecordedFleet

from pointsman.router.journal.followers import Follower
from pointsman.router.settings import DecisionLogSettings
from pointsman.router.watch.decision_feed import AT_ONCE, DecisionFeed, build_feed


def feed_of(fleet: RecordedFleet, access_log: str = "") -> DecisionFeed:
    settings = DecisionLogSettings(access_log=access_log)
    feed = build_feed(fleet.core, settings, clock=lambda: 10.0, wall=lambda: NOON_S + 10.0)
    assert feed is not None
    return feed


def end(fleet: RecordedFleet, *request_ids: str) -> None:
    for request_id in request_ids:
        fleet.end(request_id, fleet.ask(request_id).first)


def test_each_follower_gets_each_decision_once() -> None:
    """Rendered once for all of them."""
    fleet = RecordedFleet()
    feed, readers = feed_of(fleet), [Follower(), Follower()]
    for reader in readers:
        feed.followers.join(reader)
    end(fleet, "r1", "r2")
    assert feed.step() == 2 and feed.step() == 0
    taken = [reader.take()[1] for reader in readers]
    assert [ended.record.features.request_id for ended in taken[0]] == ["r1", "r2"]
    assert all(one.data is other.data for one, other in zip(*taken, strict=True))
    assert json.loads(taken[0][0].data)["at"] == "2023-11-14T22:13:20.000Z"


@pytest.mark.parametrize("kind", ["followers", "records"])
def test_a_follower_misses_nothing_that_ends_after_it_joined(kind: str) -> None:
    """Though the feed looks a tenth of a second later, and nobody followed before."""
    fleet = RecordedFleet()
    feed, reader = feed_of(fleet), Follower[Any]()
    end(fleet, "before")
    getattr(feed, kind).join(reader)
    end(fleet, "after")
    feed.step()
    (taken,) = reader.take()[1]
    record = taken.record if kind == "followers" else taken
    assert record.features.request_id == "after"


def test_a_lookup_does_not_wait_for_many_views() -> None:
    """So many are rendered, then others have their turn."""
    fleet = RecordedFleet()
    feed = feed_of(fleet)
    fleet.log.follow(True)
    end(fleet, *(f"r{number}" for number in range(AT_ONCE + 1)))
    assert [feed.step(), feed.step(), feed.step()] == [AT_ONCE, 1, 0]


async def test_the_last_lines_are_written_at_the_end(tmp_path: Path) -> None:
    """All that ended before the router stopped."""
    fleet = RecordedFleet()
    feed = feed_of(fleet, str(tmp_path / "log"))
    fleet.log.follow(True)
    end(fleet, *(f"r{number}" for number in range(3 * AT_ONCE)))
    feed.close()
    assert len((tmp_path / "log").read_text().splitlines()) == 3 * AT_ONCE


def test_a_router_without_records_has_no_feed() -> None:
    fleet = RecordedFleet(max_records=0)
    assert build_feed(fleet.core, DecisionLogSettings(max_records=0), clock=float, wall=float) is None
