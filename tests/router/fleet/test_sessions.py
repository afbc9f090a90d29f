"""The session table: where each session lives."""

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
