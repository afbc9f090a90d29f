"""The log of events: bounded, with ids that grow."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.router.journal.events import TEXT_MAX, EventKind, EventLog
from pointsman.router.journal.followers import Follower

START_S = 1_796_000_000.25


def test_the_newest_events_are_kept() -> None:
    """One more than the limit drops the oldest; ids go on."""
    log = EventLog(wall=lambda: START_S, max_events=3)
    for number in range(5):
        log.add(EventKind.EDGE, f"edge-{number} joined")
    assert [event.text for event in log] == [f"edge-{number} joined" for number in (2, 3, 4)]
    ids = [event.id for event in log]
    assert ids == list(range(ids[0], ids[0] + 3))


def test_ids_grow_from_one_life_of_the_router_to_the_next() -> None:
    """A reader that asks for what came after the last id it saw misses nothing of the router's next life."""
    before = EventLog(wall=lambda: START_S)
    last = [before.add(EventKind.POLICY, "x") for _ in range(100)][-1]
    after = EventLog(wall=lambda: START_S + 1.0)
    assert after.add(EventKind.POLICY, "y").id > last.id


def test_an_event_says_what_is_known_and_nothing_else() -> None:
    """Absent is what is not known; the time is RFC 3339 in UTC; a long text is cut."""
    log = EventLog(wall=lambda: START_S)
    event = log.add(EventKind.REPLICA, "a is ejected", replica="a", state="ejected", cause="error")
    assert msgspec.json.decode(msgspec.json.encode(event)) == {
        "id": 1_796_000_000_250,
        "at": "2026-11-30T00:53:20.250Z",
        "kind": "replica",
        "text": "a is ejected",
        "replica": "a",
        "state": "ejected",
        "cause": "error",
    }
    assert len(log.add(EventKind.AUDIT, "x" * 10_000).text) == TEXT_MAX


def test_a_field_that_no_event_has_is_an_error() -> None:
    """It would be lost without a word."""
    with pytest.raises(TypeError):
        EventLog(wall=lambda: START_S).add(EventKind.REPLICA, "x", replika="a")


def test_followers_are_told_of_each_event() -> None:
    """As it is kept."""
    log = EventLog(wall=lambda: START_S)
    follower: Follower = Follower()
    log.followers.join(follower)
    event = log.add(EventKind.EDGE, "x")
    assert follower.take() == (0, [event])
