"""The why of one decision: terms side by side, the chosen one marked, the excluded by cause."""

from __future__ import annotations

from drawn import assert_fits, drawn
from shown_things import CANDIDATES

from pointsman.commands.candidate_table import SHOWN_MAX, candidates_shown, excluded_shown, why_shown


def test_each_term_is_a_column_and_the_chosen_one_is_marked() -> None:
    """In the order of the router: the best first."""
    text = drawn(candidates_shown(CANDIDATES, "chat-1"))
    head, first, second = text.splitlines()
    assert head.split() == [
        *("candidate", "queue", "miss", "evict", "interference", "tie"),
        *("score", "resident", "in", "flight"),
    ]
    assert first.split() == ["chat-1", "*", "12", "21", "0", "5.0", "74", "112", "37,904", "23"]
    assert second.split() == ["chat-2", "3.4", "842", "60", "31", "103", "1,039", "0", "19"]


def test_a_policy_without_terms_has_no_columns_for_them() -> None:
    """Nor for what it does not predict."""
    rows = [{"replica": "a", "in_flight": 3}, {"replica": "b", "in_flight": 1}]
    assert drawn(candidates_shown(rows, "b")).split() == [*("candidate", "in", "flight"), "a", "3", "b", "*", "1"]


def test_of_a_large_fleet_the_best_are_shown_and_the_rest_is_counted() -> None:
    """Also where the router itself kept only some."""
    rows = [{"replica": f"r{at}", "in_flight": 0} for at in range(SHOWN_MAX + 8)]
    assert drawn(candidates_shown(rows, "r0")).splitlines()[-1].strip() == "and 8 more"
    assert drawn(candidates_shown(rows[:2], "r0", total=500)).splitlines()[-1].strip() == "and 498 more"
    assert drawn(candidates_shown([], "")).strip() == "no candidate"


def test_small_scores_keep_their_digits() -> None:
    """Other policies score in parts of one."""
    rows = [{"replica": "a", "in_flight": 0, "score": 0.0123, "terms": {"share": 0.0123}}]
    assert "0.012" in drawn(candidates_shown(rows, "a"))


def test_the_excluded_are_told_by_cause() -> None:
    """Four names for one cause, and then a number."""
    excluded = {f"chat-{at}": "ejected" for at in range(6)} | {"p": "other model"}
    assert list(excluded_shown(excluded)) == [
        "chat-0, chat-1, chat-2, chat-3 and 2 more not eligible: ejected",
        "p not eligible: other model",
    ]


def test_many_terms_and_long_names_fit() -> None:
    """Names give way, numbers do not."""
    rows = [
        {
            "replica": "a-replica-with-a-name-of-its-own-0001",
            "in_flight": 1_000,
            "resident_tokens": 1_000_000,
            "score": 123_456.0,
            "terms": dict.fromkeys(("queue", "miss", "evict", "interference", "tie", "prefill"), 123456.0),
        }
    ]
    text = drawn(why_shown(rows, "x", would_change="It  leaves\nit."))
    assert_fits(text)
    assert text.count("123,456") == 7 and "1,000,000" in text and text.endswith("It leaves it.\n")
