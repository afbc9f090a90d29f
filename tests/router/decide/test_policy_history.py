"""Revisions of the live policy."""

from __future__ import annotations

from pointsman.router.decide.policy_history import MAX_REVISIONS, PolicyHistory


def test_revisions_count_from_one_and_the_oldest_go() -> None:
    """A number is never used twice, so that a record's revision names one document."""
    history = PolicyHistory()
    for number in range(MAX_REVISIONS + 2):
        added = history.add({"policy": "random", "number": number}, float(number), author="ops", why="a test")
        assert added.revision == number + 1 == history.latest
    assert len(history) == MAX_REVISIONS
    assert history.get(2) is None
    oldest = next(iter(history))
    assert (oldest.revision, oldest.document["number"], oldest.author, oldest.why) == (3, 2, "ops", "a test")
