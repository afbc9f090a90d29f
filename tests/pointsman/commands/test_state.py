"""What `pointsman state check` makes of what edges say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificate
from drawn import pointsman
from telling_admin import TellingAdmin, problem, telling_admin

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


@contextmanager
def edge_alone(**refused: Any) -> Iterator[TellingAdmin]:
    """An admin API of an edge that shares its state with nobody."""
    answers = {"GET /v1/edges": edge("a"), "GET /v1/state/digests": {"parts": {"sessions": part(3)}}}
    with telling_admin(answers | refused) as admin:
        yield admin


@pytest.mark.parametrize("command", ["dump", "check"])
def test_edges_are_asked_with_the_token_that_is_given(command: str) -> None:
    """Like by all commands that ask; the URL may be written short."""
    with edge_alone() as admin:
        done = pointsman("state", command, "--admin", admin.url.removeprefix("http://"), "--token", "secret")
        assert done.exit_code == 0, done.output
        assert {asked.headers["authorization"] for asked in admin.asked} == {"Bearer secret"}


def test_an_edge_that_wants_a_token_says_how_to_get_one() -> None:
    """In the sentence of all commands, and with their exit code."""
    with edge_alone(**{"GET /v1/edges": problem(401, "who?")}) as admin:
        done = pointsman("state", "check", "--admin", admin.url)
    assert done.exit_code == 2 and "pointsman token create" in done.stderr


def test_a_file_of_authorities_is_read(tmp_path: Path) -> None:
    """One that holds none is refused in words; over plain HTTP another is of no use, and no harm."""
    (tmp_path / "none.pem").write_text("nothing")
    with edge_alone() as admin:
        done = pointsman("state", "check", "--admin", admin.url, "--ca", str(tmp_path / "none.pem"))
        assert done.exit_code == 2 and "no certificates can be read" in done.stderr
        chain = make_certificate(tmp_path / "made").chain
        assert pointsman("state", "check", "--admin", admin.url, "--ca", str(chain)).exit_code == 0
