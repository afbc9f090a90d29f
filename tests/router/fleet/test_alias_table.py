"""Versions of sessions: drawn by weight, kept whatever becomes of the weights, and the same on every edge."""

import math
from collections import Counter
from typing import Any

import pytest

from pointsman.router.documents.book import Book
from pointsman.router.fleet.alias_table import HEAD_KEYS, AliasTable
from pointsman.router.tenancy.records import DocumentError

SESSIONS = [f"session-{n}" for n in range(10_000)]


def table(*weights: tuple[str, float], **fields: Any) -> tuple[Book, AliasTable]:
    book = Book()
    aliases = AliasTable(book)
    if weights:
        write(book, *weights, **fields)
    return book, aliases


def write(book: Book, *weights: tuple[str, float], **fields: Any) -> None:
    versions = [{"model": model, "weight": weight} for model, weight in weights]
    book.write("alias/chat", {"name": "chat", "versions": versions, **fields})


def begin(aliases: AliasTable, sessions: list[str], now_s: float = 0.0) -> dict[str, str]:
    """Each session's version, which its first request is placed on."""
    chosen = {session: aliases.choose("chat", session, (), "") for session in sessions}
    for session, model in chosen.items():
        aliases.placed("chat", session, model, now_s)
    return chosen


def change(aliases: AliasTable, chosen: dict[str, str]) -> int:
    """Sessions that would be served by another version than before."""
    return sum(aliases.choose("chat", session, (), "") != model for session, model in chosen.items())


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_new_sessions_are_shared_out_by_weight(share: float) -> None:
    """Within four standard deviations of chance: 10 % of 10,000 are 1,000 +- 120."""
    _, aliases = table(("one", 1 - share), ("two", share))
    counts = Counter(begin(aliases, SESSIONS).values())
    deviation = math.sqrt(len(SESSIONS) * share * (1 - share))
    assert abs(counts["two"] - share * len(SESSIONS)) < 4 * deviation
    assert aliases.begun["chat", "two"] == counts["two"]


def test_no_session_changes_its_version_when_weights_do() -> None:
    """Nor when the alias is paused, or a version promoted; those that begin then go by what holds then."""
    book, aliases = table(("one", 90), ("two", 10))
    chosen = begin(aliases, SESSIONS[:2000])
    for weights in ([("one", 50), ("two", 50)], [("one", 1), ("two", 0)], [("one", 0), ("two", 1)]):
        write(book, *weights)
        assert change(aliases, chosen) == 0
    write(book, ("one", 90), ("two", 10), paused=True)
    assert change(aliases, chosen) == 0
    assert set(begin(aliases, SESSIONS[2000:4000]).values()) == {"one"}
    alias = aliases.get("chat")
    assert alias is not None
    book.write("alias/chat", alias.promoted("two").body())
    assert change(aliases, chosen) == 0
    assert set(begin(aliases, SESSIONS[4000:5000]).values()) == {"two"}
    assert aliases.moved["chat"] == 0


def test_a_share_that_grows_keeps_whom_it_would_have_drawn() -> None:
    """So that a session of which nothing is remembered keeps its version as long as it can be."""
    book, aliases = table(("one", 90), ("two", 10))
    before = {session for session in SESSIONS if aliases.choose("chat", session, (), "") == "two"}
    write(book, ("one", 60), ("two", 40))
    after = {session for session in SESSIONS if aliases.choose("chat", session, (), "") == "two"}
    assert before < after


def test_a_rollback_moves_the_sessions_of_the_withdrawn_version_and_no_others() -> None:
    """Once: they stay with the stable one afterwards."""
    book, aliases = table(("one", 70), ("two", 20), ("three", 10))
    chosen = begin(aliases, SESSIONS[:2000])
    alias = aliases.get("chat")
    assert alias is not None
    book.write("alias/chat", alias.rolled_back("two").body())
    counts = Counter(chosen.values())
    after = begin(aliases, SESSIONS[:2000])
    assert aliases.moved["chat"] == counts["two"]
    assert all(after[session] == chosen[session] for session in chosen if chosen[session] != "two")
    assert "two" not in after.values()
    write(book, ("one", 70), ("two", 20), ("three", 10))
    assert change(aliases, after) == 0


