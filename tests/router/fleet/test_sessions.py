"""The session table: where each session lives."""

from invariants import check

from pointsman.router.fleet.sessions import SessionTable


def test_a_pin_lasts_while_it_is_seen() -> None:
    """Each use renews it; silence for the TTL ends it."""
    sessions = SessionTable()
    sessions.pin("s", "a", now_s=0.0)
    assert sessions.get("s", now_s=10.0, ttl_s=10.0) == "a"
    assert sessions.get("s", now_s=10.1, ttl_s=10.0) is None
    sessions.pin("s", "a", now_s=10.0)
    assert sessions.get("s", now_s=20.0, ttl_s=10.0) == "a"


def test_the_least_recently_seen_pin_goes_first() -> None:
    """A full table forgets who was silent longest, and counts it."""
    sessions = SessionTable(max_sessions=2)
    sessions.pin("old", "a", now_s=0.0)
    sessions.pin("new", "a", now_s=1.0)
    sessions.pin("old", "a", now_s=2.0)
    sessions.pin("third", "b", now_s=3.0)
    assert sessions.get("new", 3.0, 10.0) is None
    assert sessions.get("old", 3.0, 10.0) == "a"
    assert (len(sessions), sessions.evicted) == (2, 1)


def test_expiry_drops_exactly_the_stale() -> None:
    """Order of last use is order of age, so the sweep stops at the first young one."""
    sessions = SessionTable()
    for second in range(5):
        sessions.pin(f"s{second}", "a", now_s=float(second))
    assert sessions.expire(now_s=12.0, ttl_s=10.0) == 2
    assert [session for session, _, _ in sessions] == ["s2", "s3", "s4"]


def test_a_session_can_be_forgotten() -> None:
    """Forgetting twice is the same as once."""
    sessions = SessionTable()
    sessions.pin("s", "a", now_s=0.0)
    assert sessions.forget("s")
    assert not sessions.forget("s")


def test_a_session_that_was_moved_is_pinned_there_until_a_request_follows() -> None:
    """The order lasts one request, wherever that went; the pin says where."""
    sessions = SessionTable()
    sessions.changed = {}
    sessions.pin("s", "a", 0.0)
    sessions.changed.clear()
    sessions.move("s", "b", 1.0)
    check(sessions)
    assert (sessions.get("s", 1.0, 10.0), list(sessions.ordered), list(sessions.changed)) == ("b", ["s"], ["s"])
    sessions.followed("other", "b", 2.0)
    assert list(sessions.ordered) == ["s"]
    sessions.followed("s", "c", 2.0)
    assert (sessions.get("s", 2.0, 10.0), list(sessions.ordered)) == ("c", [])
    sessions.followed("s", "a", 3.0)
    assert sessions.get("s", 3.0, 10.0) == "c"


def test_an_order_goes_with_its_pin() -> None:
    """When it is forgotten, over, or pushed out of a full table."""
    sessions = SessionTable(max_sessions=2)
    sessions.move("forgotten", "a", 0.0)
    sessions.forget("forgotten")
    sessions.move("over", "a", 1.0)
    sessions.move("pushed out", "a", 5.0)
    assert sessions.expire(now_s=12.0, ttl_s=10.0) == 1
    check(sessions)
    sessions.move("next", "a", 12.0)
    sessions.pin("one more", "a", 12.0)
    check(sessions)
    assert list(sessions.ordered) == ["next"]


def test_an_order_reaches_other_edges_with_its_pin_and_ends_there_when_it_was_followed() -> None:
    """As states of the pin, of which the later one counts, in whatever order they arrive."""
    here, there = SessionTable(), SessionTable()
    here.pin("s", "a", 0.0)
    here.move("s", "b", 1.0)
    ordered = here.state("s")
    here.followed("s", "b", 2.0)
    followed = here.state("s")
    assert ordered is not None and followed is not None
    there.learn("s", ordered[0], ordered[1], 1.0, 1.0, writer="here", ordered=True)
    assert list(there.ordered) == ["s"]
    there.learn("s", followed[0], followed[1], 2.0, 2.0, writer="here")
    there.learn("s", ordered[0], ordered[1], 1.0, 3.0, writer="here", ordered=True)
    assert (there.state("s"), list(there.ordered)) == (followed, [])


def test_a_pin_that_was_forgotten_is_not_read_from_disk_again() -> None:
    """The file only grows, so all of it is to be written anew."""
    sessions = SessionTable()
    sessions.unsaved = {}
    sessions.pin("s", "a", 0.0)
    sessions.forget("s")
    assert sessions.unsaved_overrun
