"""`pointsman policy dry-run`: what a policy would have decided, in numbers a person can weigh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drawn import assert_fits, drawn, pointsman
from golden import assert_golden
from telling_admin import problem, telling_admin

from pointsman.commands.policy_trial import dry_run_shown

GOLDEN = Path(__file__).parent / "golden"


def compared(judged: int, moved: int, made: float, other: float, **about: Any) -> dict[str, Any]:
    return {
        "judged": judged,
        "moved": moved,
        "moved_share": moved / max(1, judged),
        "tied": 3,
        "predicted": judged,
        "regret_ms": {"sum": judged * (made - other), "per_request": made - other},
        "cached_tokens": {"sum": -judged * 120, "per_request": -120.0},
        "ttft_ms": {"made": made, "candidate": other},
    } | about


TRIED: dict[str, Any] = {
    "document": {"policy": "least_load"},
    "looked_at": 1_000,
    "result": compared(980, 412, 58.1, 96.4)
    | {
        "moves": [{"from": "chat-1", "to": f"a-replica-with-a-long-name-{at}", "requests": 40 - at} for at in range(9)],
        "moves_left_out": 88,
        "by_reason": {"kv-home": compared(900, 400, 41.0, 95.0), "kv-cold": compared(80, 12, 250.0, 112.0)},
    },
    "unjudged": {"no-candidates": 20},
    "missing_signals": [],
    "partial": 0,
    "measured_ttft_ms": 61.2,
    "notes": ["The fleet is as the live policy made it: a policy that had been live would have filled other caches."],
}


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
