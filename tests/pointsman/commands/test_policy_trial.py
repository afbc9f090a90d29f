"""`pointsman policy dry-run`: what a policy would have decided, in numbers a person can weigh."""

from __future__ import annotations

from pathlib import Path

from drawn import assert_fits, drawn, pointsman
from golden import assert_golden
from shown_things import TRIED, compared
from telling_admin import problem, telling_admin

from pointsman.commands.policy_trial import dry_run_shown

GOLDEN = Path(__file__).parent / "golden"


def test_the_comparison_is_in_all_by_reason_and_by_move() -> None:
    """And says what it cannot say."""
    text = drawn(dry_run_shown(TRIED))
    assert_golden(GOLDEN / "dry-run.txt", text)
    assert_fits(text)


def test_nothing_judged_is_no_division_by_zero() -> None:
    """A router without decisions."""
    nothing = compared(0, 0, 0.0, 0.0, tied=0) | {"moves": [], "moves_left_out": 0, "by_reason": {}}
    text = drawn(dry_run_shown(TRIED | {"looked_at": 0, "result": nothing, "unjudged": {}, "notes": []}))
    assert "0 %, 0 requests" in text and "0 ms instead of 0 ms" in text


def test_a_policy_that_fails_says_how() -> None:
    """Its exception, as the router met it."""
    assert "! the policy failed: KeyError: 'x'" in drawn(dry_run_shown(TRIED | {"error": "KeyError: 'x'"}))


def test_the_document_and_the_choice_of_requests_are_sent() -> None:
    """Filters that are empty are left out."""
    with telling_admin({"POST /v1/policy/dry-run": TRIED}) as admin:
        assert (
            pointsman("policy", "dry-run", "least_load", "-n", "50", "--model", "m", "--admin", admin.url).exit_code
            == 0
        )
        assert admin.asked[0].body == {"document": {"policy": "least_load"}, "last": 50, "model": "m"}


def test_a_document_that_is_refused_is_exit_code_1() -> None:
    """The key that is wrong is in the sentence."""
    refusal = problem(422, "document.tie: unknown key (did you mean 'tie_ms'?)")
    with telling_admin({"POST /v1/policy/dry-run": refusal}) as admin:
        done = pointsman("policy", "dry-run", '{"policy": "kv_cost", "tie": 1}', "--admin", admin.url)
        assert done.exit_code == 1 and "document.tie" in done.stderr
