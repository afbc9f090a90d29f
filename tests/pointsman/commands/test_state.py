"""What `pointsman state check` makes of what edges say."""

from __future__ import annotations

from typing import Any

from pointsman.commands.state import problems


def edge(name: str, **said: Any) -> dict[str, Any]:
    return {"edge": name, "name": name, "store": "up", "in_step": True, "batches": 1, "edges": [], **said}


def part(count: int, digest: str = "0") -> dict[str, Any]:
    return {"count": count, "digest": digest}


def test_edges_that_know_the_same_have_no_problem() -> None:
    """Equal counts and digests."""
    views = {"http://a": edge("a"), "http://b": edge("b")}
    assert problems(views, {url: {"sessions": part(3)} for url in views}) == []


def test_each_difference_is_a_sentence_with_both_counts() -> None:
    """What one edge has alone counts as none at the other."""
    views = {"http://a": edge("a"), "http://b": edge("b")}
    known = {"http://a": {"sessions": part(3), "resident/r": part(1)}, "http://b": {"sessions": part(4)}}
    assert problems(views, known) == [
        "resident/r: edges differ: a has 1, b has none",
        "sessions: edges differ: a has 3, b has 4",
    ]


def test_a_copy_of_a_conversation_may_stay() -> None:
    """Until it is forgotten; it is shown in the dump."""
    views = {"http://a": edge("a"), "http://b": edge("b")}
    assert problems(views, {"http://a": {"conversations": part(3)}, "http://b": {"conversations": part(4)}}) == []


def test_a_store_that_is_away_and_an_edge_that_is_not_understood_are_named() -> None:
    """With the cause, and with what the other edge speaks."""
    other = {"name": "b", "state": "refused", "refused": "schema 3 is not 2"}
    views = {"http://a": edge("a", store="unreachable", edges=[other])}
    assert problems(views, {"http://a": {}}) == [
        "a: the store is unreachable",
        "a: b is refused: schema 3 is not 2",
    ]