def test_another_edge_draws_the_same_versions_without_asking() -> None:
    """The draw depends on alias and session alone, and two aliases draw apart."""
    _, first = table(("one", 90), ("two", 10))
    book, second = table(("one", 90), ("two", 10))
    chosen = {session: first.choose("chat", session, (), "") for session in SESSIONS}
    assert change(second, chosen) == 0
    versions = [{"model": "one", "weight": 9}, {"model": "two", "weight": 1}]
    book.write("alias/talk", {"name": "talk", "versions": versions})
    others = {session for session in SESSIONS if second.choose("talk", session, (), "") == "two"}
    both = others & {session for session, model in chosen.items() if model == "two"}
    assert 0.005 < len(both) / len(SESSIONS) < 0.015


def test_a_request_without_a_session_goes_by_the_head_of_its_prompt() -> None:
    """A long conversation keeps its version as it grows; prompts that are told apart by nothing go by their ids."""
    _, aliases = table(("one", 50), ("two", 50))
    for number in range(50):
        keys = tuple(1000 * number + at for at in range(HEAD_KEYS + 20))
        drawn = {aliases.choose("chat", "", keys[:length], f"r{length}") for length in range(HEAD_KEYS, len(keys))}
        assert len(drawn) == 1
    ids = Counter(aliases.choose("chat", "", (), f"request-{n}") for n in range(1000))
    assert min(ids.values()) > 400
    assert aliases.choose("chat", "", (), "same") == aliases.choose("chat", "", (), "same")


def test_a_version_is_asked_for_only_where_the_alias_allows_it() -> None:
    """A name of no version counts for nothing."""
    book, aliases = table(("one", 100), ("two", 0))
    assert aliases.choose("chat", "s", (), "", "two") == "one"
    write(book, ("one", 100), ("two", 0), override=True)
    assert aliases.choose("chat", "s", (), "", "two") == "two"
    assert aliases.choose("chat", "s", (), "", "three") == "one"


def test_sessions_of_a_version_without_replicas_are_served_by_the_stable_one() -> None:
    """They are not refused while somebody can serve them."""
    _, aliases = table(("one", 0.001), ("two", 1000))
    aliases.has_replicas = lambda model, name: model != "two"
    assert {aliases.choose("chat", session, (), "") for session in SESSIONS[:100]} == {"one"}


def test_a_forgotten_session_begins_anew_and_an_expired_one_too() -> None:
    """By the weights that hold then."""
    book, aliases = table(("one", 0), ("two", 1))
    begin(aliases, ["a", "b"], now_s=10.0)
    write(book, ("one", 1), ("two", 0))
    aliases.forget("a", before_s=9.0)
    assert aliases.choose("chat", "a", (), "") == "two"
    aliases.forget("a", before_s=10.0)
    assert (aliases.choose("chat", "a", (), ""), aliases.choose("chat", "b", (), "")) == ("one", "two")
    aliases.sessions.expire(100.0, 60.0)
    assert aliases.choose("chat", "b", (), "") == "one"


def test_content_that_describes_no_alias_leaves_the_alias_as_it_was() -> None:
    """And an empty document removes it."""
    book, aliases = table(("one", 1))
    with pytest.raises(ValueError, match="length >= 1"):
        book.write("alias/chat", {"name": "chat", "versions": []})
    with pytest.raises(DocumentError, match="is of the alias other"):
        book.write("alias/chat", {"name": "other", "versions": [{"model": "m"}]})
    assert aliases.by_stable_model() == {"one": ["chat"]}
    book.write("alias/chat", {})
    assert len(aliases) == 0
    assert aliases.get("chat") is None
