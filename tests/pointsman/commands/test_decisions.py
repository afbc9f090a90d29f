"""`pointsman decisions`: a table of past decisions, and the whole why of one."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

from drawn import WIDTH, assert_fits, drawn, pointsman
from golden import assert_golden
from shown_things import DECISION, REFUSED, UNDER_WAY
from telling_admin import problem, telling_admin

from pointsman.commands.decisions import decision_list, decision_shown

GOLDEN = Path(__file__).parent / "golden"


def test_past_decisions_are_a_line_each() -> None:
    """Ended, refused, and under way."""
    text = drawn(decision_list([DECISION, REFUSED, UNDER_WAY], UTC))
    assert_golden(GOLDEN / "decisions.txt", text)
    assert_fits(text)


def test_the_why_of_one_shows_predicted_beside_what_came() -> None:
    """Candidates with their terms, the excluded, and what would have changed it."""
    text = drawn(decision_shown(DECISION, UTC, width=WIDTH))
    assert_golden(GOLDEN / "decision.txt", text)
    assert_fits(text)


def test_a_refusal_and_a_request_under_way_have_their_own_words() -> None:
    """Nothing is invented where nothing is known."""
    refused = drawn(decision_shown(REFUSED, UTC, width=WIDTH))
    assert "-> refused with 429" in refused and "nobody, 429, refused" in refused
    assert drawn(decision_shown(UNDER_WAY, UTC, width=WIDTH)).endswith("in flight: nothing came of it yet\n")


def test_no_decision_says_why() -> None:
    """None at all, or none that matches."""
    assert "send a request" in drawn(decision_list([], UTC))
    assert drawn(decision_list([], UTC, chosen=True)) == "no decision matches\n"


def test_filters_are_those_of_the_api() -> None:
    """Empty ones are not sent."""
    with telling_admin({"GET /v1/decisions": {"decisions": []}}) as admin:
        words = ("--session", "s", "--status", "5xx", "--replica", "r", "--reason", "kv-moved", "-n", "7")
        assert pointsman("decisions", *words, "--admin", admin.url).exit_code == 0
        assert admin.asked[0].query == {
            "limit": "7",
            "session": "s",
            "status": "5xx",
            "replica": "r",
            "reason": "kv-moved",
        }


def test_a_decision_that_is_not_kept_is_exit_code_1() -> None:
    """The router says how many it keeps."""
    gone = problem(404, "no decision about request 'x/y'")
    with telling_admin({"GET /v1/decisions/x%2Fy": gone, "GET /v1/decisions": {"decisions": []}}) as admin:
        done = pointsman("decisions", "x/y", "--admin", admin.url)
        assert (done.exit_code, done.stderr) == (1, "pointsman: no decision about request 'x/y'\n")


def test_the_beginning_of_an_id_will_do() -> None:
    """As the table shows it, where it begins one id alone."""
    answers = {
        "GET /v1/decisions/6f1c8a04": problem(404, "no decision about request '6f1c8a04'"),
        "GET /v1/decisions/6f": problem(404, "no decision about request '6f'"),
        f"GET /v1/decisions/{DECISION['id']}": DECISION,
        "GET /v1/decisions": {"decisions": [DECISION, REFUSED | {"id": "6fff"}]},
    }
    with telling_admin(answers) as admin:
        assert DECISION["id"] in pointsman("decisions", "6f1c8a04", "--admin", admin.url).stdout
        ambiguous = pointsman("decisions", "6f", "--admin", admin.url)
        assert (ambiguous.exit_code, ambiguous.stdout) == (1, "")
