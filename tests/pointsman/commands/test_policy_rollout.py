"""`pointsman policy rollout`: a policy for a share of new sessions."""

from __future__ import annotations

from typing import Any

import pytest
from drawn import assert_fits, drawn, pointsman
from shown_things import NOW
from telling_admin import Told, telling_admin

from pointsman.commands.policy_rollout import rollout_shown, shares
from pointsman.errors import StartError


def arm(requests: int, errors: int, p50: float | None) -> dict[str, Any]:
    return {
        "requests": requests,
        "errors": errors,
        "error_share": errors / max(1, requests),
        "refused": 0,
        "measured": requests,
        "ttft_ms": None if p50 is None else {"p50": p50, "p95": 4 * p50},
    }


ROLLOUT: dict[str, Any] = {
    "state": "running",
    "document": {"policy": "kv_cost", "tie_ms": 8},
    "revision": 18,
    "author": "ops",
    "why": "longer prompts",
    "started_at": "2026-11-30T11:52:31Z",
    "steps": [0.1, 0.5],
    "step": 1,
    "share": 0.1,
    "step_s": 300.0,
    "step_age_s": 42.0,
    "bounds": {"error_share": 0.02, "ttft_ratio": 1.2},
    "min_requests": 100,
    "waits_for": "58 more requests under the document",
    "live": arm(4_012, 3, 61.0),
    "candidate": arm(42, 0, 58.0),
    "ttft_ratio": 0.951,
    "not_compared": 9_001,
    "warnings": [],
}


def test_both_policies_stand_side_by_side() -> None:
    """With the step, and what is missing for a verdict."""
    text = drawn(rollout_shown(ROLLOUT, NOW))
    assert_fits(text)
    assert text.startswith("kv_cost  running, begun 12 min ago, by ops: longer prompts\n")
    assert "step 1 of 2 (10.0 %, 50.0 %): 10.0 % of new sessions for 42 s of 5 min at least\n" in text
    assert "waits for 58 more requests" in text and "typical TTFT is 0.95 x that of the live policy" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["live", "4,012", "3", "(0.1", "%)", "0", "61", "ms", "244", "ms"] in rows
    assert ["rolled", "out", "42", "0", "(0", "%)", "0", "58", "ms", "232", "ms"] in rows


def test_nothing_is_compared_before_requests_ended() -> None:
    """A rollout that has just begun."""
    fresh = ROLLOUT | {"live": arm(0, 0, None), "candidate": arm(0, 0, None), "ttft_ratio": None, "not_compared": 0}
    assert "typical" not in drawn(rollout_shown(fresh, NOW))


@pytest.mark.parametrize(("state", "code"), [("running", 0), ("promoted", 0), ("aborted", 0), ("returned", 1)])
def test_the_exit_code_says_whether_the_policy_was_worse(state: str, code: int) -> None:
    """With the reason."""
    ended = {} if code == 0 else {"ended": "TTFT was 1.4 x that of the live policy"}
    with telling_admin({"GET /v1/policy/rollout": ROLLOUT | {"state": state} | ended}) as admin:
        done = pointsman("policy", "rollout", "--admin", admin.url)
    assert done.exit_code == code and ("! ended: TTFT was 1.4 x" in done.stdout) == bool(code)


def test_a_rollout_is_begun_and_ended() -> None:
    """What is not given is left to the router."""
    answers = {"POST /v1/policy/rollout": Told(ROLLOUT, 201), "DELETE /v1/policy/rollout": Told(None, 204)}
    with telling_admin(answers) as admin:
        where = ("--admin", admin.url)
        words = ("random", "--steps", "10%,50%", "--ttft-ratio", "1.5", "--min-requests", "20", "--if-match", '"7"')
        assert pointsman("policy", "rollout", *words, *where).exit_code == 0
        begun = admin.asked[-1]
        assert begun.headers["if-match"] == '"7"' and begun.body == {
            "document": {"policy": "random"},
            "steps": [0.1, 0.5],
            "bounds": {"ttft_ratio": 1.5},
            "min_requests": 20,
            "why": "",
        }
        assert "ended" in pointsman("policy", "rollout", "--stop", *where).stdout
        assert pointsman("policy", "rollout", "random", "--stop", *where).exit_code == 2


def test_shares_are_percentages_or_parts_of_one() -> None:
    """Something else is one sentence."""
    assert shares("10%, 50 %,1") == [0.1, 0.5, 1.0]
    with pytest.raises(StartError, match=r"--steps: a lot"):
        shares("a lot")
