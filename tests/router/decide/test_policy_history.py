"""Revisions of the live policy."""

from __future__ import annotations

from msgspec import UNSET

from pointsman.router.decide.policy_history import (
    AUTHOR_MAX,
    MAX_REVISIONS,
    MAX_SAVED,
    MAX_SAVED_BYTES,
    WHY_MAX,
    PolicyHistory,
    differences,
)


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


def test_what_was_live_before_passes_over_what_was_only_tried() -> None:
    """A rollout that was given up is no way back."""
    history = PolicyHistory()
    history.add({"policy": "random"}, 0.0)
    history.add({"policy": "least_load"}, 1.0, live=False)
    history.add({"policy": "round_robin"}, 2.0)
    found = history.live_before(3)
    assert found is not None and found.revision == 1
    assert history.live_before(1) is None


def test_the_newest_revisions_are_saved_as_far_as_they_fit() -> None:
    """Numbers go on after them in the next life, even where one alone is larger than the room."""
    history = PolicyHistory()
    for number in range(MAX_SAVED + 5):
        history.add({"policy": "random", "number": number}, float(number))
    saved = history.saved()
    assert [one.revision for one in saved] == list(range(6, MAX_SAVED + 6))
    history.add({"policy": "random", "text": "x" * (MAX_SAVED_BYTES + 1)}, 99.0)
    (last,) = history.saved()
    later = PolicyHistory()
    later.add({"policy": "round_robin"}, 100.0)
    later.restore([last])
    assert [one.revision for one in later] == [MAX_SAVED + 6]
    assert later.add({"policy": "round_robin"}, 101.0).revision == MAX_SAVED + 7


def test_names_and_reasons_of_other_edges_are_cut() -> None:
    """Nobody checked their length here."""
    added = PolicyHistory().add({"policy": "random"}, 0.0, author="a" * 1000, why="w" * 1000)
    assert (len(added.author), len(added.why)) == (AUTHOR_MAX, WHY_MAX)


def test_differences_are_by_path() -> None:
    """Lists and empty objects are values; what is absent is not null."""
    before = {"a": {"b": 1, "c": [1, 2]}, "gone": None, "same": {}}
    after = {"a": {"b": 2, "c": [1]}, "new": {"d": True}, "same": {}}
    assert differences(before, after) == {
        "a.b": (1, 2),
        "a.c": ([1, 2], [1]),
        "gone": (None, UNSET),
        "new.d": (UNSET, True),
    }
